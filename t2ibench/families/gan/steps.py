"""A player's step over the parts of a batch, and what is logged of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from t2ibench.core.errors import ConfigError
from t2ibench.core.shards import gather
from t2ibench.core.types import Batch
from t2ibench.families.contract import TextToImageModule


def check_accumulation(size: int, count: int, least: int = 2) -> None:
    """Refuses a batch that ``count`` parts do not share, or whose parts are too small.

    Args:
        size: images of a process's batch.
        count: parts whose gradients are accumulated.
        least: images of a part.

    Raises:
        ConfigError: they would not be of equal size, or of fewer than ``least`` images.
    """
    if size % count or size // count < least:
        raise ConfigError(
            f"model.module.accumulation={count} splits a batch of {size} images into parts "
            f"of {size / count:g}; choose a divisor that leaves at least {least}"
            f"{', or a larger model.training.batch_size' if size // count < least else ''}."
        )


def parts_of(batch: Batch, count: int) -> list[Batch]:
    """A batch in ``count`` parts of equal size, over which gradients are accumulated.

    Raises:
        ConfigError: see ``check_accumulation``.
    """
    if count == 1:
        return [batch]
    check_accumulation(len(batch), count)
    size = len(batch) // count
    return [batch.rows(slice(i * size, (i + 1) * size)) for i in range(count)]


class Step:
    """One optimiser step of one player; its losses are made and differentiated part by part.

    Args:
        module: the family's module.
        optimizer: steps ``parameters``.
        parameters: the player's.
    """

    def __init__(
        self, module: TextToImageModule, optimizer: Any, parameters: Sequence[nn.Parameter]
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.parameters = parameters
        self.logs: list[Mapping[str, Tensor]] = []

    def take(
        self, losses: Iterable[tuple[Tensor, Mapping[str, Tensor]]], count: int
    ) -> dict[str, Tensor]:
        """Performs the step.

        Args:
            losses: of each part its mean loss and what is logged of it.
            count: number of parts.

        Returns:
            Means of what is logged over the parts, detached, and ``gradient_norm`` before
            clipping, 0 for a step that 16-mixed skips: one is no training that failed.
        """
        norm = self.module.optimise(self.optimizer, self._shares(losses, count), self.parameters)
        if self.module.loss_scaler is not None:
            norm = norm.where(norm.isfinite(), torch.zeros_like(norm))
        names = self.logs[0]
        found = {n: torch.stack([log[n].detach().float() for log in self.logs]) for n in names}
        return {n: values.mean() for n, values in found.items()} | {"gradient_norm": norm.detach()}

    def _shares(
        self, losses: Iterable[tuple[Tensor, Mapping[str, Tensor]]], count: int
    ) -> Iterator[Tensor]:
        parts = iter(losses)
        for _ in range(count):
            gather(self.module)
            loss, logs = next(parts)
            self.logs.append(logs)
            yield loss / count


def named(prefix: str, logs: Mapping[str, Tensor], plain: Sequence[str] = ()) -> dict[str, Tensor]:
    """Logs with a player's prefix, but for those whose names are ``plain``."""
    return {name if name in plain else f"{prefix}_{name}": value for name, value in logs.items()}
