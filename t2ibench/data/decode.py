"""The one way from image bytes to RGB, with a stated policy for everything odd.

==========================  ==================================================================
EXIF orientation            applied; EXIF that cannot be read is passed over
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
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from t2ibench.core.errors import DataError
from t2ibench.core.tensors import LFS_POINTER

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

    def refuse(self, key: str, why: str) -> None:
        """Counts an image as refused that was decoded."""
        self.decoded -= 1
        self.refused[key] = why
        log.warning("skipped image %s: %s", key, why)

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
                f"max_refused={limit:g} ({first}). Repair or remove them, or raise "
                "data.source.max_refused."
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
        except Exception as error:  # decoders raise whatever they stumble over
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
        if raw.startswith(LFS_POINTER):
            raise _Refused("a pointer of Git LFS and not the image itself; run `git lfs pull`")
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
            file.load()
            image, turned = _upright(file)
            rgb, mode = self._to_rgb(image, file.format == "PNG")
            if _is_animated(file):
                treatments.append("first frame")
            return rgb, treatments + turned + mode

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


def _upright(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """The image turned as its EXIF says, and what was done; broken EXIF leaves it as it is."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
        turn = _TURNS.get(orientation)
    except Exception:  # its parser raises whatever it stumbles over
        return image, ["exif unreadable"]
    return (image, []) if turn is None else (image.transpose(turn), ["exif"])


def _is_animated(image: Image.Image) -> bool:
    """True where more frames follow the first, which has been read; they may be broken."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # as above
        return True


_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Raster formats only: Pillow's EPS reader would start an external program.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
_MODE_NAMES = {"L": "grey", "1": "grey", "P": "palette", "CMYK": "cmyk", "YCbCr": "ycbcr"}
