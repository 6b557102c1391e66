"""The one conversion between stored pixels and network images."""

from __future__ import annotations

import torch

from t2ibench.core.types import Images, PixelImages


def to_pixels(images: Images) -> PixelImages:
    """Converts [-1, 1] to 0..255: clamp, scale, round to nearest, once, before every metric.

    Args:
        images: (B, 3, H, W) float; values outside [-1, 1] are clamped.

    Returns:
        (B, 3, H, W) uint8.

    Example:
        >>> to_pixels(torch.tensor([-1.0, 0.0, 1.0, 7.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2))[0, 0]
        tensor([[  0, 128],
                [255, 255]], dtype=torch.uint8)
    """
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_pixels(pixels: PixelImages, dtype: torch.dtype = torch.float32) -> Images:
    """Converts 0..255 to [-1, 1]; ``to_pixels(from_pixels(x)) == x`` for every uint8 x."""
    return pixels.to(dtype) / 127.5 - 1
