"""Edits of masked transformers: known codes, and canvases larger than the training grid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import Noise
from t2ibench.samplers.masked import MASKED, random_masks


def grid_of(size: tuple[int, int], factor: int, side: int) -> tuple[int, int]:
    """Rows and columns of codes of an image of ``size`` pixels.

    Args:
        size: height and width in pixels.
        factor: pixels a code spans along each side.
        side: rows and columns of the training grid, the least that can be written.

    Raises:
        ConfigError: a side is no multiple of ``factor``, or is below the training resolution.
    """
    least = side * factor
    if min(size) < least or size[0] % factor or size[1] % factor:
        near = tuple(max(least, round(given / factor) * factor) for given in size)
        raise ConfigError(
            f"size={size[0]}x{size[1]}: this model's sides are multiples of {factor} from {least} "
            f"on; {near[0]}x{near[1]} is near."
        )
    return size[0] // factor, size[1] // factor


def painted_codes(mask: Bool[Tensor, "B 1 H W"], grid: tuple[int, int]) -> Bool[Tensor, "B N"]:
    """Codes that are drawn anew: those of which any pixel is painted, in raster order."""
    return adaptive_max_pool2d(mask.float(), grid).flatten(1) > 0


def forgotten_codes(noise: Noise, count: int, strength: float) -> Bool[Tensor, "B N"]:
    """Codes that img2img draws anew: ceil(strength N) of each image, at random.

    At strength 1, which needs no choice, nothing is drawn from ``noise``.

    Source: Chang et al. 2023 (Muse), section 3.3 (mask-free editing).
    Differs: one random set is drawn anew by the usual steps; Muse draws small sets again and again.
    """
    if strength == 1:
        return torch.ones(len(noise), count, dtype=torch.bool, device=noise.device)
    uniform = noise.uniform(count)
    return random_masks(uniform.new_full((len(noise),), strength), uniform)


def window_places(grid: tuple[int, int], side: int) -> Int[Tensor, "K N"]:
    """Codes of each square window over a grid, windows half a side apart, all in raster order."""

    def starts(length: int) -> list[int]:
        return sorted({*range(0, length - side, max(1, side // 2)), length - side})

    inside = torch.arange(side)
    square = (inside[:, None] * grid[1] + inside[None]).flatten()
    corners = [i * grid[1] + j for i in starts(grid[0]) for j in starts(grid[1])]
    return torch.tensor(corners)[:, None] + square


def fill_in_windows(
    codes: Int[Tensor, "B N"],
    grid: tuple[int, int],
    side: int,
    fill: Callable[[Int[Tensor, "B M"]], Int[Tensor, "B M"]],
) -> Int[Tensor, "B N"]:
    """Draws the masked codes of a canvas window by window, those that know most first.

    Each image takes the window with the fewest masked codes that has any, the first in raster order
    of equal ones, until none is masked; which windows these are depends on its own codes alone.

    Args:
        codes: (B, N) in raster order, ``MASKED`` where a code is drawn.
        grid: rows and columns, at least ``side`` each.
        side: rows and columns of a window.
        fill: draws the masked codes of one window each.

    Source: Chang et al. 2022 (MaskGIT), section 4.3 (outpainting by a sliding window that overlaps
        by half).
    Differs: the order of windows, for canvases that grow on any side.
    """
    places = window_places(grid, side).to(codes.device)
    order = torch.arange(len(places), device=codes.device)
    while (codes == MASKED).any():
        unknown = (codes == MASKED)[:, places].sum(-1)
        rank = torch.where(unknown > 0, unknown, places.shape[1] + 1) * len(places) + order
        chosen = places[rank.argmin(1)]
        codes = codes.scatter(1, chosen, fill(codes.gather(1, chosen)))
    return codes
