"""Figures of word attention: what each word of a prompt did to its image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import resolve_knobs
from t2ibench.core.noise import SeededNoise
from t2ibench.engine.generator import Generator, Pictures
from t2ibench.reporting.render.attention import attention_sheet
from t2ibench.reporting.render.grid import check_png, write_png

MOST = 16
"""Images of a sheet."""


def check_attention(path: str, module: Any) -> None:
    """Refuses a file that is no PNG, and a model whose images attend to no words.

    Raises:
        ConfigError: either.
    """
    check_png("attention", path)
    if not module.draws_attention:
        raise ConfigError(
            f"attention={path}: {type(module).__name__} with this conditioning has no attention to "
            "words that is drawn; a run of model=gan/attn_gan has."
        )


@torch.no_grad()
def save_attention(
    path: str, generator: Generator, found: Pictures, knobs: Mapping[str, float]
) -> None:
    """Writes the sheet of the first images that a call has drawn.

    Args:
        path: the PNG.
        generator: the run that drew them.
        found: its images.
        knobs: as typed, with which they were drawn.
    """
    module, count = generator.loaded.module, min(MOST, len(found))
    captions, seeds = found.captions[:count], found.seeds[:count]
    values = resolve_knobs(module.knobs, generator.loaded.operating_point() | dict(knobs))
    text = module.encode_captions(captions)
    maps = module.attention_maps(text, SeededNoise(seeds, module.device), values)
    words = [module.text_encoder.token_words(caption) for caption in captions]
    sheet = attention_sheet(found.pixels[:count], captions, words, [m.cpu() for m in maps])
    write_png(sheet, path)
