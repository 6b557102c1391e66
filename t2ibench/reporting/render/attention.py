"""Attention of words, drawn: where in an image each word of its prompt was looked at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from t2ibench.core.types import PixelImages
from t2ibench.reporting.render.grid import Row, draw_grid, enlargement

DARKEST = 0.15
"""Brightness that is left where a word has no weight."""


def attention_sheet(
    pixels: PixelImages,
    prompts: Sequence[str],
    words: Sequence[Sequence[str]],
    maps: Sequence[Tensor],
) -> Image.Image:
    """A row for each image and attention layer: the image, then one picture a word.

    A word's picture is the image, bright where the word has weight: the greatest weight of the word
    in the map is full brightness.

    Args:
        pixels: (N, 3, H, W).
        prompts: of the images.
        words: of each prompt, as its tokens are called.
        maps: (N, L, h, w) weights of each layer, over words summing to one.
    """
    factor = enlargement(*pixels.shape[2:])
    size = [side * factor for side in pixels.shape[2:]]
    rows = []
    for n, prompt in enumerate(prompts):
        image = interpolate(pixels[n].float()[None], size=size, mode="nearest")
        for of_layer in maps:
            weights = shown(of_layer[n, : len(words[n])].float())
            bright = interpolate(weights[:, None], size=size, mode="bilinear", align_corners=False)
            cells = torch.cat([image, image * (DARKEST + (1 - DARKEST) * bright)])
            label = "" if of_layer is not maps[0] else prompt
            h, w = of_layer.shape[2:]
            drawn = cells.round().clamp(0, 255).byte()
            rows.append(Row(list(drawn), label, [f"{h} x {w}", *words[n]]))
    return draw_grid(rows)


def shown(weights: Tensor) -> Tensor:
    """Maps (L, h, w) of words scaled so that each one's greatest weight is one."""
    return weights / weights.amax((1, 2), keepdim=True).clamp(min=1e-12)
