"""Sampling of images value by value in raster order: guidance over a cache, and known values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import Images, TextFeatures
from t2ibench.samplers.autoregressive import NextLogits, guided_logits


def cached_logits(
    network: Any,
    text: TextFeatures,
    null_like: Callable[[TextFeatures], TextFeatures],
    guidance_scale: float,
) -> NextLogits:
    """Logits of the next value from a cache of its own; guidance's two halves form one batch.

    Args:
        network: has ``start_cache(text)`` and ``step(token, position, cache)``.
        text: features of B prompts.
        null_like: gives their unconditional input.
        guidance_scale: w of u + w (c - u); 1 computes the conditional half alone.
    """
    rows = text
    if guidance_scale != 1:
        rows = TextFeatures.cat([text, null_like(text)])
    cache = network.start_cache(rows)

    def next_logits(token: Tensor | None, position: int) -> Tensor:
        if guidance_scale == 1:
            return network.step(token, position, cache)
        both = None if token is None else token.repeat(2)
        conditional, unconditional = network.step(both, position, cache).chunk(2)
        return guided_logits(conditional, unconditional, guidance_scale)

    return next_logits


def completing(
    next_logits: NextLogits, known: Int[Tensor, "B N"], drawn: Bool[Tensor, "B N"]
) -> NextLogits:
    """Next-token logits that leave no choice where a token is known.

    Args:
        next_logits: those of the model.
        known: tokens of the given images, in the order of sampling.
        drawn: True where a token is drawn.
    """

    def logits(token: Tensor | None, position: int) -> Tensor:
        found = next_logits(token, position)
        certain = torch.full_like(found, -torch.inf).scatter(1, known[:, position, None], 0.0)
        return torch.where(drawn[:, position, None], found, certain)

    return logits


def check_side(image: Images, resolution: int) -> None:
    """Refuses an image of another size than is sampled.

    Raises:
        ConfigError: its height or width is another.
    """
    if tuple(image.shape[-2:]) != (resolution, resolution):
        raise ConfigError(
            f"the image to complete is {tuple(image.shape[-2:])} and this model samples "
            f"{resolution} px; resize it."
        )
