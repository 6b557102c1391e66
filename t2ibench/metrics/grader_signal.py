"""Foreground components of an image: background, noise, segmentation, colour spaces.

Images here are (B, H, W, 3) float in [0, 1]. Legend: n components over all B images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from t2ibench.metrics.grader_bank import WEIGHTS, blur_matrix, weighted_ycbcr

SEGMENT_ABOVE = 0.16
PEAK_ABOVE = 0.28
LEAST_AREA = 0.004
BORDER = 2
FLAT_BELOW = 0.03
HIDDEN_SHARE = 0.5
TEXTURED_ABOVE = 0.01**2
HALF_HEIGHT = 0.35
SURFACE_DEGREE = 5
_DENOISE = ((0.03, 0.9), (0.008, 0.5))
_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
) / np.array([[0.95047], [1.0], [1.08883]])


@dataclass(frozen=True)
class Foreground:
    """The components of a chunk of images.

    Attributes:
        residual: image minus background, lightly denoised.
        plane: the fitted background.
        labels: 0 background, else 1 + component, dilated by two pixels.
        background_rgb: fitted background colour at each image's middle.
        noise: standard deviation of each image's border noise, before denoising.
        counts: components of each image.
        image_of: the image of each component.
        centre: centre of mass (row, column), weighted by distance from the background.
        area: pixels of each component, before dilation.
        energy: weighted-YCbCr energy of each dilated component.
        noise_energy: the share of ``energy`` that noise and background texture explain, in
            expectation; an object hides the texture under about half of its pixels.
        core_rgb: mean colour of each component's most distinct half.
    """

    residual: Float[np.ndarray, "B H W 3"]
    plane: Float[np.ndarray, "B H W 3"]
    labels: Int[np.ndarray, "B H W"]
    background_rgb: Float[np.ndarray, "B 3"]
    noise: Float[np.ndarray, " B"]
    counts: Int[np.ndarray, " B"]
    image_of: Int[np.ndarray, " n"]
    centre: Float[np.ndarray, "n 2"]
    area: Float[np.ndarray, " n"]
    energy: Float[np.ndarray, " n"]
    noise_energy: Float[np.ndarray, " n"]
    core_rgb: Float[np.ndarray, "n 3"]

    def patches(
        self, keep: Int[np.ndarray, " m"], half: int
    ) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"], Float[np.ndarray, "m P P 3"]]:
        """Rows and columns of the middles, and the components alone on zero ground."""
        rows, columns = np.rint(self.centre[keep]).astype(np.int64).T
        pad = ((0, 0), (half, half), (half, half))
        labels = np.pad(self.labels, pad)
        residual = np.pad(self.residual, (*pad, (0, 0)))
        at = _patch_index(self.image_of[keep], rows, columns, half)
        inside = labels[at] == (keep + 1)[:, None, None]
        return rows, columns, residual[at] * inside[..., None]

    def shades(
        self,
        keep: Int[np.ndarray, " m"],
        half: int,
    ) -> Float[np.ndarray, "m P P 3"] | None:
        """Background minus its value at each patch's middle; None where all are flat."""
        images = self.image_of[keep]
        spread = self.plane.max(axis=(1, 2)) - self.plane.min(axis=(1, 2))
        if spread[images].max() < FLAT_BELOW:
            return None
        pad = ((0, 0), (half, half), (half, half), (0, 0))
        plane = np.pad(self.plane, pad, mode="edge")
        rows, columns = np.rint(self.centre[keep]).astype(np.int64).T
        at = _patch_index(images, rows, columns, half)
        shade = plane[at]
        return shade - shade[:, half : half + 1, half : half + 1]


def _patch_index(
    images: Int[np.ndarray, " m"],
    rows: Int[np.ndarray, " m"],
    columns: Int[np.ndarray, " m"],
    half: int,
) -> tuple[Int[np.ndarray, "m 1 1"], Int[np.ndarray, "m P 1"], Int[np.ndarray, "m 1 P"]]:
    """Index of square patches in arrays padded by ``half``."""
    steps = np.arange(2 * half + 1)
    return (
        images[:, None, None],
        rows[:, None, None] + steps[None, :, None],
        columns[:, None, None] + steps[None, None, :],
    )


