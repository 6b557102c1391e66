"""What a configuration is, without training it.

t2ibench info model=diffusion/ldm size=xs          a table
t2ibench info model=gan/gan_int_cls --json         machine-readable

Prints parameters by part, counted FLOPs of a sampled image (at ``knobs.NAME=value`` where they
are given), knobs with ranges, and edits. The networks have shapes alone; nothing is read or
written but the data set's captions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any


def run(arguments: Sequence[str]) -> int:
    """Prints the description of the composed configuration."""
    as_json = "--json" in arguments
    facts = describe([a for a in arguments if a != "--json"])
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return 0
    lines = [f"{facts['model']} (size {facts['size']}, {facts['resolution']} px)"]
    lines += [f"  {name:<28}{count:>14,} parameters" for name, count in facts["parameters"].items()]
    lines.append(f"  {'sampled image':<28}{facts['sample_flops_per_image']:>14.3e} FLOPs")
    for knob in facts["knobs"]:
        front = "  (fidelity-alignment)" if knob["fidelity_alignment"] else ""
        lines.append(
            f"  knobs.{knob['name']:<22}{knob['default']:>14g}  in [{knob['low']:g}, "
            f"{knob['high']:g}]{front}"
        )
    lines.append(f"  edits: {', '.join(facts['edits']) or 'none'}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def describe(overrides: Sequence[str]) -> dict[str, Any]:
    """The facts of a configuration, JSON-ready."""
    from dataclasses import asdict

    import torch

    from t2ibench.cli.build import check_config
    from t2ibench.cli.compose import compose_config, resolve_conditioning
    from t2ibench.cli.pipeline import untrained_module
    from t2ibench.core.knobs import resolve_knobs
    from t2ibench.core.noise import Noise
    from t2ibench.evaluation.cost import count_flops, count_parameters

    cfg = compose_config(overrides)
    resolve_conditioning(cfg)
    check_config(cfg)
    # Shapes alone: a model of a billion weights is described in seconds.
    with torch.device("meta"):
        module, source = untrained_module(cfg)
    caption = source.split("train").records[0].captions[0]
    knobs = resolve_knobs(module.knobs, dict(cfg.knobs))
    flops = count_flops(lambda: module.generate([caption], Noise([0], "meta"), knobs))
    return {
        "model": cfg.model.name,
        "size": cfg.size.name,
        "resolution": source.resolution,
        "conditioning": cfg.conditioning,
        "parameters": count_parameters(module.parts()),
        "sample_flops_per_image": flops,
        "knobs": [asdict(knob) for knob in module.knobs],
        "edits": sorted(module.edits),
    }
