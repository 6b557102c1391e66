"""Enlarging an image in tiles, so that memory does not grow with it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def tiled(
    enlarge: Callable[[Tensor], Tensor],
    low: Float[Tensor, "B C h w"],
    *,
    upscale: int,
    tile: int,
    halo: int,
) -> Float[Tensor, "B C2 H W"]:
    """Output of ``enlarge`` for a whole image, computed in tiles that overlap.

    Each tile is enlarged with a border of ``halo`` pixels of the image, which is then cut off; at
    the image's own edge there is none, so that ``enlarge`` sees the edge where it is. Where an
    output pixel depends on no input farther than ``halo``, tiles give what the whole image gives.

    Args:
        enlarge: maps (B, C, a, b) to (B, C2, upscale a, upscale b).
        low: the image.
        upscale: factor by which each side grows.
        tile: side of a tile in pixels of ``low``; an image of at most this size is one tile.
        halo: width of the border in pixels of ``low``.

    Source: Ronneberger et al. 2015 (U-Net), section 3 (overlap-tile strategy).
    Differs: the image's edge is not mirrored.
    """
    height, width = low.shape[-2:]
    if max(height, width) <= tile:
        return enlarge(low)
    whole: Tensor | None = None
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            above, before = max(top - halo, 0), max(left - halo, 0)
            piece = enlarge(low[..., above : bottom + halo, before : right + halo])
            if whole is None:
                size = (len(low), piece.shape[1], upscale * height, upscale * width)
                whole = torch.empty(size, dtype=piece.dtype, device=piece.device)
            rows = slice(upscale * (top - above), upscale * (bottom - above))
            columns = slice(upscale * (left - before), upscale * (right - before))
            place = whole[..., upscale * top : upscale * bottom, upscale * left : upscale * right]
            place.copy_(piece[..., rows, columns])
    assert whole is not None
    return whole
