"""Description of a specification without training it: parameters, FLOPs, knobs, edits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from t2ibench.core.knobs import resolve_knobs
from t2ibench.core.noise import SeededNoise
from t2ibench.engine.assemble import untrained_module
from t2ibench.engine.context import Context
from t2ibench.evaluation.cost import count_parameters
from t2ibench.evaluation.repeated_calls import RepeatedCalls

STEPS = "num_steps"


def over_steps(flops_of: Callable[[dict[str, float]], float], knobs: Mapping[str, float]) -> float:
    """FLOPs at the knobs; as all sampling steps cost alike, only two and three are counted."""
    steps = knobs.get(STEPS, 1)
    if steps <= 3:
        return flops_of({})
    two, three = flops_of({STEPS: 2}), flops_of({STEPS: 3})
    return two + (steps - 2) * (three - two)


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
        "knobs": [asdict(knob) for knob in module.knobs],
        "edits": sorted(module.edits),
    }
