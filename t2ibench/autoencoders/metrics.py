"""How well a first stage keeps images: the ceiling of every model on top of it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from t2ibench.core.types import Images

PIXEL_RANGE = 2.0
"""Images span [-1, 1]."""


def l1_error(images: Images, reconstructions: Images) -> Float[Tensor, ""]:
    """Mean absolute error, in units of the [-1, 1] scale (0 to 2)."""
    return (images - reconstructions).abs().mean()


def psnr(images: Images, reconstructions: Images) -> Float[Tensor, ""]:
    """Mean over images of 10 log10(range^2 / MSE) in decibels; reconstructions are clamped.

    An image that is kept exactly counts as 100 dB.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        reconstructions: the same shape.

    Source: ITU-T J.340 (2010), section 6, with the peak of the [-1, 1] scale.
    Differs: none.
    """
    error = (images - reconstructions.clamp(-1, 1)).square().flatten(1).mean(1)
    decibels = 10 * torch.log10(PIXEL_RANGE**2 / error.clamp(min=1e-12))
    return decibels.clamp(max=100.0).mean()
