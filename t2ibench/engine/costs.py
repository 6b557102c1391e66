"""Costs of a scored run: training from its clock, sampling measured, frozen encodings counted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from t2ibench.core.noise import SeededNoise
from t2ibench.core.pixels import from_pixels
from t2ibench.engine.load import LoadedRun
from t2ibench.engine.sampling import timed_sampling
from t2ibench.evaluation.cost import measure_cost
from t2ibench.evaluation.flops import count_flops

log = logging.getLogger(__name__)


def frozen_flops(loaded: LoadedRun) -> dict[str, float]:
    """FLOPs of frozen parts' cached encodings of the training split.

    They are reported, not charged to a budget: every run on the same data shares them.
    """
    module, train = loaded.module, loaded.source.split("train")
    found, image = {}, from_pixels(train.pixels([0])).to(loaded.context.device)
    with torch.no_grad():
        for name, target in module.targets().items():
            found[name] = count_flops(partial(target.make, image)) * len(train)
        if module.text_encoder.cacheable:
            captions = [caption for record in train.records for caption in record.captions]
            one = count_flops(lambda: module.text_encoder.encode(captions[:1]))
            found["text_encoder"] = one * len(set(captions))
    return found


def cost_facts(loaded: LoadedRun, knobs: Mapping[str, float], folder: Path) -> dict[str, Any]:
    """Training cost from the clock, sampling cost measured now and while ``folder`` was drawn."""
    module, clock, device = loaded.module, loaded.clock, loaded.context.device
    captions = [r.captions[0] for r in loaded.source.split("train").records[:256]]

    def sample(count: int) -> object:
        prompts = list(islice(cycle(captions), count))
        return module.generate(prompts, SeededNoise(range(count), device), knobs)

    seconds, known = loaded.spec.protocol.cost_seconds, timed_sampling(folder, device)
    report = measure_cost(sample, module.parts(), device, seconds=seconds, known=known)
    measured = report.to_dict()
    if measured["busy"]:
        log.warning("%s: %s.", loaded.run.path.name, measured["busy"])
    return {
        "train_images": clock.images_seen,
        "train_flops": clock.flops,
        "train_flops_by_part": {
            name: count * clock.images_seen for name, count in clock.flops_by_part.items()
        },
        "frozen_flops": frozen_flops(loaded),
        "train_seconds": clock.seconds,
        "parts_flops": clock.parts_flops,
        "parts_seconds": clock.parts_seconds,
    } | measured