def find_foreground(images: Float[np.ndarray, "B H W 3"]) -> Foreground:
    """Separates objects from a flat or linearly shaded background.

    The noise level decides on a light blur; the background is a plane fitted robustly to the
    border; components are 4-connected pixels farther than 0.16 (unit RGB) from it, with a
    peak above 0.28 and at least 0.4 percent of the image.
    """
    noise = _border_noise(images)
    smooth, gain = _denoise(images, noise)
    plane = _fit_plane(smooth)
    white = noise**2 * gain
    for image in np.flatnonzero(_border_texture(smooth - plane, white) > TEXTURED_ABOVE):
        plane[image] = _fit_surface(smooth[image], plane[image])
    residual = smooth - plane
    distance = np.sqrt((residual**2).sum(-1))
    labels = _components(distance)
    count = int(labels.max())
    flat = labels.ravel()
    image_index = np.broadcast_to(np.arange(len(images))[:, None, None], labels.shape)
    area = np.bincount(flat, minlength=count + 1)[1:].astype(np.float64)
    image_of = ndimage.maximum(image_index, labels, np.arange(1, count + 1))
    image_of = np.asarray(image_of, dtype=np.int64).reshape(count)
    grown = _dilate(labels)
    energy_map = (weighted_ycbcr(residual) ** 2).sum(-1)
    pixels = np.bincount(grown.ravel(), minlength=count + 1)[1:]
    texture = HIDDEN_SHARE * _border_texture(residual, white)
    noise_power = (white * float((WEIGHTS**2).sum()) + texture)[image_of]
    middle = images.shape[1] // 2
    return Foreground(
        residual=residual,
        plane=plane,
        labels=grown,
        background_rgb=plane[:, middle, middle],
        noise=noise,
        counts=np.bincount(image_of, minlength=len(images)),
        image_of=image_of,
        centre=_centres(distance * (labels > 0), flat, count),
        area=area,
        energy=_total(energy_map, grown, count),
        noise_energy=noise_power * pixels,
        core_rgb=_core_colours(smooth, distance, labels, count),
    )


def _border(height: int, width: int) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    inner = np.zeros((height, width), dtype=bool)
    inner[BORDER:-BORDER, BORDER:-BORDER] = True
    rows, columns = np.nonzero(~inner)
    return rows, columns


def _border_noise(images: Float[np.ndarray, "B H W 3"]) -> Float[np.ndarray, " B"]:
    """Noise of the border: 1.4826 MAD of each pixel minus the mean of its row neighbours.

    The detail filter removes shading and keeps white noise with 1.5 times its variance.
    """
    left, middle, right = images[:, :, :-2], images[:, :, 1:-1], images[:, :, 2:]
    detail = middle - 0.5 * (left + right)
    top = np.concatenate([detail[:, :BORDER], detail[:, -BORDER:]], axis=1)
    mad = np.median(np.abs(top).reshape(len(images), -1), axis=1)
    return 1.4826 * mad / np.sqrt(1.5)


def _border_texture(
    residual: Float[np.ndarray, "B H W 3"], white: Float[np.ndarray, " B"]
) -> Float[np.ndarray, " B"]:
    """Weighted-YCbCr variance of what neither the plane nor white noise explains, by MAD."""
    rows, columns = _border(*residual.shape[1:3])
    seen = weighted_ycbcr(residual[:, rows, columns])
    spread = (1.4826 * np.median(np.abs(seen), axis=1)) ** 2
    return np.maximum(spread - white[:, None] * (WEIGHTS**2).sum(1), 0.0).sum(-1)


