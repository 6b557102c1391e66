"""The shapes themselves: inside tests in the unit frame, and their anti-aliased masks.

One routine draws the data and cuts the grader's templates, so the grader knows the world's
edges exactly. Only +, -, *, comparisons are used on the sample grid, so a mask is the same on
every platform.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

SUPERSAMPLE = 4
"""Sub-samples a pixel and axis; coverage is a multiple of 1/16."""

EXTENT = 1.25
"""Radii from its centre that no shape reaches beyond."""

Grid = Float[np.ndarray, "..."]
Inside = Bool[np.ndarray, "..."]


def _circle(u: Grid, v: Grid) -> Inside:
    return u * u + v * v <= 1.0


def _square(u: Grid, v: Grid) -> Inside:
    return (np.abs(u) <= 0.86) & (np.abs(v) <= 0.86)


def _diamond(u: Grid, v: Grid) -> Inside:
    return np.abs(u) + np.abs(v) <= 1.18


def _triangle(u: Grid, v: Grid) -> Inside:
    return (v <= 0.8) & (1.9 * np.abs(u) <= 1.08 * (v + 1.1))


def _cross(u: Grid, v: Grid) -> Inside:
    a, b = np.abs(u), np.abs(v)
    return ((a <= 0.34) & (b <= 1.04)) | ((b <= 0.34) & (a <= 1.04))


def _ring(u: Grid, v: Grid) -> Inside:
    square = u * u + v * v
    return (square <= 1.06) & (square >= 0.34)


def _heart(u: Grid, v: Grid) -> Inside:
    x, y = 1.12 * u, 0.12 - 1.12 * v
    square = x * x + y * y - 1.0
    return square * square * square - x * x * y * y * y <= 0.0


def _moon(u: Grid, v: Grid) -> Inside:
    shifted = u - 0.62
    return (u * u + v * v <= 1.12) & (shifted * shifted + v * v >= 0.72)


def _polygon(corners: list[tuple[float, float]]) -> Callable[[Grid, Grid], Inside]:
    """The even-odd test of a polygon."""
    edges = list(zip(corners, corners[1:] + corners[:1], strict=True))

    def inside(u: Grid, v: Grid) -> Inside:
        odd = np.zeros(np.broadcast(u, v).shape, dtype=bool)
        for (x0, y0), (x1, y1) in edges:
            if y0 == y1:
                continue
            crosses = (y0 > v) != (y1 > v)
            odd ^= crosses & (u < x0 + (v - y0) * ((x1 - x0) / (y1 - y0)))
        return odd

    return inside


def _corners(count: int, radii: tuple[float, ...]) -> list[tuple[float, float]]:
    """Corners at equal angles from the top, their radii taken in turn, rounded for portability."""
    angles = [2 * math.pi * i / count for i in range(count)]
    return [
        (
            round(radii[i % len(radii)] * math.sin(a), 6),
            round(-radii[i % len(radii)] * math.cos(a), 6),
        )
        for i, a in enumerate(angles)
    ]


SHAPE_TESTS: dict[str, Callable[[Grid, Grid], Inside]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "diamond": _diamond,
    "moon": _moon,
    "star": _polygon(_corners(10, (1.2, 0.5))),
    "pentagon": _polygon(_corners(5, (1.06,))),
}

_OFFSETS = (np.arange(SUPERSAMPLE) + 0.5) / SUPERSAMPLE


def shape_patch(
    shape: str, x: float, y: float, radius: float, size: int
) -> tuple[slice, slice, Float[np.ndarray, "h w"]]:
    """The mask within its bounding box: (rows, columns, coverage), lengths in pixels.

    Pixel (i, j) covers [j, j+1) x [i, i+1); its coverage is the share of a 4 x 4 grid of
    points that lie inside.
    """
    reach = EXTENT * radius
    left, right = max(0, math.floor(x - reach)), min(size, math.ceil(x + reach))
    top, bottom = max(0, math.floor(y - reach)), min(size, math.ceil(y + reach))
    if left >= right or top >= bottom:
        return slice(0, 0), slice(0, 0), np.zeros((0, 0))
    u = ((np.arange(left, right)[:, None] + _OFFSETS).reshape(-1) - x) * (1.0 / radius)
    v = ((np.arange(top, bottom)[:, None] + _OFFSETS).reshape(-1) - y) * (1.0 / radius)
    inside = SHAPE_TESTS[shape](u[None, :], v[:, None])
    cells = inside.reshape(bottom - top, SUPERSAMPLE, right - left, SUPERSAMPLE)
    return slice(top, bottom), slice(left, right), cells.mean(axis=(1, 3))


def shape_masks(
    shape: str,
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    radius: Float[np.ndarray, " n"],
    size: int,
) -> Float[np.ndarray, "n size size"]:
    """Coverage of one shape at many places, each on a whole square canvas, lengths in pixels."""
    points = (np.arange(size)[:, None] + _OFFSETS).reshape(-1)
    scale = 1.0 / radius[:, None]
    u, v = (points - x[:, None]) * scale, (points - y[:, None]) * scale
    inside = SHAPE_TESTS[shape](u[:, None, :], v[:, :, None])
    cells = inside.reshape(len(x), size, SUPERSAMPLE, size, SUPERSAMPLE)
    return cells.mean(axis=(2, 4))
