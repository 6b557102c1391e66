"""All randomness of sampling, drawn per sample from that sample's own seed.

A sample is a function of (weights, prompt, seed, knobs): never of the batch size, its
position in the batch, the number of devices or a resume. Samplers therefore never call
``torch.randn``; they ask a ``Noise``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from t2ibench.core.hashing import derive_seed


class Noise:
    """A batch of independent random streams, one a sample.

    Each call draws the next numbers of every stream; two ``Noise`` objects made from the
    same seeds give the same numbers in the same order of calls. Draws are made on the CPU
    and moved, so that a GPU gives the same images as a CPU.

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


def sample_seeds(keys: Sequence[str], seed: int) -> list[int]:
    """One seed for each sample from its prompt key and the sampling seed.

    The seed belongs to the prompt, so image i is the same in any order and any shard.
    """
    return [derive_seed("sample", seed, key) for key in keys]