def _denoise(
    images: Float[np.ndarray, "B H W 3"], noise: Float[np.ndarray, " B"]
) -> tuple[Float[np.ndarray, "B H W 3"], Float[np.ndarray, " B"]]:
    """A blur by noise level, and the factor by which it scales the noise's variance."""
    smooth = images.copy()
    gain = np.ones(len(images))
    upper = np.inf
    for level, sigma in _DENOISE:
        chosen = (noise > level) & (noise <= upper)
        blur = blur_matrix(images.shape[1], sigma)
        smooth[chosen] = np.einsum("ij,bjkc,lk->bilc", blur, images[chosen], blur, optimize=True)
        gain[chosen] = float((blur[len(blur) // 2] ** 2).sum()) ** 2
        upper = level
    return smooth, gain


def _fit_plane(images: Float[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B H W 3"]:
    """A plane a channel, fitted to the border by iteratively reweighted least squares."""
    batch, height, width, _ = images.shape
    rows, columns = _border(height, width)
    basis = _plane_basis(height, width)
    design = basis[rows, columns]
    border = images[:, rows, columns]
    fitted = np.broadcast_to(np.median(border, axis=1, keepdims=True), border.shape)
    ridge = np.diag([0.0, 1e-3, 1e-3]) * len(rows)
    for _ in range(5):
        miss = np.sqrt(((border - fitted) ** 2).sum(-1))
        scale = np.maximum(1.5 * np.median(miss, axis=1, keepdims=True), 0.02)
        weight = 1.0 / (1.0 + (miss / scale) ** 2) ** 2
        weighted = weight[..., None] * design
        normal = np.einsum("bmi,mj->bij", weighted, design) + ridge
        coefficients = np.linalg.solve(normal, np.einsum("bmi,bmc->bic", weighted, border))
        fitted = design @ coefficients
    plane = basis.reshape(-1, 3) @ coefficients
    return plane.reshape(batch, height, width, 3).astype(np.float32)


def _fit_surface(
    image: Float[np.ndarray, "H W 3"], plane: Float[np.ndarray, "H W 3"]
) -> Float[np.ndarray, "H W 3"]:
    """A smooth polynomial surface through what is not foreground, for textured backgrounds."""
    height, width, _ = image.shape
    axis_y, axis_x = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    powers = range(SURFACE_DEGREE + 1)
    terms = [(i, j) for i in powers for j in powers if i + j <= SURFACE_DEGREE]
    legendre = np.polynomial.legendre.legvander
    rows, columns = legendre(axis_y, SURFACE_DEGREE), legendre(axis_x, SURFACE_DEGREE)
    basis = np.stack([rows[:, None, i] * columns[None, :, j] for i, j in terms], axis=-1)
    surface = plane
    for _ in range(2):
        distance = np.sqrt(((image - surface) ** 2).sum(-1))
        objects = _components(distance[None])[0] > 0
        ground = ~ndimage.binary_dilation(objects, iterations=2)
        if ground.sum() < 3 * len(terms):
            return plane
        design = basis[ground]
        normal = design.T @ design + 1e-3 * ground.sum() * np.eye(len(terms)) / height
        surface = basis @ np.linalg.solve(normal, design.T @ image[ground])
    return surface.astype(np.float32)


def _plane_basis(height: int, width: int) -> Float[np.ndarray, "H W 3"]:
    y = np.linspace(-1, 1, height)[:, None] + np.zeros((1, width))
    x = np.linspace(-1, 1, width)[None] + np.zeros((height, 1))
    return np.stack([np.ones_like(x), x, y], axis=-1)


def _components(distance: Float[np.ndarray, "B H W"]) -> Int[np.ndarray, "B H W"]:
    """Labels of 4-connected components in each image that are distinct and large enough.

    A first labelling finds each component's peak; the second keeps only pixels above 0.35 of
    it, so that a weak bridge neither joins two objects nor belongs to one.
    """
    structure = np.zeros((3, 3, 3), dtype=int)
    structure[1] = ndimage.generate_binary_structure(2, 1)
    labels, count = ndimage.label(distance > SEGMENT_ABOVE, structure)
    if not count:
        return labels.astype(np.int64)
    peak = np.concatenate([[0.0], ndimage.maximum(distance, labels, np.arange(1, count + 1))])
    above = (labels > 0) & (distance > HALF_HEIGHT * peak[labels])
    labels, count = ndimage.label(above, structure)
    area = np.bincount(labels.ravel(), minlength=count + 1)
    peak = np.concatenate([[0.0], ndimage.maximum(distance, labels, np.arange(1, count + 1))])
    pixels = distance.shape[1] * distance.shape[2]
    keep = (peak > PEAK_ABOVE) & (area >= LEAST_AREA * pixels)
    keep[0] = False
    renumber = np.where(keep, np.cumsum(keep), 0)
    return renumber[labels]


def _dilate(labels: Int[np.ndarray, "B H W"], steps: int = 2) -> Int[np.ndarray, "B H W"]:
    """Grows components into the background by ``steps`` pixels, never into one another."""
    for _ in range(steps):
        grown = ndimage.maximum_filter(labels, size=(1, 3, 3), mode="constant")
        labels = np.where(labels > 0, labels, grown)
    return labels


def _total(
    values: Float[np.ndarray, "B H W"], labels: Int[np.ndarray, "B H W"], count: int
) -> Float[np.ndarray, " n"]:
    return np.bincount(labels.ravel(), values.ravel(), minlength=count + 1)[1:]


def _centres(
    weights: Float[np.ndarray, "B H W"], flat: Int[np.ndarray, " m"], count: int
) -> Float[np.ndarray, "n 2"]:
    """Centres of mass (row, column) of the components."""
    _, height, width = weights.shape
    rows = np.broadcast_to(np.arange(height)[None, :, None], weights.shape).ravel()
    columns = np.broadcast_to(np.arange(width)[None, None], weights.shape).ravel()
    mass = weights.ravel()
    total = np.bincount(flat, mass, minlength=count + 1)[1:]
    y = np.bincount(flat, mass * rows, minlength=count + 1)[1:] / total
    x = np.bincount(flat, mass * columns, minlength=count + 1)[1:] / total
    return np.stack([y, x], axis=1)


def _core_colours(
    images: Float[np.ndarray, "B H W 3"],
    distance: Float[np.ndarray, "B H W"],
    labels: Int[np.ndarray, "B H W"],
    count: int,
) -> Float[np.ndarray, "n 3"]:
    """Mean colour over the pixels above 0.7 of their component's peak distance."""
    if not count:
        return np.zeros((0, 3))
    peak = np.concatenate([[np.inf], ndimage.maximum(distance, labels, np.arange(1, count + 1))])
    core = np.where(distance >= 0.7 * peak[labels], labels, 0)
    number = np.bincount(core.ravel(), minlength=count + 1)[1:]
    return np.stack([_total(images[..., c], core, count) / number for c in range(3)], axis=1)


def to_lab(rgb: Float[np.ndarray, "*any 3"]) -> Float[np.ndarray, "*any 3"]:
    """Converts sRGB in [0, 1] to CIELAB (D65)."""
    rgb = np.clip(rgb.astype(np.float64), 0, 1)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ.T
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1
    )
