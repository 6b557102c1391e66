"""Randomness of generation: what a sampler may draw, and who draws it.

A sample is a function of (weights, prompt, seed, knobs): never of the batch size, its
position in the batch, the number of devices or a resume. Samplers therefore never call
``torch.randn``; they ask a ``Noise``. Two kinds exist:

* ``SeededNoise``: each sample draws from its own seed; every image that a user sees.
* ``TrainingNoise``: a training step draws for the whole batch, for a stage that learns from
  samples of the stage below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from t2ibench.core.hashing import derive_seed
from t2ibench.core.ranks import own_rows


@runtime_checkable
class Noise(Protocol):
    """A batch of independent random streams, one a sample.

    Each call draws the next numbers of every stream.

    Attributes:
        device: where the draws are returned.
    """

    device: torch.device

    def __len__(self) -> int: ...

    def normal(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Standard normal draws of shape (B, *shape)."""
        ...

    def uniform(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Uniform draws in [0, 1) of shape (B, *shape)."""
        ...


class SeededNoise:
    """Streams with a seed a sample.

    Two objects made from the same seeds give the same numbers in the same order of calls. Draws
    are made on the CPU and moved, so that a GPU gives the same images as a CPU.

    Args:
        seeds: one integer seed a sample.
        device: where the draws are returned.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.seeds = [int(seed) for seed in seeds]
        self.device = torch.device(device)
        self._streams = [torch.Generator().manual_seed(derive_seed("noise", s)) for s in self.seeds]

    def __len__(self) -> int:
        return len(self.seeds)

    def normal(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Standard normal draws of shape (B, *shape)."""
        draws = [torch.randn(shape, generator=stream) for stream in self._streams]
        return torch.stack(draws).to(self.device)

    def uniform(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Uniform draws in [0, 1) of shape (B, *shape)."""
        draws = [torch.rand(shape, generator=stream) for stream in self._streams]
        return torch.stack(draws).to(self.device)


class TrainingNoise:
    """Draws of a training step, by torch's global generator, which each step seeds.

    On several ranks the draws are those of the whole batch, and each rank keeps its own rows.

    Args:
        count: B, samples of this rank.
        device: where the draws are made.
    """

    def __init__(self, count: int, device: torch.device | str = "cpu") -> None:
        self.count = count
        self.device = torch.device(device)

    def __len__(self) -> int:
        return self.count

    def normal(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Standard normal draws of shape (B, *shape)."""
        return own_rows(lambda n: torch.randn(n, *shape, device=self.device), self.count)

    def uniform(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Uniform draws in [0, 1) of shape (B, *shape)."""
        return own_rows(lambda n: torch.rand(n, *shape, device=self.device), self.count)


def sample_seeds(keys: Sequence[str], seed: int) -> list[int]:
    """One seed for each sample from its prompt key and the sampling seed.

    The seed belongs to the prompt, so image i is the same in any order and any shard.
    """
    return [derive_seed("sample", seed, key) for key in keys]
