"""The one way from image bytes to RGB, with a stated policy for everything odd.

==========================  ==================================================================
EXIF orientation            applied
alpha, palette with alpha   composited on the configured background (Pillow's own ``convert``
                            would show the hidden colour of transparent pixels)
grey, 1 bit                 repeated to RGB
16 bit integer              divided by 257 (0..65535 to 0..255)
32 bit integer, float       refused: their range is not stated in the file
CMYK, YCbCr, LAB            converted by Pillow (no colour profile is applied)
animated                    the first frame
truncated, empty, unknown    refused
more pixels than the limit  refused before decoding (decompression bomb)
==========================  ==================================================================

A refused image is skipped or raised by the policy; it is always counted and named.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from t2ibench.core.errors import DataError

log = logging.getLogger(__name__)

Policy = Literal["skip", "raise"]


@dataclass
class DecodeReport:
    """Counts of what decoding met, for the manifest and for ``data check``.

    Attributes:
        decoded: images decoded.
        treated: treatment -> how many images had it (``alpha``, ``exif``, ``cmyk``, ...).
        refused: key -> why, for every image that was refused.
    """

    decoded: int = 0
    treated: Counter[str] = field(default_factory=Counter)
    refused: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {
            "decoded": self.decoded,
            "treated": dict(sorted(self.treated.items())),
            "refused": dict(sorted(self.refused.items())),
        }

    def check_share(self, where: str, limit: float) -> None:
        """Stops when more than the share ``limit`` of all images was refused.

        Raises:
            DataError: too many were refused; names the first three.
        """
        total = self.decoded + len(self.refused)
        if total and len(self.refused) / total > limit:
            first = "; ".join(f"{key}: {why}" for key, why in list(self.refused.items())[:3])
            raise DataError(
                f"{where}: {len(self.refused)} of {total} images cannot be used, more than "
                f"max_refused={limit:g} ({first}). Repair or remove them, or raise max_refused."
            )


@dataclass(frozen=True)
class Decoder:
    """Decodes bytes or files to RGB.

    Attributes:
        background: RGB on which transparent images are laid.
        policy: ``skip`` gives None for a refused image, ``raise`` a DataError.
        max_pixels: images with more pixels are refused unread.
    """

    background: tuple[int, int, int] = (255, 255, 255)
    policy: Policy = "skip"
    max_pixels: int = 178_956_970

    def __call__(
        self, source: bytes | str | Path, key: str, report: DecodeReport
    ) -> Image.Image | None:
        """Decodes one image and writes in ``report`` what it met.

        Args:
            source: the file's bytes, or its path.
            key: how the report names the image.
            report: counted into.

        Returns:
            An RGB image, or None where it was refused and the policy is ``skip``.

        Raises:
            DataError: it was refused and the policy is ``raise``.
        """
        try:
            raw = source if isinstance(source, bytes) else Path(source).read_bytes()
            image, treatments = self._decode(raw)
        except _REFUSALS as error:
            reason = str(error) or type(error).__name__
            report.refused[key] = reason
            if self.policy == "raise":
                raise DataError(
                    f"image {key}: {reason}. Repair it, or set the decode policy to skip."
                ) from error
            log.warning("skipped image %s: %s", key, reason)
            return None
        report.decoded += 1
        report.treated.update(treatments)
        return image

    def _decode(self, raw: bytes) -> tuple[Image.Image, list[str]]:
        if not raw:
            raise _Refused("the file is empty")
        treatments = []
        try:
            Image.init()
            formats = [name for name in _FORMATS if name in Image.OPEN]
            opened = Image.open(io.BytesIO(raw), formats=formats)
        except UnidentifiedImageError:
            raise _Refused(f"not an image in one of {', '.join(_FORMATS)}") from None
        with opened as file:
            if file.width * file.height > self.max_pixels:
                raise _Refused(
                    f"{file.width} x {file.height} pixels exceed the limit of {self.max_pixels}"
                )
            if getattr(file, "n_frames", 1) > 1:
                treatments.append("first frame")
                file.seek(0)
            file.load()
            image: Image.Image = file
            if file.getexif().get(0x0112, 1) not in (0, 1):
                treatments.append("exif")
                image = ImageOps.exif_transpose(file)
            rgb, mode = self._to_rgb(image, file.format == "PNG")
            return rgb, treatments + mode

    def _to_rgb(self, image: Image.Image, is_png: bool) -> tuple[Image.Image, list[str]]:
        # Pillow versions differ in whether a 16 bit grey PNG is I;16 or I; a PNG's I is 16 bit.
        if image.mode.startswith("I;16") or (image.mode == "I" and is_png):
            grey = np.asarray(image).astype(np.float64) / 257
            return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB"), ["16 bit"]
        if image.mode in ("I", "F"):
            raise _Refused(f"mode {image.mode} has no stated range of values")
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            canvas = Image.new("RGBA", layer.size, (*self.background, 255))
            return Image.alpha_composite(canvas, layer).convert("RGB"), ["alpha"]
        if image.mode == "RGB":
            return image.copy(), []
        return image.convert("RGB"), [_MODE_NAMES.get(image.mode, image.mode.lower())]


class _Refused(Exception):
    """An image that the policy does not take."""


_REFUSALS = (
    _Refused,
    OSError,
    struct.error,
    zlib.error,
    SyntaxError,  # Pillow raises it for broken PNG chunks
    ValueError,
    EOFError,
    Image.DecompressionBombError,
)
# Raster formats only: Pillow's EPS reader would start an external program.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
_MODE_NAMES = {"L": "grey", "1": "grey", "P": "palette", "CMYK": "cmyk", "YCbCr": "ycbcr"}
