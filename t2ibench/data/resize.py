"""The one named recipe from a decoded image to a square of the working resolution.

Training images, reference images and scored folders all pass through it, since another
filter or crop alone moves a Fréchet distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from t2ibench.core.errors import ConfigError

Filter = Literal["bicubic", "lanczos"]
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


@dataclass(frozen=True)
class ResizeRecipe:
    """Short side to ``resolution`` with Pillow's antialiased filter, then the centre crop.

    Attributes:
        resolution: the side of the result in pixels.
        filter: ``bicubic`` or ``lanczos``, both antialiased (the support grows with the
            reduction, unlike ``torch.nn.functional.interpolate``'s default).
    """

    resolution: int
    filter: Filter = "bicubic"

    def __post_init__(self) -> None:
        if self.resolution < 1 or self.filter not in _FILTERS:
            raise ConfigError(
                f"cannot resize to {self.resolution} px with {self.filter!r}; give a positive "
                f"resolution and one of {', '.join(_FILTERS)}."
            )

    @property
    def name(self) -> str:
        """How fingerprints and score keys name the recipe: ``bicubic-centre-64``."""
        return f"{self.filter}-centre-{self.resolution}"

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Applies the recipe to an RGB image.

        The crop is taken in source coordinates and resized once, so the result of an image
        that already has the right size is the image itself, byte for byte.

        Returns:
            (3, resolution, resolution) uint8.
        """
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        if image.size != (self.resolution, self.resolution):
            image = image.resize(
                (self.resolution, self.resolution),
                _FILTERS[self.filter],
                box=(left, top, left + side, top + side),
            )
        return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))
