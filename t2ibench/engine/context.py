"""Shared state of all operations on one run: its specification, data, device and modules."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from t2ibench.core.errors import ConfigError
from t2ibench.data.records import DataSource
from t2ibench.engine.build import instantiate
from t2ibench.engine.device import chosen_device
from t2ibench.runs.folder import Run

if TYPE_CHECKING:
    from t2ibench.engine.spec import RunSpec


@dataclass
class Context:
    """One run that is being made or used.

    Attributes:
        spec: specification of the run.
        device: device of all networks, chosen once.
        modules: the parts made so far, by name.
        loaded: networks of files that parts have read, so that each is read once.
        start: the run that ``spec.start`` names, once it is found; else None.
        example: the specification of a cascade stage's base where none is named; only for shapes.
    """

    spec: RunSpec
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    modules: dict[str, nn.Module] = field(default_factory=dict)
    loaded: dict[str, nn.Module] = field(default_factory=dict)
    start: Run | None = None
    example: RunSpec | None = None

    @staticmethod
    def of(spec: RunSpec) -> Context:
        """The context of a specification on this machine's device."""
        return Context(spec, chosen_device(spec.trainer.accelerator, spec.trainer.devices))

    @cached_property
    def source(self) -> DataSource:
        """The data set, read at first use; sampling needs none.

        Raises:
            T2IBenchError: it is missing or invalid.
        """
        source = instantiate(self.spec.data.source)
        if source.resolution != self.spec.data.resolution:
            raise ConfigError(
                f"data.resolution={self.spec.data.resolution} and the data set has "
                f"{source.resolution} px; set data.resolution alone, its source follows."
            )
        return source

    def below(self, spec: RunSpec) -> Context:
        """The context of a run that this one depends on, on the same device."""
        return Context(spec, self.device)
