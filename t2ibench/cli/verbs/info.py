"""Describe a configuration without training it.

t2ibench info model=diffusion/fast_unet size=xs    a table
t2ibench info model=gan/fast_painter --json        machine-readable

Prints parameters by part, counted FLOPs of a sampled image (at ``knobs.NAME=value`` where they
are given) and of one that is edited by descent in a GAN's latents, knobs with ranges, and edits.
The networks have shapes but no weights; nothing is read or written but the data set's captions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Prints the description of the composed configuration."""
    from t2ibench.cli.compose import untrained_context
    from t2ibench.engine.describe import describe

    facts = describe(untrained_context([a for a in arguments if a != "--json"]))
    if "--json" in arguments:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return 0
    origin = "as published" if facts["origin"] == "paper" else "this project's own"
    lines = [f"{facts['model']} ({origin}, size {facts['size']}, {facts['resolution']} px)"]
    lines += [f"  {name:<28}{count:>14,} parameters" for name, count in facts["parameters"].items()]
    lines.append(f"  {'sampled image':<28}{facts['sample_flops_per_image']:>14.3e} FLOPs")
    if (descent := facts["edit_flops_per_image"]) is not None:
        lines.append(f"  {'image edited by descent':<28}{descent:>14.3e} FLOPs")
    for knob in facts["knobs"]:
        front = "  (fidelity-alignment)" if knob["fidelity_alignment"] else ""
        lines.append(
            f"  knobs.{knob['name']:<22}{knob['default']:>14g}  in [{knob['low']:g}, "
            f"{knob['high']:g}]{front}"
        )
    lines.append(f"  edits: {', '.join(facts['edits']) or 'none'}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
