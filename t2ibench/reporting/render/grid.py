"""Images in rows and columns with their texts, as one picture: figures for a slide or a paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from t2ibench.core.errors import ConfigError
from t2ibench.core.files import atomic_path

SMALLEST_CELL, SMALLEST_FONT = 128, 14
"""Least side of an image, to which smaller ones are enlarged, and least size of letters."""

FONT_SHARE = 14
"""Side of an image over the size of letters, where images are large."""

LABEL_WIDTH = 14
"""Greatest width of a row's label over the size of letters."""

GAP, PADDING = 8, 14
"""White between images, and around all that is drawn."""

INK, PALE_INK, FRAME = (30, 30, 30), (110, 110, 110), (205, 205, 205)
"""Colours of texts, of the title, and of the line around an image."""

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
Picture = UInt8[Tensor, "3 _ _"]


@dataclass(frozen=True)
class Row:
    """One row of a grid.

    Attributes:
        cells: its images, of any sizes.
        label: text at its left.
        heads: text above each image; none: no such line.
    """

    cells: Sequence[Picture]
    label: str = ""
    heads: Sequence[str] = ()


def enlargement(height: int, width: int) -> int:
    """The whole factor by which images are enlarged: to ``SMALLEST_CELL`` at least.

    Example:
        >>> [enlargement(side, side) for side in (32, 100, 256)]
        [4, 2, 1]
    """
    return -(-SMALLEST_CELL // min(height, width))


def draw_grid(rows: Sequence[Row], title: str = "") -> Image.Image:
    """Draws rows of images in columns of one width, with texts that are wrapped and never cut.

    Images are enlarged by nearest neighbour and by whole factors alone, so that each pixel of
    theirs is a square: the largest by ``enlargement``, smaller ones to at most that size.

    Args:
        rows: at least one, with an image at least.
        title: text above all.
    """
    cells = [cell for row in rows for cell in row.cells]
    tallest, widest = max(c.shape[1] for c in cells), max(c.shape[2] for c in cells)
    factor = enlargement(tallest, widest)
    height, width = tallest * factor, widest * factor
    letters = max(SMALLEST_FONT, min(height, width) // FONT_SHARE)
    font = ImageFont.load_default(letters)
    line = sum(font.getmetrics()) if isinstance(font, ImageFont.FreeTypeFont) else letters

    labels = [wrapped(row.label, font, LABEL_WIDTH * letters) for row in rows]
    heads = [[wrapped(head, font, width) for head in row.heads] for row in rows]
    margin = max((font.getlength(text) for label in labels for text in label), default=0)
    left = PADDING + (int(margin) + 2 * GAP if margin else 0)
    columns = max(len(row.cells) for row in rows)
    right = left + columns * (width + GAP) - GAP + PADDING
    titles = wrapped(title, font, right - 2 * PADDING)
    above = [max(map(len, row), default=0) * line + (GAP // 2 if row else 0) for row in heads]
    below = [max(height, len(label) * line) + GAP for label in labels]
    top = PADDING + len(titles) * line + (GAP if titles else 0)

    sheet = Image.new("RGB", (right, top + sum(above) + sum(below) - GAP + PADDING), "white")
    pen = ImageDraw.Draw(sheet)

    def write(lines: Sequence[str], x: float, y: float, anchor: str, ink: tuple[int, ...]) -> None:
        for number, text in enumerate(lines):
            pen.text((x, y + number * line), text, fill=ink, font=font, anchor=anchor)

    write(titles, PADDING, PADDING, "la", PALE_INK)
    for row, label, head, over, high in zip(rows, labels, heads, above, below, strict=True):
        top += over
        write(label, PADDING, top + max(0, height - len(label) * line) // 2, "la", INK)
        for column, cell in enumerate(row.cells):
            x = left + column * (width + GAP)
            picture = enlarged(cell, height, width)
            at = (x + (width - picture.width) // 2, top + (height - picture.height) // 2)
            corner = (at[0] + picture.width, at[1] + picture.height)
            pen.rectangle((at[0] - 1, at[1] - 1, *corner), outline=FRAME)
            sheet.paste(picture, at)
            if head:
                begin = top - GAP // 2 - len(head[column]) * line
                write(head[column], x + width / 2, begin, "ma", INK)
        top += high
    return sheet


def enlarged(cell: Picture, height: int, width: int) -> Image.Image:
    """An image at the greatest whole multiple of its size that fits."""
    h, w = cell.shape[1:]
    picture = Image.fromarray(np.ascontiguousarray(cell.permute(1, 2, 0).numpy()))
    factor = max(1, min(height // h, width // w))
    return picture.resize((w * factor, h * factor), Image.Resampling.NEAREST)


def wrapped(text: str, font: Font, width: float) -> list[str]:
    """Lines of a text that are no wider than ``width`` pixels; a word that is wider is broken.

    Example:
        >>> wrapped("a small red ring", ImageFont.load_default(14), 60)
        ['a small', 'red ring']
    """
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def check_png(option: str, path: str) -> None:
    """Refuses a figure's file that is no PNG.

    Raises:
        ConfigError: its name says another format, or it is a folder.
    """
    target = Path(path).expanduser()
    if target.suffix.lower() != ".png" or target.is_dir():
        raise ConfigError(f"{option}={path} must be a file that ends in .png.")


def write_png(picture: Image.Image, path: str | Path) -> None:
    """Writes a figure, whole or not at all.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    with atomic_path(Path(path).expanduser()) as aside:
        picture.save(aside, format="PNG")
