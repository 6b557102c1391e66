"""The exact grader of the procedural world: what is in an image, by matched filters alone.

No part of it is learned. It finds the objects of an image (``Grader.detect``) and compares
them with the meaning of the prompt (``Grader.grade``). Its own accuracy on ground-truth
renders belongs beside every model's score (``evaluation.evaluator.Evaluator.ground_truth``).

Legend: B images, n components (found objects) of a chunk, P patch side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from t2ibench.core.errors import ScoreError
from t2ibench.core.types import PixelImages
from t2ibench.metrics.grader_bank import GradableWorld, TemplateBank, weighted_ycbcr
from t2ibench.metrics.grader_columns import COLUMNS, GradeTable, ParseLike, grade_image
from t2ibench.metrics.grader_signal import Foreground, find_foreground, to_lab

ACCEPT_FIT = {32: 0.945, 64: 0.965}
"""Least fit of an accepted shape, by resolution, measured by ``grader_calibration``."""

MAX_COMPONENTS = 8
MAX_NOISE = 0.2
_CHUNK = 64


@dataclass(frozen=True)
class Detection:
    """One connected object of an image.

    Attributes:
        shape: the accepted shape, or None where no template explains the object well enough.
        colour: the nearest palette name in CIELAB, graded even where the shape is unknown.
        size: the nearest size name, or None where the shape is unknown.
        x: centre, fraction of the image side to the right (centre of mass if unknown shape).
        y: centre, downwards.
        radius: fraction of the image side.
        area: fraction of the image's pixels in the component.
        fit: explained share of the object's energy, corrected for noise, at most 1.
        margin: fit minus the fit of the best other shape.
        delta_e: CIELAB distance of the object's colour to the palette's.
    """

    shape: str | None
    colour: str
    size: str | None
    x: float
    y: float
    radius: float
    area: float
    fit: float
    margin: float
    delta_e: float


@dataclass(frozen=True)
class Seen:
    """Objects and background that the grader found in one image.

    Attributes:
        objects: the detections, largest area first; empty where the image is not valid.
        background: nearest background name at the image's border.
        valid: False for images of noise: border noise above 0.2 or more than 8 components.
    """

    objects: tuple[Detection, ...]
    background: str
    valid: bool


class Grader:
    r"""Grades images of the procedural world against the meaning of their prompts.

    Each connected foreground component is explained by the best template of a
    :class:`TemplateBank`. Its fit is :math:`s / (E - E_{noise})` with s the matched-filter
    score and E the component's energy over the background, both in weighted YCbCr. Shapes
    with a fit below ``accept_fit`` are unknown.

    Args:
        world: the procedural world (shapes, colours, backgrounds, radii, masks).
        resolution: image side in pixels.
        accept_fit: least fit of an accepted shape; None takes the calibrated value of the
            nearest calibrated resolution.

    Source: matched filtering; the columns follow GenEval's tasks (Ghosh et al. 2023).
    Differs: objects are found by templates of the known world instead of a learned detector.
    """

    def __init__(
        self, world: GradableWorld, resolution: int, accept_fit: float | None = None
    ) -> None:
        self.world = world
        self.resolution = resolution
        self.bank = TemplateBank(world, resolution)
        nearest = min(ACCEPT_FIT, key=lambda side: abs(side - resolution))
        self.accept_fit = ACCEPT_FIT[nearest] if accept_fit is None else accept_fit
        self._colour_names = tuple(world.colours)
        self._palette = to_lab(np.array(list(world.colours.values())))
        self._background_names = tuple(world.backgrounds)
        self._backgrounds = np.array(list(world.backgrounds.values()))
        self._size_names = tuple(world.radii)
        self._log_radii = np.log(np.array(list(world.radii.values())))

    def grade(self, pixels: PixelImages, parses: Sequence[ParseLike]) -> GradeTable:
        """Compares each image with the meaning of its prompt.

        Args:
            pixels: (B, 3, H, W) uint8 at the grader's resolution.
            parses: B meanings; ``objects`` (phrases with shape, colour, size, count),
                ``relation`` and ``background``.

        Raises:
            ScoreError: the counts differ or the resolution is another.
        """
        if len(pixels) != len(parses):
            raise ScoreError(f"The grader got {len(pixels)} images for {len(parses)} prompts.")
        rows = [
            grade_image(seen, parse) for seen, parse in zip(self.see(pixels), parses, strict=True)
        ]
        values = np.array(rows, dtype=np.float64).reshape(len(rows), len(COLUMNS))
        return GradeTable({name: values[:, i] for i, name in enumerate(COLUMNS)})

    def detect(self, pixels: PixelImages) -> list[list[Detection]]:
        """The objects of each image, largest first; none where the image is not valid."""
        return [list(seen.objects) for seen in self.see(pixels)]

    def see(self, pixels: PixelImages) -> list[Seen]:
        """Objects, background and validity of each image.

        Raises:
            ScoreError: the images are not of the grader's resolution.
        """
        if tuple(pixels.shape[1:]) != (3, self.resolution, self.resolution):
            raise ScoreError(
                f"The grader was made for {self.resolution} px images and got "
                f"{tuple(pixels.shape)}; make one for that resolution."
            )
        seen: list[Seen] = []
        for start in range(0, len(pixels), _CHUNK):
            chunk = pixels[start : start + _CHUNK].cpu().numpy().transpose(0, 2, 3, 1)
            seen.extend(self._see_chunk(chunk.astype(np.float32) / 255))
        return seen

    def _see_chunk(self, images: Float[np.ndarray, "B H W 3"]) -> list[Seen]:
        ground = find_foreground(images)
        valid = (ground.noise <= MAX_NOISE) & (ground.counts <= MAX_COMPONENTS)
        offsets = to_lab(ground.background_rgb)[:, None] - to_lab(self._backgrounds)[None]
        backgrounds = (offsets**2).sum(-1).argmin(-1)
        keep = np.flatnonzero(valid[ground.image_of])
        objects: list[list[Detection]] = [[] for _ in images]
        for image, detection in self._explain(ground, keep):
            objects[image].append(detection)
        return [
            Seen(
                tuple(sorted(found, key=lambda item: -item.area)),
                self._background_names[backgrounds[i]],
                bool(valid[i]),
            )
            for i, found in enumerate(objects)
        ]

    def _explain(
        self, ground: Foreground, keep: Int[np.ndarray, " n"]
    ) -> Iterable[tuple[int, Detection]]:
        """Matches templates to the kept components and names what was found."""
        if not len(keep):
            return []
        rows, columns, rgb = ground.patches(keep, self.bank.half)
        match = self.bank.match(weighted_ycbcr(rgb), rgb, ground.shades(keep, self.bank.half))
        energy = ground.energy[keep]
        energy = np.maximum(energy - ground.noise_energy[keep], 0.2 * energy)
        fit = np.minimum(match.score / energy, 1.0)
        margin = fit - np.minimum(match.runner_up / energy, 1.0)
        accepted = fit >= self.accept_fit
        image = ground.image_of[keep]
        rgb_seen = np.where(
            accepted[:, None],
            ground.background_rgb[image] + match.contrast,
            ground.core_rgb[keep],
        )
        distance = self._palette_distance(rgb_seen)
        colour = distance.argmin(1)
        side = self.resolution
        log_radius = np.log(np.maximum(match.radius, 1e-3) / side)
        size = np.abs(log_radius[:, None] - self._log_radii).argmin(1)
        mass_y, mass_x = ground.centre[keep].T + 0.5
        x = np.where(accepted, columns + 0.5 + match.dx, mass_x) / side
        y = np.where(accepted, rows + 0.5 + match.dy, mass_y) / side
        return [
            (
                int(image[i]),
                Detection(
                    shape=self.world.shapes[match.shape[i]] if accepted[i] else None,
                    colour=self._colour_names[colour[i]],
                    size=self._size_names[size[i]] if accepted[i] else None,
                    x=float(x[i]),
                    y=float(y[i]),
                    radius=float(match.radius[i] / side),
                    area=float(ground.area[keep[i]] / side**2),
                    fit=float(fit[i]),
                    margin=float(margin[i]),
                    delta_e=float(distance[i, colour[i]]),
                ),
            )
            for i in range(len(keep))
        ]

    def _palette_distance(self, rgb: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n V"]:
        """CIELAB distance (CIE 1976) of colours to each palette entry."""
        return np.sqrt(((to_lab(rgb.clip(0, 1))[:, None] - self._palette[None]) ** 2).sum(-1))
