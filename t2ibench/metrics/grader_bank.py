"""The grader's matched-filter bank: every shape at every radius, sub-pixel place and blur.

Legend: S shapes, R radii, F blurs, O offsets an axis, P patch side, n components, K templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int

_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
WEIGHTS = _YCBCR * np.array([1.0, 0.45, 0.45])[:, None]
"""RGB to weighted YCbCr: shape is seen in luma first."""

Patches = Float[np.ndarray, "n P P C"]


@runtime_checkable
class GradableWorld(Protocol):
    """Interface of the world that is graded; injected, so that metrics import no data."""

    @property
    def shapes(self) -> tuple[str, ...]:
        """Shape names."""

    @property
    def colours(self) -> dict[str, tuple[float, float, float]]:
        """Colour names and RGB in [0, 1]."""

    @property
    def backgrounds(self) -> dict[str, tuple[float, float, float]]:
        """Background names and RGB in [0, 1]."""

    @property
    def radii(self) -> dict[str, float]:
        """Size names and radii in fractions of the image side."""

    def masks(
        self,
        shape: str,
        x: Float[np.ndarray, " n"],
        y: Float[np.ndarray, " n"],
        radius: Float[np.ndarray, " n"],
        size: int,
    ) -> Float[np.ndarray, "n size size"]:
        """Coverage of a shape, lengths in pixels."""


@dataclass(frozen=True)
class Match:
    """The best template of each component; arrays of length n (or n x 3 for ``contrast``).

    Attributes:
        shape: index into the world's shapes.
        score: energy that the template explains, in the weighted colour space.
        runner_up: the score of the best other shape.
        dx: shape centre relative to the patch centre in pixels, to the right.
        dy: the same, downwards.
        radius: in pixels.
        contrast: least-squares RGB of object minus background.
    """

    shape: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    runner_up: Float[np.ndarray, " n"]
    dx: Float[np.ndarray, " n"]
    dy: Float[np.ndarray, " n"]
    radius: Float[np.ndarray, " n"]
    contrast: Float[np.ndarray, "n 3"]


class TemplateBank:
    r"""Matched filters over (shape, radius, blur, offset) on a grid, refined off the grid.

    For a template :math:`\alpha` of coverage, :math:`\hat\alpha = \alpha / \lVert\alpha\rVert`,
    and a patch D = W (image - background) in weighted YCbCr, the score is
    :math:`\sum_c \langle \hat\alpha, D_c \rangle^2`. The grid's best per shape is refined by
    a parabola an axis, and the best shapes are scored again with templates rendered at the
    refined place under each blur.

    Args:
        world: gives shapes, radii and masks.
        resolution: image side in pixels.

    Source: matched filtering for a known signal in white noise (textbook).
    Differs: none.
    """

    OFFSETS = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    GRID_BLURS = (0.35, 1.0)
    RADIUS_STEP = 0.3
    FINALISTS = 3
    BLURS = (0.0, 0.4, 0.7, 1.0, 1.4)

    def __init__(self, world: GradableWorld, resolution: int) -> None:
        self.world = world
        smallest = 0.8 * min(world.radii.values()) * resolution
        largest = 1.2 * max(world.radii.values()) * resolution
        steps = int(np.ceil((largest - smallest) / self.RADIUS_STEP))
        self.radii = smallest + self.RADIUS_STEP * np.arange(steps + 1)
        self.half = int(np.ceil(1.2 * largest + 2.5))
        self.side = 2 * self.half + 1
        self._centroids = np.array([self._centroid(shape) for shape in world.shapes])
        self._grid = torch.from_numpy(self._build())

    def _centroid(self, shape: str) -> tuple[float, float]:
        """Centre of mass of a shape in radii, relative to its centre."""
        middle, radius = 64.0, 40.0
        mask = self.world.masks(
            shape, np.array([middle]), np.array([middle]), np.array([radius]), 128
        )
        mask = mask[0] / mask.sum()
        points = np.arange(128) + 0.5 - middle
        return float(mask.sum(0) @ points / radius), float(mask.sum(1) @ points / radius)

    def _build(self) -> Float[np.ndarray, "K PP"]:
        """All templates of the grid, unit norm, in (S, R, F, O, O) order."""
        blurs = [blur_matrix(self.side, sigma) for sigma in self.GRID_BLURS]
        rows: list[np.ndarray] = []
        for index in range(len(self.world.shapes)):
            r, dy, dx = np.meshgrid(self.radii, self.OFFSETS, self.OFFSETS, indexing="ij")
            masks = self._render(index, dx.ravel(), dy.ravel(), r.ravel())
            count = len(self.radii)
            for radius_masks in masks.reshape(count, -1, self.side, self.side):
                rows.extend(normalised(blur @ radius_masks @ blur)[0] for blur in blurs)
        return np.concatenate(rows).reshape(-1, self.side**2).astype(np.float32)

    def _render(
        self,
        shape: int,
        dx: Float[np.ndarray, " n"],
        dy: Float[np.ndarray, " n"],
        radius: Float[np.ndarray, " n"],
    ) -> Float[np.ndarray, "n P P"]:
        """Masks whose centre of mass lies at (dx, dy) from the patch's middle."""
        cx, cy = self._centroids[shape]
        middle = self.half + 0.5
        x, y = middle + dx - cx * radius, middle + dy - cy * radius
        return self.world.masks(self.world.shapes[shape], x, y, radius, self.side).astype(
            np.float32
        )

    def match(self, weighted: Patches, rgb: Patches, shade: Patches | None = None) -> Match:
        """Finds each component's best template.

        Args:
            weighted: (n, P, P, 3) image minus background in weighted YCbCr, zero where the
                component is not; its centre of mass within one pixel of the middle.
            rgb: the same patches in RGB.
            shade: how the background differs from its value at the middle, in RGB, or None
                for flat backgrounds. An object hides the shading: there the image minus
                the background is coverage times (contrast minus shade).
        """
        count = len(weighted)
        places, guesses = self._search(weighted)
        order = np.argsort(-guesses, axis=1)[:, : self.FINALISTS]
        scores = np.full((count, len(self.world.shapes)), -np.inf)
        contrast = np.zeros((count, len(self.world.shapes), 3))
        for shape in range(len(self.world.shapes)):
            chosen = np.flatnonzero((order == shape).any(axis=1))
            if len(chosen):
                masks = self._render(shape, *places[chosen, shape].T)
                scores[chosen, shape], contrast[chosen, shape] = _score_exactly(
                    masks, rgb[chosen], None if shade is None else shade[chosen], self.BLURS
                )
        best = scores.argmax(axis=1)
        each = np.arange(count)
        score = scores[each, best]
        scores[each, best] = -np.inf
        dx, dy, radius = places[each, best].T
        centre = self._centroids[best] * radius[:, None]
        return Match(
            shape=best,
            score=score,
            runner_up=scores.max(axis=1),
            dx=dx - centre[:, 0],
            dy=dy - centre[:, 1],
            radius=radius,
            contrast=contrast[each, best],
        )

    def _search(
        self, weighted: Patches
    ) -> tuple[Float[np.ndarray, "n S 3"], Float[np.ndarray, "n S"]]:
        """Best (dx, dy, radius) and score of each shape on the grid, off-grid by parabolas."""
        count, blurs, offsets = len(weighted), len(self.GRID_BLURS), len(self.OFFSETS)
        radii = len(self.radii)
        flat = torch.from_numpy(np.ascontiguousarray(weighted.reshape(count, -1, 3), np.float32))
        columns = flat.permute(1, 2, 0).reshape(self.side**2, 3 * count)
        energy = (self._grid @ columns).square_().view(-1, 3, count).sum(1)
        grid = energy.T.reshape(count, -1, radii, blurs, offsets, offsets).numpy()
        shapes = grid.shape[1]
        top = grid.reshape(count, shapes, -1).argmax(-1)
        r, f, y, x = np.unravel_index(top, (radii, blurs, offsets, offsets))
        n, s = np.arange(count)[:, None], np.arange(shapes)[None]
        peak = grid[n, s, r, f, y, x]
        shifts = []
        for axis, limit in ((0, offsets), (1, offsets), (2, radii)):
            ends = []
            for step in (-1, 1):
                at = [x, y, r]
                at[axis] = np.clip(at[axis] + step, 0, limit - 1)
                ends.append(grid[n, s, at[2], f, at[1], at[0]])
            inside = ([x, y, r][axis] > 0) & ([x, y, r][axis] < limit - 1)
            shifts.append(np.where(inside, _parabola(ends[0], peak, ends[1]), 0.0))
        step = self.OFFSETS[1] - self.OFFSETS[0]
        places = np.stack(
            [
                self.OFFSETS[x] + step * shifts[0],
                self.OFFSETS[y] + step * shifts[1],
                self.radii[r] + self.RADIUS_STEP * shifts[2],
            ],
            axis=-1,
        )
        return places, peak


