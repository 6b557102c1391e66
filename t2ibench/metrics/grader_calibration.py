"""Calibration of the grader: damaged renders, blobs, and the acceptance threshold.

``accept_threshold`` is how the constants of ``grader.ACCEPT_FIT`` were found; the command
that measured them and its numbers stand in ``experiments/grader``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from t2ibench.core.errors import ScoreError
from t2ibench.core.hashing import derive_seed
from t2ibench.metrics.grader_bank import blur_matrix

DAMAGES = (
    "clean", "noise-0.05", "noise-0.1", "blur-0.7", "blur-1.0", "jpeg-75", "jpeg-30", "vq-like",
)  # fmt: skip
MILD = ("clean", "noise-0.05", "blur-1.0", "jpeg-75")

PixelArray = UInt8[np.ndarray, "B 3 H W"]


def damage(pixels: PixelArray, name: str, seed: int = 0) -> PixelArray:
    """Renders as an imperfect generator or decoder would show them.

    Args:
        pixels: (B, 3, H, W) uint8.
        name: ``clean``, ``noise-SIGMA`` (unit RGB), ``blur-SIGMA`` (pixels), ``jpeg-QUALITY``,
            or ``vq-like``: half-size and back (bicubic) with an offset of standard deviation
            0.02 for each 4 x 4 block.
        seed: of the noise.

    Raises:
        ScoreError: there is no such damage.
    """
    kind, _, value = name.partition("-")
    rng = np.random.Generator(np.random.Philox(key=derive_seed("damage", name, seed)))
    images = pixels.astype(np.float32) / 255
    if kind == "clean":
        return pixels.copy()
    if kind == "noise":
        images = images + float(value) * rng.standard_normal(images.shape)
    elif kind == "blur":
        blur = blur_matrix(images.shape[-1], float(value))
        images = blur @ images @ blur.T
    elif kind == "jpeg":
        return np.stack([_jpeg(image, int(value)) for image in pixels])
    elif kind == "vq":
        images = np.stack([_half_and_back(image) for image in pixels]).astype(np.float32) / 255
        batch, _, height, width = images.shape
        blocks = rng.standard_normal((batch, 3, height // 4, width // 4))
        images = images + 0.02 * blocks.repeat(4, axis=2).repeat(4, axis=3)
    else:
        raise ScoreError(f"There is no damage {name!r}; there are {', '.join(DAMAGES)}.")
    return np.rint(images.clip(0, 1) * 255).astype(np.uint8)


def _jpeg(image: UInt8[np.ndarray, "3 H W"], quality: int) -> UInt8[np.ndarray, "3 H W"]:
    stream = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream)).transpose(2, 0, 1)


def _half_and_back(image: UInt8[np.ndarray, "3 H W"]) -> UInt8[np.ndarray, "3 H W"]:
    picture = Image.fromarray(image.transpose(1, 2, 0))
    half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BICUBIC)
    return np.asarray(half.resize(picture.size, Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def random_blobs(
    count: int,
    resolution: int,
    radii: tuple[float, float],
    colours: list[tuple[float, float, float]],
    seed: int = 0,
) -> PixelArray:
    r"""One smooth random blob an image on white: what a half-trained generator draws.

    The outline is :math:`r(\theta) = r_0 (1 + \sum_{k=1}^{4} a_k \cos(k\theta + \phi_k))` with
    normal a_k of standard deviation 0.3 / sqrt(k), on 4 x 4 sub-samples a pixel.

    Args:
        count: images.
        resolution: side in pixels.
        radii: least and largest r_0, in fractions of the side.
        colours: RGB palette in [0, 1].
        seed: of the blobs.
    """
    rng = np.random.Generator(np.random.Philox(key=derive_seed("blobs", seed)))
    fine = (np.arange(4 * resolution) + 0.5) / (4 * resolution)
    images = np.ones((count, 3, resolution, resolution))
    for image in images:
        x0, y0 = 0.3 + 0.4 * rng.random(2)
        radius = radii[0] + (radii[1] - radii[0]) * rng.random()
        dx, dy = fine[None] - x0, fine[:, None] - y0
        angle = np.arctan2(dy, dx)
        outline = np.ones_like(angle)
        for k in range(1, 5):
            wave = np.cos(k * angle + 2 * np.pi * rng.random())
            outline += 0.3 / np.sqrt(k) * rng.standard_normal() * wave
        inside = np.hypot(dx, dy) <= radius * np.maximum(outline, 0.15)
        mask = inside.reshape(resolution, 4, resolution, 4).mean((1, 3))
        colour = np.array(colours[int(rng.random() * len(colours))])[:, None, None]
        image += mask * (colour - image)
    return np.rint(images * 255).astype(np.uint8)


def accept_threshold(true_fits: Mapping[str, Sequence[float]], share: float = 0.99) -> float:
    """The largest fit threshold that accepts ``share`` of true objects under every damage.

    Args:
        true_fits: fits of true objects, by damage.
        share: of them that must be accepted, for each damage.

    Returns:
        The threshold, rounded down to a multiple of 0.005.
    """
    lowest = min(float(np.quantile(fits, 1 - share)) for fits in true_fits.values())
    return float(np.floor(lowest * 200) / 200)
