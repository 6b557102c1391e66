"""Reconstruction quality of a first stage: the ceiling of every model on top of it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from t2ibench.core.types import Images

PIXEL_RANGE = 2.0
"""Range of images, which span [-1, 1]."""


def l1_error(images: Images, reconstructions: Images) -> Float[Tensor, ""]:
    """Mean absolute error, in units of the [-1, 1] scale (0 to 2)."""
    return (images - reconstructions).abs().mean()


def psnr(images: Images, reconstructions: Images) -> Float[Tensor, ""]:
    """PSNR, mean over images of 10 log10(range^2 / MSE) in decibels; reconstructions are clamped.

    An image that is kept exactly counts as 100 dB.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        reconstructions: the same shape.

    Source: ITU-T J.340 (2010), section 6, with the peak of the [-1, 1] scale.
    Differs: none.

    Example:
        >>> black = torch.full((1, 3, 8, 8), -1.0)
        >>> psnr(black, black).item(), round(psnr(black, black + 0.2).item(), 4)
        (100.0, 20.0)
    """
    error = (images - reconstructions.clamp(-1, 1)).square().flatten(1).mean(1)
    decibels = 10 * torch.log10(PIXEL_RANGE**2 / error.clamp(min=1e-12))
    return decibels.clamp(max=100.0).mean()


def ssim(images: Images, reconstructions: Images) -> Float[Tensor, ""]:
    """Mean structural similarity, at most 1; reconstructions are clamped.

    Args:
        images: (B, 3, H, W) in [-1, 1], sides of at least 6 pixels.
        reconstructions: the same shape.

    Source: Wang et al. 2004 (SSIM), eq. 13, with a Gaussian window of 11 pixels, sigma 1.5.
    Differs: three colour channels, where the paper has luminance.
    """
    similarity = structural_similarity_index_measure(
        reconstructions.clamp(-1, 1), images, data_range=PIXEL_RANGE
    )
    assert isinstance(similarity, Tensor)
    return similarity


def reconstruction_scores(images: Images, reconstructions: Images) -> dict[str, float]:
    """PSNR in decibels, SSIM and mean absolute error of a set of images.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        reconstructions: the same shape.
    """
    scores = {"psnr": psnr, "ssim": ssim, "l1": l1_error}
    return {name: score(images, reconstructions).item() for name, score in scores.items()}