def _parabola(low: np.ndarray, peak: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Abscissa of the top of a parabola through (-1, low), (0, peak), (1, high)."""
    curvature = np.minimum(low - 2 * peak + high, -1e-9)
    return np.clip(0.5 * (low - high) / curvature, -0.5, 0.5)


def _score_exactly(
    masks: Float[np.ndarray, "n P P"], rgb: Patches, shade: Patches | None, blurs: Sequence[float]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    """Energy explained under the best blur of luma and the best blur of chroma, and the contrast.

    Luma and chroma take their blurs apart because decoders and JPEG keep chroma coarser. With
    ``shade``, D' = D + coverage * shade is what would have been seen on flat ground, and the
    energy explained is |D|^2 - (|D'|^2 - <template, D'>^2).
    """
    count, side = masks.shape[:2]
    flat_rgb = rgb.reshape(count, -1, 3)
    luma, chroma = np.full(count, -np.inf), np.full(count, -np.inf)
    contrast = np.zeros((count, 3))
    for sigma in blurs:
        blur = blur_matrix(side, sigma)
        coverage = blur @ masks @ blur
        template, norm = normalised(coverage)
        seen, added = flat_rgb, 0.0
        if shade is not None:
            seen = flat_rgb + (coverage[..., None] * shade).reshape(count, -1, 3)
            added = (weighted_ycbcr(seen) ** 2 - weighted_ycbcr(flat_rgb) ** 2).sum(1)
        amplitude = (template.reshape(count, 1, -1) @ seen)[:, 0]
        explained = weighted_ycbcr(amplitude) ** 2 - added
        better = explained[:, 0] > luma
        contrast = np.where(better[:, None], amplitude / norm[:, None], contrast)
        luma = np.maximum(luma, explained[:, 0])
        chroma = np.maximum(chroma, explained[:, 1] + explained[:, 2])
    return luma + chroma, contrast


def normalised(
    templates: Float[np.ndarray, "n P P"],
) -> tuple[Float[np.ndarray, "n P P"], Float[np.ndarray, " n"]]:
    """Templates of unit norm, and their norms."""
    norm = np.sqrt(np.einsum("nij,nij->n", templates, templates))
    return templates / np.maximum(norm, 1e-12)[:, None, None], np.maximum(norm, 1e-12)


@lru_cache(maxsize=64)
def blur_matrix(size: int, sigma: float) -> Float[np.ndarray, "size size"]:
    """Matrix G of the separable Gaussian blur ``G @ image @ G.T`` with replicated borders.

    Columns are folded at the borders, so each row sums to one. For sigma 0 it is the identity.
    Symmetric away from the borders.
    """
    if sigma <= 0:
        return np.eye(size, dtype=np.float32)
    reach = int(np.ceil(4 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    matrix = np.zeros((size, size))
    for row in range(size):
        columns = np.clip(row + np.arange(-reach, reach + 1), 0, size - 1)
        np.add.at(matrix[row], columns, taps)
    return matrix.astype(np.float32)


def weighted_ycbcr(rgb: Float[np.ndarray, "*any 3"]) -> Float[np.ndarray, "*any 3"]:
    """RGB differences as luma and 0.45 times the BT.601 colour differences."""
    return rgb @ WEIGHTS.T.astype(rgb.dtype)
