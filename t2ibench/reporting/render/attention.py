"""Attention of words, drawn: where in an image each word of its prompt was looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate

from t2ibench.core.types import PixelImages

SMALLEST_CELL, GAP, LABEL, FONT = 96, 4, 18, 12
"""Least side of a cell, white between cells, height of a word's label and of its letters."""

DARKEST = 0.15
"""Brightness that is left where a word has no weight."""

INK = (40, 40, 40)
"""Colour of words."""


def attention_sheet(
    pixels: PixelImages, words: Sequence[Sequence[str]], maps: Sequence[Tensor]
) -> Image.Image:
    """A row for each image and attention layer: the image, then one picture a word.

    A word's picture is the image, bright where the word has weight: the greatest weight of the word
    in the map is full brightness.

    Args:
        pixels: (N, 3, H, W).
        words: of each image's prompt, as its tokens are called.
        maps: (N, L, h, w) weights of each layer, over words summing to one.
    """
    side = max(pixels.shape[-1], SMALLEST_CELL)
    columns = 1 + max(map(len, words))
    rows = len(pixels) * len(maps)
    size = (columns * (side + GAP) + GAP, rows * (side + LABEL + GAP) + GAP)
    sheet = Image.new("RGB", size, (255, 255, 255))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for row in range(rows):
        n, layer = divmod(row, len(maps))
        image = enlarged(pixels[n].float()[None], side, "nearest")
        weights = maps[layer][n, : len(words[n])].float()
        bright = enlarged(shown(weights)[:, None], side, "bilinear")
        cells = torch.cat([image, image * (DARKEST + (1 - DARKEST) * bright)])
        h, w = maps[layer].shape[2:]
        labels = [f"{h} x {w}", *words[n]]
        top = GAP + row * (side + LABEL + GAP)
        for column, (cell, label) in enumerate(zip(cells, labels, strict=True)):
            left = GAP + column * (side + GAP)
            array = cell.round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(np.ascontiguousarray(array)), (left, top))
            pen.text((left, top + side + 2), label, fill=INK, font=font)
    return sheet


def shown(weights: Tensor) -> Tensor:
    """Maps (L, h, w) of words scaled so that each one's greatest weight is one."""
    return weights / weights.amax((1, 2), keepdim=True).clamp(min=1e-12)


def enlarged(images: Tensor, side: int, mode: str) -> Tensor:
    """Images (B, C, h, w) at ``side`` pixels."""
    options = {} if mode == "nearest" else {"align_corners": False}
    return interpolate(images, size=(side, side), mode=mode, **options)
