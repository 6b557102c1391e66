"""Training inputs from a specification: options, cached targets, cached text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from t2ibench.core.pixels import from_pixels
from t2ibench.core.types import Batch, TextFeatures
from t2ibench.data.cache import ArrayCache
from t2ibench.data.records import DataSource, PreparedSplit
from t2ibench.engine.context import Context
from t2ibench.engine.device import training_precision
from t2ibench.engine.spec import TrainingRecipe
from t2ibench.families.contract import Target, TextToImageModule
from t2ibench.text.cache import FrozenTextCache
from t2ibench.text.contract import TextEncoder
from t2ibench.training.fit import TrainingOptions

ENCODED_AT_ONCE = 128
"""Batch size in which a frozen part encodes images."""


def options_of(context: Context, recipe: TrainingRecipe) -> TrainingOptions:
    """Options of a training: trainer settings joined with a recipe, the precision resolved."""
    trainer = context.spec.trainer
    return TrainingOptions(
        warmup_images=recipe.warmup_images,
        decay=recipe.decay,
        ema_half_life_images=recipe.ema_half_life_images,
        log_every_images=trainer.log_every_images,
        checkpoint_every_seconds=trainer.checkpoint_every_seconds,
        accelerator="cpu" if context.device.type == "cpu" else "gpu",
        devices=trainer.devices,
        precision=training_precision(trainer.precision, context.device),
        progress=trainer.progress,
        validate_every_images=trainer.validate_every_images,
        compile=trainer.compile,
        strategy=trainer.strategy,
        num_nodes=trainer.num_nodes,
    )


def cached_targets(
    context: Context, module: TextToImageModule, split: PreparedSplit
) -> dict[str, np.ndarray]:
    """Targets of a whole split from frozen parts, computed once for a part and a data set.

    The module is on the context's device while its parts work.
    """
    found = {}
    for name, target in module.targets().items():
        cache = ArrayCache(context.spec.paths.cache_folder / name)
        key = f"{split.fingerprint}-{target.fingerprint}-{name}"
        build = partial(encoded, context, name, target, split)
        found[name] = cache.get_or_build(key, build)[name]
    return found


@torch.no_grad()
def encoded(
    context: Context, name: str, target: Target, split: PreparedSplit
) -> dict[str, torch.Tensor]:
    """One target of every image of a split, by its name, on the CPU."""
    pieces = []
    for start in range(0, len(split), ENCODED_AT_ONCE):
        rows = range(start, min(start + ENCODED_AT_ONCE, len(split)))
        images = from_pixels(split.pixels(rows)).to(context.device)
        pieces.append(target.make(images).cpu())
    return {name: torch.cat(pieces)}


def cached_text(
    context: Context, encoder: TextEncoder, train: PreparedSplit
) -> Callable[..., TextFeatures] | None:
    """A frozen encoder's filled disk cache; None where the module encodes as it trains."""
    if not encoder.cacheable:
        return None
    cache = FrozenTextCache(encoder, context.spec.paths.cache_folder / "text")
    cache.warm([caption for record in train.records for caption in record.captions])
    return cache


def validation_batch(source: DataSource, count: int = 64) -> Batch:
    """The first validation images with their first captions."""
    split = source.split("val")
    count = min(count, len(split))
    return Batch(
        from_pixels(split.pixels(slice(0, count))),
        [record.captions[0] for record in split.records[:count]],
        torch.arange(count),
    )
