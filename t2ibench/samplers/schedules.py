"""Noise schedules: pure functions from a number of timesteps to abar, the signal's variance.

x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, t = 0 .. T - 1, abar falling.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from t2ibench.core.errors import ConfigError

ScheduleName = Literal["linear", "scaled_linear", "cosine"]
AlphasBar = Float[Tensor, " T"]


def linear_schedule(timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> AlphasBar:
    """abar_t = prod_{s <= t} (1 - beta_s), beta linear from ``beta_start`` to ``beta_end``.

    Source: Ho et al. 2020 (DDPM), section 4.
    Differs: none.
    """
    betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
    return torch.cumprod(1 - betas, 0)


def scaled_linear_schedule(
    timesteps: int, beta_start: float = 0.00085, beta_end: float = 0.012
) -> AlphasBar:
    """As ``linear_schedule`` with sqrt(beta) linear.

    Source: Rombach et al. 2022 (LDM), the schedule of its text-to-image models.
    Differs: none.
    """
    roots = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64)
    return torch.cumprod(1 - roots.square(), 0)


def cosine_schedule(timesteps: int, s: float = 0.008, max_beta: float = 0.999) -> AlphasBar:
    """abar(u) = cos^2((u + s) / (1 + s) pi / 2), u = t / T, each beta at most ``max_beta``.

    Source: Nichol and Dhariwal 2021 (Improved DDPM), eq. 17.
    Differs: none.
    """
    u = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    bar = torch.cos((u + s) / (1 + s) * math.pi / 2).square()
    betas = (1 - bar[1:] / bar[:-1]).clamp(max=max_beta)
    return torch.cumprod(1 - betas, 0)


def make_schedule(name: str, timesteps: int) -> AlphasBar:
    """The schedule named by a ``ScheduleName``, in float64.

    Raises:
        ConfigError: the name is unknown.

    Source: see each schedule.
    Differs: none.
    """
    makers = {
        "linear": linear_schedule,
        "scaled_linear": scaled_linear_schedule,
        "cosine": cosine_schedule,
    }
    if name not in makers:
        raise ConfigError(
            f"schedule={name} is unknown; choose {', '.join(get_args(ScheduleName))}."
        )
    return makers[name](timesteps)


def trailing_timesteps(timesteps: int, num_steps: int) -> Int[Tensor, " S"]:
    """``num_steps`` times from T - 1 downwards, evenly spaced, the last above zero.

    Source: Lin et al. 2024 (Common diffusion noise schedules are flawed), section 3.3.
    Differs: none.
    """
    steps = torch.arange(timesteps, 0, -timesteps / num_steps, dtype=torch.float64)
    return steps.round().long()[:num_steps] - 1
