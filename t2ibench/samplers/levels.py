"""The noise levels that a solver visits, the noisiest first.

S steps visit S levels and end at one more: the clean image, or a level that is nearly so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from t2ibench.core.errors import ConfigError
from t2ibench.samplers.schedules import Schedule

Spacing = Literal["uniform", "trailing", "linspace", "karras"]
LastLevel = Literal["image", "first_timestep"]
KARRAS_RHO = 7.0
"""Exponent of the spacing of noise levels (Karras et al. 2022, table 1)."""


@dataclass(frozen=True)
class Levels:
    """Noise levels x_i = alpha_i x_0 + sigma_i eps at i = 0 .. S; a solver evaluates at i < S.

    Attributes:
        timesteps: (S,) float64, the network's time input.
        alpha: (S + 1,) float64, of the image.
        sigma: (S + 1,) float64, of the noise; above 0 but for entry S.
    """

    timesteps: Float[Tensor, " S"]
    alpha: Float[Tensor, " S+1"]
    sigma: Float[Tensor, " S+1"]

    def __len__(self) -> int:
        return len(self.timesteps)

    def last(self, count: int) -> Levels:
        """The ``count`` last steps alone, of at least one."""
        start = len(self) - count
        return Levels(self.timesteps[start:], self.alpha[start:], self.sigma[start:])

    def coefficients(self) -> tuple[list[float], list[float]]:
        """Alpha and sigma as numbers."""
        return self.alpha.tolist(), self.sigma.tolist()

    def half_log_snr(self) -> list[float]:
        """Half log SNR log(alpha_i / sigma_i); infinite at the clean image and in pure noise."""
        return (self.alpha.log() - self.sigma.log()).tolist()


def trailing_timesteps(timesteps: int, num_steps: int) -> Int[Tensor, " S"]:
    """Times from T - 1 downwards, ``num_steps`` of them evenly spaced, the last above zero.

    Source: Lin et al. 2024 (Common diffusion noise schedules are flawed), section 3.3.
    Differs: none.

    Example:
        >>> trailing_timesteps(1000, 4).tolist()
        [999, 749, 499, 249]
    """
    steps = torch.arange(timesteps, 0, -timesteps / num_steps, dtype=torch.float64)
    return steps.round().long()[:num_steps] - 1


def uniform_timesteps(timesteps: int, num_steps: int, offset: int) -> Int[Tensor, " S"]:
    """Times c (S - 1) + offset .. c + offset, offset, with c = floor(T / S).

    Source: Song et al. 2021 (DDIM), appendix D.2 (linear); with an offset of 1 in Rombach et
        al. 2022 (LDM) and Stable Diffusion: 981, 961 .. 21, 1 of 1000 in 50 steps.
    Differs: S steps also where S does not divide T.

    Example:
        >>> uniform_timesteps(1000, 4, offset=1).tolist()
        [751, 501, 251, 1]
    """
    return torch.arange(num_steps - 1, -1, -1) * (timesteps // num_steps) + offset


def linspace_timesteps(timesteps: int, num_steps: int) -> Int[Tensor, " S"]:
    """Times evenly from T - 1 to 0, ``num_steps`` of them, rounded; T - 1 alone for one step.

    Source: Nichol and Dhariwal 2021 (Improved DDPM), section 4.
    Differs: none.
    """
    return torch.linspace(timesteps - 1, 0, num_steps, dtype=torch.float64).round().long()


def karras_ratios(highest: float, lowest: float, num_steps: int) -> Float[Tensor, " S"]:
    """Noise-to-signal ratios, linear in their seventh root from ``highest`` to ``lowest``.

    Source: Karras et al. 2022 (EDM), eq. 5.
    Differs: none.
    """
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    high, low = highest ** (1 / KARRAS_RHO), lowest ** (1 / KARRAS_RHO)
    return (high + ramp * (low - high)) ** KARRAS_RHO


def interpolate_timesteps(ratios: Float[Tensor, " S"], schedule: Schedule) -> Float[Tensor, " S"]:
    """The fractional timesteps at which a schedule has these noise-to-signal ratios.

    Linear in log(sigma / alpha) between the schedule's own.

    Source: Karras et al. 2022 (EDM), appendix C.
    Differs: interpolated, where the paper takes the nearest timestep.
    """
    table = (schedule.sigma / schedule.alpha).log()
    wanted = ratios.log().clamp(float(table[0]), float(table[-1]))
    low = (torch.searchsorted(table, wanted) - 1).clamp(0, len(table) - 2)
    share = (wanted - table[low]) / (table[low + 1] - table[low])
    return schedule.times[low] + share * (schedule.times[low + 1] - schedule.times[low])


def make_levels(
    schedule: Schedule,
    num_steps: int,
    spacing: str,
    *,
    offset: int = 0,
    last_level: str = "image",
) -> Levels:
    """The levels of ``num_steps`` steps through a schedule.

    Args:
        schedule: of T timesteps.
        num_steps: S in 1 .. T.
        spacing: a ``Spacing``.
        offset: added to each timestep of the uniform spacing.
        last_level: where the last step ends: at the clean ``image`` (alpha 1, sigma 0), or at
            the noise of the ``first_timestep``, what DDIM and Stable Diffusion published; the
            little noise that is left is then part of the result.

    Raises:
        ConfigError: a name is unknown, the number of steps or the offset is out of range, or
            the schedule has no such spacing.

    Source: see each spacing.
    Differs: none.
    """
    timesteps = len(schedule)
    if spacing not in get_args(Spacing):
        raise ConfigError(
            f"process.spacing={spacing} is unknown; choose {', '.join(get_args(Spacing))}."
        )
    if last_level not in get_args(LastLevel):
        raise ConfigError(
            f"process.last_level={last_level} is unknown; choose {', '.join(get_args(LastLevel))}."
        )
    if not 1 <= num_steps <= timesteps:
        raise ConfigError(
            f"num_steps={num_steps} must be from 1 to process.timesteps={timesteps}; 20 to 50 "
            "are usual."
        )
    if schedule.ends_in_pure_noise and spacing in ("karras", "uniform"):
        raise ConfigError(
            f"process.spacing={spacing} does not start in pure noise, where rectified_flow and "
            "zero_terminal_snr end; choose trailing or linspace."
        )
    if spacing == "karras":
        times, alpha, sigma = _karras(schedule, num_steps)
    else:
        at = _spaced(timesteps, num_steps, spacing, offset)
        times, alpha, sigma = schedule.times[at], schedule.alpha[at], schedule.sigma[at]
    end_alpha, end_sigma = alpha.new_ones(1), alpha.new_zeros(1)
    if last_level == "first_timestep":
        if float(times[-1] - schedule.times[0]) < 1e-6:
            raise ConfigError(
                f"process.last_level=first_timestep needs steps that stay above timestep 0, and "
                f"the last of {num_steps} with process.spacing={spacing} is there; choose "
                "trailing, uniform with a timestep_offset, or last_level=image."
            )
        end_alpha, end_sigma = schedule.alpha[:1], schedule.sigma[:1]
    return Levels(times, torch.cat([alpha, end_alpha]), torch.cat([sigma, end_sigma]))


def _spaced(timesteps: int, num_steps: int, spacing: str, offset: int) -> Int[Tensor, " S"]:
    if spacing == "trailing":
        return trailing_timesteps(timesteps, num_steps)
    if spacing == "linspace":
        return linspace_timesteps(timesteps, num_steps)
    at = uniform_timesteps(timesteps, num_steps, offset)
    if not 0 <= offset <= int(at[-1]) or int(at[0]) >= timesteps:
        raise ConfigError(
            f"process.timestep_offset={offset} puts the first of {num_steps} uniform steps at "
            f"timestep {int(at[0])} of {timesteps}; take fewer steps or an offset of 0."
        )
    return at


def _karras(schedule: Schedule, num_steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Timesteps, alpha and sigma between the ends of a variance-preserving schedule."""
    ends = (schedule.sigma / schedule.alpha).tolist()
    ratios = karras_ratios(ends[-1], ends[0], num_steps)
    alpha = (1 + ratios.square()).rsqrt()
    return interpolate_timesteps(ratios, schedule), alpha, ratios * alpha
