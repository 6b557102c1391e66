"""Pictures in a folder without captions: generated ones to score, or a reference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from t2ibench.core.errors import DataError
from t2ibench.data.captioned_files import CaptionedFile, Listing
from t2ibench.data.folder import FolderSource
from t2ibench.data.folder_files import NOT_TEXT, has_text_name, image_files, key_of
from t2ibench.data.resize import Filter


class PictureSource(FolderSource):
    """All pictures of a folder as one test split without captions (a ``DataSource``).

    Args:
        root: the folder; pictures in sub-folders count.
        cache_dir: where the prepared arrays are kept, by the folder's content.
        resolution: side of the square images.
        name: short name in score keys; the folder's own name by default.
        background: RGB under transparent images.
        filter: of the resize recipe; the crop is the greatest centred square.
        max_refused: the share of unusable images above which preparing stops.

    Raises:
        ConfigError: impossible resolution or background.
        DataError: the folder does not exist, or its name is no text.
    """

    splits: tuple[str, ...] = ("test",)

    def __init__(
        self,
        root: str | Path,
        *,
        cache_dir: str | Path,
        resolution: int,
        name: str | None = None,
        background: Sequence[int] = (255, 255, 255),
        filter: Filter = "bicubic",
        max_refused: float = 0.01,
    ) -> None:
        super().__init__(
            root,
            cache_dir=cache_dir,
            resolution=resolution,
            name=name,
            background=background,
            filter=filter,
            max_refused=max_refused,
        )

    @cached_property
    def listing(self) -> Listing:
        """Every picture, in the order of names, with an empty caption."""
        found = []
        for path in pictures_in(self.root):
            key = key_of(path, self.root)
            refused = "" if has_text_name(path.relative_to(self.root)) else NOT_TEXT
            found.append(CaptionedFile(key, path, ("",), key, "test", refused=refused))
        if not found:
            raise DataError(f"{self.root} holds no picture; give a folder of PNG or JPEG files.")
        return Listing(found)


def pictures_in(folder: Path) -> list[Path]:
    """Pictures of a folder and its sub-folders that are not hidden; numbers sort as numbers."""

    def order(path: Path) -> list[Any]:
        parts = re.split(r"(\d+)", str(path.relative_to(folder)))
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]

    return sorted((p for p in image_files(folder) if p.name != "grid.png"), key=order)


@dataclass(frozen=True)
class PictureSizes:
    """Sizes of several pictures; ``str()`` tells them.

    Attributes:
        count: how many pictures.
        smallest: the smallest of their shorter sides, in pixels.
        largest: the largest of their shorter sides, in pixels.
        unreadable: how many more there are whose size cannot be read.
    """

    count: int
    smallest: int
    largest: int
    unreadable: int = 0

    def __str__(self) -> str:
        many = f"{self.count} image{'s' if self.count != 1 else ''}"
        to = "" if self.smallest == self.largest else f" to {self.largest}"
        broken = f" and {self.unreadable} that cannot be read" if self.unreadable else ""
        return f"{many} of {self.smallest}{to} px{broken}"

    @staticmethod
    def of(sizes: Sequence[tuple[int, int]], unreadable: int = 0) -> PictureSizes:
        """Sizes of pictures from their widths and heights.

        Example:
            >>> str(PictureSizes.of([(64, 48), (80, 64)], unreadable=1))
            '2 images of 48 to 64 px and 1 that cannot be read'
        """
        short = [min(size) for size in sizes]
        return PictureSizes(len(short), min(short), max(short), unreadable)


def sizes_in(folder: Path) -> PictureSizes:
    """Sizes of a folder's pictures, from their headers alone.

    Raises:
        DataError: there is no picture that can be read.
    """
    sizes, broken = [], []
    for path in pictures_in(folder):
        try:
            with Image.open(path) as picture:
                sizes.append(picture.size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            broken.append(f"{key_of(path, folder)}: {error}")
    if not sizes:
        first = f" that can be read ({broken[0]})" if broken else ""
        raise DataError(f"{folder} holds no picture{first}; give a folder of PNG or JPEG files.")
    return PictureSizes.of(sizes, len(broken))
