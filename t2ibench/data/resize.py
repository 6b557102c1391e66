"""The one named recipe from a decoded image to a square of the working resolution.

Training images, reference images and scored folders all pass through it, since another
filter or crop alone moves a Fréchet distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image

from t2ibench.core.errors import ConfigError, DataError

Filter = Literal["bicubic", "lanczos"]
Crop = Literal["centre", "reed-box-short-side", "reed-box-squash"]
Box = tuple[float, float, float, float]
"""Box of the object: left, top, width and height, in pixels of the source image."""

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


@dataclass(frozen=True)
class ResizeRecipe:
    """A crop, then a square of ``resolution`` with Pillow's antialiased filter.

    ``centre`` takes the greatest centred square. The two others first cut out the object's
    surroundings (``reed_box``) and then take the centred square of them, or squash them to one.

    Attributes:
        resolution: the side of the result in pixels.
        filter: ``bicubic`` or ``lanczos``, both antialiased (the support grows with the
            reduction, unlike ``torch.nn.functional.interpolate``'s default).
        crop: see above.
    """

    resolution: int
    filter: Filter = "bicubic"
    crop: str = "centre"

    def __post_init__(self) -> None:
        if self.resolution < 1 or self.filter not in _FILTERS:
            raise ConfigError(
                f"cannot resize to {self.resolution} px with {self.filter!r}; give a positive "
                f"resolution and one of {', '.join(_FILTERS)}."
            )
        if self.crop not in get_args(Crop):
            raise ConfigError(
                f"data.source.crop={self.crop} is unknown; choose {', '.join(get_args(Crop))}."
            )

    @property
    def name(self) -> str:
        """Name of the recipe in fingerprints and score keys: ``bicubic-centre-64``."""
        return f"{self.filter}-{self.crop}-{self.resolution}"

    @property
    def needs_box(self) -> bool:
        """True where the crop is taken around the object's box."""
        return self.crop != "centre"

    def __call__(self, image: Image.Image, box: Box | None = None) -> np.ndarray:
        """Applies the recipe to an RGB image.

        The crop is taken in source coordinates and resized once, so the result of an image
        that already has the right size is the image itself, byte for byte.

        Args:
            image: RGB.
            box: the object's, for the crops that need one.

        Returns:
            (3, resolution, resolution) uint8.
        """
        if self.needs_box:
            assert box is not None, "the caller has checked that every image has a box"
            image = image.crop(reed_box(box, image.size))
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        right, bottom = left + side, top + side
        if self.crop == "reed-box-squash":
            left, top, right, bottom = 0, 0, width, height
        if image.size != (self.resolution, self.resolution):
            image = image.resize(
                (self.resolution, self.resolution),
                _FILTERS[self.filter],
                box=(left, top, right, bottom),
            )
        return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


def reed_box(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The square of 1.5 times the box's longer side around its centre, cut to the image.

    Near an edge it is not square any more.

    Args:
        box: left, top, width, height.
        size: width and height of the image.

    Returns:
        Left, top, right, bottom in whole pixels.

    Raises:
        DataError: the box has no area inside the image.

    Source: Zhang et al. 2017 (StackGAN) and Xu et al. 2018 (AttnGAN), released data code.
    Differs: none.

    Example:
        >>> reed_box((40, 40, 20, 10), (100, 100))
        (35, 30, 65, 60)
        >>> reed_box((0, 0, 20, 10), (100, 100))
        (0, 0, 25, 20)
    """
    left, top, width, height = box
    reach = int(0.75 * max(width, height))
    x, y = int((2 * left + width) / 2), int((2 * top + height) / 2)
    found = max(0, x - reach), max(0, y - reach), min(size[0], x + reach), min(size[1], y + reach)
    if found[0] >= found[2] or found[1] >= found[3]:
        raise DataError(
            f"bbox {list(box)} has no area inside an image of {size[0]}x{size[1]} px; a box is "
            "left, top, width, height in pixels."
        )
    return found
