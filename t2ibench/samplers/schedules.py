"""Noise schedules: pure functions of their arguments, in float64.

x_t = alpha_t x_0 + sigma_t eps at t = 0 .. T - 1, noisier as t grows. Variance-preserving
diffusion has alpha^2 + sigma^2 = 1 and is given by abar = alpha^2; rectified flow has
alpha + sigma = 1. SNR = alpha^2 / sigma^2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from t2ibench.core.errors import ConfigError

ScheduleName = Literal["linear", "scaled_linear", "cosine", "rectified_flow"]
AlphasBar = Float[Tensor, " T"]


@dataclass(frozen=True)
class Schedule:
    """The noise levels that a network is trained at.

    Attributes:
        alpha: (T,) float64, of the image.
        sigma: (T,) float64, of the noise.
        times: (T,) float64, the network's time input: t, or T sigma in rectified flow.
    """

    alpha: Float[Tensor, " T"]
    sigma: Float[Tensor, " T"]
    times: Float[Tensor, " T"]

    def __len__(self) -> int:
        return len(self.alpha)

    @property
    def ends_in_pure_noise(self) -> bool:
        """True where nothing of the image is left at T - 1."""
        return float(self.alpha[-1]) == 0


def linear_schedule(timesteps: int, beta_start: float, beta_end: float) -> AlphasBar:
    """Linear schedule abar_t = prod_{s <= t} (1 - beta_s), beta evenly from start to end.

    Source: Ho et al. 2020 (DDPM), section 4 (1e-4 to 0.02 in 1000 steps).
    Differs: none.

    Example:
        >>> bar = linear_schedule(1000, 1e-4, 0.02)
        >>> round(float(bar[0]), 6), round(float(bar[-1]), 6)
        (0.9999, 4e-05)
    """
    betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
    return torch.cumprod(1 - betas, 0)


def scaled_linear_schedule(timesteps: int, beta_start: float, beta_end: float) -> AlphasBar:
    """Linear schedule of sqrt(beta): ``linear_schedule`` with the roots evenly spaced.

    Source: Rombach et al. 2022 (LDM), its published configurations: 0.00085 to 0.012 for
        text-to-image and Stable Diffusion, 0.0015 to 0.0195 otherwise; called linear there.
    Differs: none.
    """
    roots = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64)
    return torch.cumprod(1 - roots.square(), 0)


def cosine_schedule(timesteps: int, s: float = 0.008, max_beta: float = 0.999) -> AlphasBar:
    """Cosine schedule abar(u) = cos^2((u + s) / (1 + s) pi / 2), u = t / T, beta <= ``max_beta``.

    Source: Nichol and Dhariwal 2021 (Improved DDPM), eq. 17.
    Differs: none.
    """
    u = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    bar = torch.cos((u + s) / (1 + s) * math.pi / 2).square()
    betas = (1 - bar[1:] / bar[:-1]).clamp(max=max_beta)
    return torch.cumprod(1 - betas, 0)


def rectified_flow_schedule(timesteps: int) -> Float[Tensor, " T"]:
    """Rectified flow: sigma = 1 / T, 2 / T .. 1, the flow time itself; alpha = 1 - sigma.

    Time runs from the image at 0 to pure noise at 1.

    Source: Liu et al. 2023 (Rectified flow), eq. 1; time and its T values as in Esser et al.
        2024 (Stable Diffusion 3).
    Differs: none.
    """
    return torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps


def shift_alphas_bar(alphas_bar: AlphasBar, shift: float) -> AlphasBar:
    """Lowers the log SNR by 2 log(``shift``): abar' = abar / (abar + shift^2 (1 - abar)).

    Source: Hoogeboom et al. 2023 (Simple diffusion), section 2.1, where shift is the resolution
        over that of the schedule (64).
    Differs: of any schedule, at its T values.
    """
    return alphas_bar / (alphas_bar + shift**2 * (1 - alphas_bar))


def shift_flow(sigma: Float[Tensor, " T"], shift: float) -> Float[Tensor, " T"]:
    """Lowers the log SNR by 2 log(``shift``): t' = shift t / (1 + (shift - 1) t).

    Source: Esser et al. 2024 (Stable Diffusion 3), eq. 23.
    Differs: none.

    Example:
        >>> shift_flow(torch.tensor([0.0, 0.5, 1.0]), shift=3.0).tolist()
        [0.0, 0.75, 1.0]
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def zero_terminal_snr(alphas_bar: AlphasBar) -> AlphasBar:
    """Shifts and scales sqrt(abar) so that its last value is 0 and its first stays.

    Source: Lin et al. 2024 (Common diffusion noise schedules are flawed), algorithm 1.
    Differs: none.

    Example:
        >>> bar = linear_schedule(1000, 1e-4, 0.02)
        >>> float(zero_terminal_snr(bar)[-1])
        0.0
    """
    alpha = alphas_bar.sqrt()
    first, last = alpha[0], alpha[-1]
    return ((alpha - last) * first / (first - last)).square()


