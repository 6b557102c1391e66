"""Embeddings of time and position."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def timestep_embedding(
    timesteps: Float[Tensor, " B"], width: int, max_period: float = 10_000.0
) -> Float[Tensor, "B D"]:
    """Sinusoidal embedding [cos(t w_i), sin(t w_i)] with w_i = max_period^(-i / (D/2)).

    Args:
        timesteps: (B,) any real times; published models use 0..T-1.
        width: D, even.
        max_period: the slowest period over 2 pi.

    Source: Ho et al. 2020 (DDPM) appendix B, after Vaswani et al. 2017 section 3.5.
    Differs: cosines first, the order of ADM and LDM.

    Example:
        >>> timestep_embedding(torch.tensor([0.0]), 4).tolist()
        [[1.0, 1.0, 0.0, 0.0]]
    """
    half = width // 2
    exponent = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.float()[:, None] * torch.exp(-math.log(max_period) * exponent)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
