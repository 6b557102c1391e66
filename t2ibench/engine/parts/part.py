"""Interface of a part: something that a model depends on and does not train itself.

A part is a mapping under ``parts`` in the configuration whose ``_target_`` is a subclass of
``Part``; its name there is the module's argument that takes it. The text encoder is a part as
well, under ``text``. Training loops over the parts; a new kind is a new file here or in a plugin.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from torch import nn

from t2ibench.core.frozen import content_hash
from t2ibench.core.hashing import hash_json
from t2ibench.engine.components import TARGET, Effect
from t2ibench.engine.context import Context
from t2ibench.engine.spec import Neither, Settings, Trained
from t2ibench.runs.folder import Run


@dataclass(frozen=True)
class Prepared:
    """A part that is ready to be used in training.

    Attributes:
        module: network that the model gets, on the context's device.
        flops: FLOPs of its training.
        seconds: seconds of its training.
        facts: entries for the run's manifest.
    """

    module: nn.Module
    flops: float = 0.0
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


class Part(Settings, ABC):
    """A part of a run.

    Attributes:
        name: name as typed by the user, for example ``kl_f2`` of ``autoencoder=kl_f2``.
        weights_in_model: True where the model's state dict holds its weights or statistics, so
            that a run that begins with another's weights takes the part from there.
    """

    weights_in_model: ClassVar[bool] = False

    name: Annotated[str, Neither]

    @abstractmethod
    def identity(self, context: Context) -> dict[str, Any]:
        """Content of the part that changes the trained weights; computed without training.

        Raises:
            T2IBenchError: a file or run that it names is missing.
        """

    def check(self, context: Context) -> None:
        """Refuses impossible settings before any work; does nothing by default.

        Raises:
            ConfigError: a setting of the part does not fit the rest of the specification.
        """

    def resolved(self, context: Context) -> Part:
        """The part as the run's configuration keeps it: with hashes of the runs that it names."""
        return self

    @abstractmethod
    def prepare(self, context: Context, run: Run) -> Prepared:
        """Prepares the part for a run that begins or resumes: trains, finds or loads it.

        Args:
            context: context of the run; ``context.modules`` holds the parts before this one.
            run: the run, which keeps the files of the part that must travel with it.

        Raises:
            Interrupted: a signal ended its training; the same command resumes it.
        """

    @abstractmethod
    def restore(self, context: Context, run: Run | None) -> nn.Module:
        """Restores the part of a trained run from its folder and what is installed.

        Args:
            context: context of the run.
            run: the run; its weights are loaded afterwards into the module's whole state dict.
                None: an untrained part of the same shapes (``t2ibench info``, ``bench``).

        Raises:
            T2IBenchError: the part is missing, or has changed since training.
        """

    def runs_below(self, context: Context, run: Run) -> dict[str, Run]:
        """Runs that a trained run depends on, by their names in ``folder_of_part``."""
        return {}

    def content(self, module: nn.Module) -> str | None:
        """Fingerprint of weights that the model's state dict lacks; None where it has all."""
        if not getattr(module, "frozen_networks", {}):
            return None
        return str(getattr(module, "fingerprint", "")) or content_hash(module)

    def given(self, module: nn.Module) -> tuple[str, ...]:
        """Extra inputs that it gives the model beyond captions and images, a phrase each."""
        return ()

    def read_once(self, context: Context, make: Callable[[], nn.Module]) -> Any:
        """Result of ``make``, called at first use in a context and kept."""
        key = hash_json(self.config())
        if key not in context.loaded:
            context.loaded[key] = make()
        return context.loaded[key]

    def config(self) -> dict[str, Any]:
        """Mapping that the part was read from."""
        return {TARGET: self.target} | self.model_dump(mode="json")

    def recorded(self, context: Context) -> dict[str, Any]:
        """Configuration of the part's own run, of a part that is trained in one."""
        return {"part": self.config(), "data": context.spec.data.model_dump(mode="json")}

    @property
    def target(self) -> str:
        """Import path of the part's class."""
        return f"{type(self).__module__}.{type(self).__qualname__}"

    def effects(self, prefix: str = "") -> Iterator[tuple[str, Effect]]:
        """Configuration keys below the part, its class's included, each with its effect."""
        yield f"{prefix}{TARGET}", Trained
        yield from super().effects(prefix)
