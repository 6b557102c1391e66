"""The protocol of a part: something that a model stands on and does not train itself.

A part is a mapping under ``parts`` in the configuration whose ``_target_`` is a subclass of
``Part``; its name there is the argument under which the model's module takes it. The text encoder
is one as well, under ``text``. Training loops over the parts; a new kind is a new file here or in a
plugin.
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
        module: what the model is given, on the context's device.
        flops: what its training cost.
        seconds: likewise.
        facts: for the run's manifest.
    """

    module: nn.Module
    flops: float = 0.0
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


class Part(Settings, ABC):
    """A part of a run.

    Attributes:
        name: as typed by the user, for example ``kl_f2`` of ``autoencoder=kl_f2``.
        weights_in_model: whether the model's state dict holds its weights or statistics, so that
            a run that begins with another's weights takes the part from there.
    """

    weights_in_model: ClassVar[bool] = False

    name: Annotated[str, Neither]

    @abstractmethod
    def identity(self, context: Context) -> dict[str, Any]:
        """What of it changes the trained weights, by content; nothing is trained for it.

        Raises:
            T2IBenchError: what it points to is not there.
        """

    def check(self, context: Context) -> None:
        """Refuses what can be known to be impossible, before any work; nothing by default.

        Raises:
            ConfigError: see the part.
        """

    def resolved(self, context: Context) -> Part:
        """The part as the run's configuration keeps it: runs that it names by their hashes."""
        return self

    @abstractmethod
    def prepare(self, context: Context, run: Run) -> Prepared:
        """The part for a run that begins or goes on: trained now, found trained, or loaded.

        Args:
            context: of the run; ``context.modules`` holds the parts before this one.
            run: keeps what of the part must travel with it.

        Raises:
            Interrupted: a signal ended its training; the same command resumes it.
        """

    @abstractmethod
    def restore(self, context: Context, run: Run | None) -> nn.Module:
        """The part of a trained run, needing nothing but its folder and what is installed.

        Args:
            context: of the run.
            run: whose weights are loaded afterwards into all that the module's state dict holds;
                None: an untrained part of the same shapes (``t2ibench info``, ``bench``).

        Raises:
            T2IBenchError: the run has lost it, or it is not what it was.
        """

    def runs_below(self, context: Context, run: Run) -> dict[str, Run]:
        """Runs of models that a trained run stands on, by their names in ``folder_of_part``."""
        return {}

    def content(self, module: nn.Module) -> str | None:
        """Fingerprint of what the model's state dict lacks of it; None where it holds all."""
        if not getattr(module, "frozen_networks", {}):
            return None
        return str(getattr(module, "fingerprint", "")) or content_hash(module)

    def given(self, module: nn.Module) -> tuple[str, ...]:
        """What it gives the model beyond captions and images, a phrase each; nothing by default."""
        return ()

    def read_once(self, context: Context, make: Callable[[], nn.Module]) -> Any:
        """What ``make`` reads or makes, at first use in a context."""
        key = hash_json(self.config())
        if key not in context.loaded:
            context.loaded[key] = make()
        return context.loaded[key]

    def config(self) -> dict[str, Any]:
        """The mapping that it was read from."""
        return {TARGET: self.target} | self.model_dump(mode="json")

    @property
    def target(self) -> str:
        """Import path of its class."""
        return f"{type(self).__module__}.{type(self).__qualname__}"

    def effects(self, prefix: str = "") -> Iterator[tuple[str, Effect]]:
        """See ``Settings``."""
        yield f"{prefix}{TARGET}", Trained
        yield from super().effects(prefix)
