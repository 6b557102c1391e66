"""Description of a specification without training it: parameters, FLOPs, knobs, edits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from t2ibench.core.edits import ImageToImage
from t2ibench.core.knobs import resolve_knobs
from t2ibench.core.noise import SeededNoise
from t2ibench.engine.assemble import untrained_module
from t2ibench.engine.context import Context
from t2ibench.evaluation.cost import count_parameters
from t2ibench.evaluation.flops import count_flops
from t2ibench.evaluation.repeated_calls import RepeatedCalls
from t2ibench.families.contract import TextToImageModule

STEPS = "num_steps"
DESCENT = "inversion_steps"
"""Knob of a model whose edits descend in its latents (``families/gan/inversion.py``)."""


def over_steps(flops_of: Callable[[dict[str, float]], float], knobs: Mapping[str, float]) -> float:
    """FLOPs at the knobs; as all sampling steps cost alike, only two and three are counted."""
    steps = knobs.get(STEPS, 1)
    if steps <= 3:
        return flops_of({})
    two, three = flops_of({STEPS: 2}), flops_of({STEPS: 3})
    return two + (steps - 2) * (three - two)


def descent_flops(
    module: TextToImageModule, knobs: Mapping[str, float], device: torch.device, left: float = 1.0
) -> float | None:
    """FLOPs of an image that is edited by descent; None where the model has no such edits.

    Args:
        module: a model, which may have shapes alone.
        knobs: complete knobs.
        device: where it is.
        left: share of the steps that the edit takes (1 - strength of img2img).
    """
    if DESCENT not in knobs:
        return None
    image = torch.zeros(1, 3, module.resolution, module.resolution, device=device)

    def flops_of(steps: int) -> float:
        noise, some = SeededNoise([0], device), dict(knobs) | {DESCENT: float(steps)}
        edit = ImageToImage(image, 0.0)
        return count_flops(lambda: module.generate([""], noise, some, edit=edit))

    # All steps cost alike.
    one, two = flops_of(1), flops_of(2)
    return one + (round(left * knobs[DESCENT]) - 1) * (two - one)


def describe(context: Context) -> dict[str, Any]:
    """Description of a model, JSON-ready; its networks have shapes but no weights.

    A model of a billion weights is described in seconds, without their memory.
    """
    spec, meta = context.spec, torch.device("meta")
    sketched = replace(context, device=meta)
    with meta:
        module = untrained_module(sketched)
    caption = next(iter(sketched.source.captions_with_every_word("train")))
    knobs = resolve_knobs(module.knobs, spec.knobs)
    calls = RepeatedCalls([module, *module.guarded_parts().values()])

    def flops_of(changed: dict[str, float]) -> float:
        noise = SeededNoise([0], "meta")
        return calls.count(lambda: module.generate([caption], noise, knobs | changed))

    return {
        "model": spec.model.name,
        "origin": spec.model.origin,
        "size": spec.size,
        "resolution": spec.data.resolution,
        "conditioning": spec.conditioning,
        "parameters": count_parameters(module.parts()),
        "sample_flops_per_image": over_steps(flops_of, knobs),
        "edit_flops_per_image": descent_flops(module, knobs, meta),
        "knobs": [asdict(knob) for knob in module.knobs],
        "edits": sorted(module.edits),
    }