def make_schedule(
    name: str,
    timesteps: int,
    *,
    betas: Sequence[float] | None = None,
    shift: float = 1.0,
    zero_terminal: bool = False,
) -> Schedule:
    """The schedule named by a ``ScheduleName``.

    Args:
        name: which.
        timesteps: T, at least 2.
        betas: the first and the last beta of ``linear`` and ``scaled_linear``; None otherwise.
        shift: see ``shift_alphas_bar`` and ``shift_flow``; 1 is none, more is noisier.
        zero_terminal: see ``zero_terminal_snr``.

    Raises:
        ConfigError: the name is unknown, or an argument is missing, out of its range, or not
            one of this schedule.

    Source: see each schedule.
    Differs: none.
    """
    if name not in get_args(ScheduleName):
        raise ConfigError(
            f"process.schedule={name} is unknown; choose {', '.join(get_args(ScheduleName))}."
        )
    if timesteps < 2:
        raise ConfigError(f"process.timesteps={timesteps} must be at least 2; 1000 is usual.")
    if not shift > 0:
        raise ConfigError(f"process.shift={shift} must be above 0; 1 is no shift.")
    _check_betas(name, betas)
    # On the CPU also where the network is built elsewhere: solvers read the values.
    with torch.device("cpu"):
        steps = torch.arange(timesteps, dtype=torch.float64)
        if name == "rectified_flow":
            if zero_terminal:
                raise ConfigError(
                    "process.zero_terminal_snr=true is for the other schedules; rectified_flow "
                    "ends in pure noise already: leave it false."
                )
            sigma = shift_flow(rectified_flow_schedule(timesteps), shift)
            return Schedule(1 - sigma, sigma, timesteps * sigma)
        if betas is None:
            bars = cosine_schedule(timesteps)
        else:
            maker = linear_schedule if name == "linear" else scaled_linear_schedule
            bars = maker(timesteps, *betas)
        bars = shift_alphas_bar(bars, shift)
        if zero_terminal:
            bars = zero_terminal_snr(bars)
        return Schedule(bars.sqrt(), (1 - bars).sqrt(), steps)


def _check_betas(name: str, betas: Sequence[float] | None) -> None:
    wanted = name in ("linear", "scaled_linear")
    if betas is None and wanted:
        raise ConfigError(
            f"process.schedule={name} needs process.betas, its first and last beta, for example "
            "[0.0001, 0.02] (linear) or [0.00085, 0.012] (scaled_linear)."
        )
    if betas is None:
        return
    if not wanted:
        raise ConfigError(f"process.betas={list(betas)} has no use with schedule={name}; drop it.")
    if len(betas) != 2 or not 0 < betas[0] <= betas[1] < 1:
        raise ConfigError(
            f"process.betas={list(betas)} must be two numbers, 0 < first <= last < 1."
        )
