"""Classifier-free guidance and remedies against its oversaturation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from t2ibench.core.errors import ConfigError

Predict = Callable[[Tensor, Any], Float[Tensor, "B ..."]]
"""Function (x, t) -> the network's prediction."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance u + w (c - u) within an interval of noise levels, c outside.

    Attributes:
        scale: w; 1 is no guidance and costs half, 0 is unconditional.
        low: guidance acts at noise levels sigma above this.
        high: and up to this; sigma is in (0, 1], sqrt(1 - abar) or the flow time.
        rescale: phi of ``rescale_guided``; 0 is off.

    Raises:
        ConfigError: the interval is empty.

    Source: Ho and Salimans 2022 (classifier-free guidance), eq. 6, with w = 1 + their w;
        Kynkaanniemi et al. 2024 (guidance in a limited interval), section 3.
    Differs: the interval is in sigma at unit variance; the paper's, in sigma / alpha, is
        s = sigma / sqrt(1 - sigma^2).
    """

    scale: float
    low: float = 0.0
    high: float = 1.0
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ConfigError(
                f"guidance_low={self.low} must be below guidance_high={self.high}; 0 and 1 guide "
                "at every noise level."
            )

    def active(self, sigma: float) -> bool:
        """True where a prediction at noise level ``sigma`` needs the unconditional rows."""
        return self.scale != 1 and self.low < sigma <= self.high

    def combine(
        self, conditional: Float[Tensor, "B ..."], unconditional: Float[Tensor, "B ..."]
    ) -> Float[Tensor, "B ..."]:
        """The guided prediction of any kind: eps, v, x_0 and flow are linear in each other."""
        mixed = unconditional + self.scale * (conditional - unconditional)
        return rescale_guided(mixed, conditional, self.rescale) if self.rescale else mixed


def guided(predict: Predict, guidance_scale: float) -> Predict:
    """Guided prediction u + w (c - u), with c and u from one evaluation of 2B rows.

    Args:
        predict: knows the prompts' features: where w is not 1, those of the B prompts followed
            by B unconditional ones, and it is then called with x twice, (2B, ...); at w = 1
            those of the B prompts alone.
        guidance_scale: w; 1 is no guidance and costs half, 0 is unconditional.

    Source: Ho and Salimans 2022 (classifier-free guidance), eq. 6, with w = 1 + their w.
    Differs: none.
    """
    if guidance_scale == 1:
        return predict

    def both(x: Tensor, t: Any) -> Tensor:
        times = torch.cat([t, t]) if isinstance(t, Tensor) else t
        return Guidance(guidance_scale).combine(*predict(torch.cat([x, x]), times).chunk(2))

    return both


def rescale_guided(
    mixed: Float[Tensor, "B ..."], conditional: Float[Tensor, "B ..."], phi: float
) -> Float[Tensor, "B ..."]:
    """Rescales to phi mixed std(c) / std(mixed) + (1 - phi) mixed, deviations of each sample.

    Args:
        mixed: (B, ...) after guidance.
        conditional: (B, ...) c, before it.
        phi: in [0, 1]; the paper's is 0.7.

    Source: Lin et al. 2024 (Common diffusion noise schedules are flawed), section 3.4.
    Differs: none.
    """
    axes = tuple(range(1, mixed.ndim))
    ratio = conditional.std(axes, keepdim=True) / mixed.std(axes, keepdim=True)
    return mixed * (phi * ratio + (1 - phi))


def dynamic_threshold(x0: Float[Tensor, "B ..."], percentile: float) -> Float[Tensor, "B ..."]:
    """Clips to [-s, s] and divides by s, each sample's ``percentile`` of |x_0|, at least 1.

    Args:
        x0: (B, ...) predicted images.
        percentile: in (0, 1]; the paper's is 0.995.

    Source: Saharia et al. 2022 (Imagen), section 2.3 (dynamic thresholding).
    Differs: none.
    """
    size = x0.abs().flatten(1).float()
    s = torch.stack([row.quantile(percentile) for row in size]).clamp(min=1).to(x0.dtype)
    s = s.view(-1, *[1] * (x0.ndim - 1))
    return x0.clamp(-s, s) / s
