"""A study as a W&B sweep: ``wandb sweep sweep.yaml``, then ``wandb agent``."""

from __future__ import annotations

import math
from typing import Any

from t2ibench.reporting.read.studies import Study


def sweep_definition(study: Study, project: str) -> dict[str, Any] | None:
    """Defines a grid over the overrides in which a study's runs differ.

    Each agent types ``t2ibench train`` with one combination, so its run is the study's run:
    finished ones are skipped. ``logger=wandb`` is added, without which the sweep would see
    nothing.

    Returns:
        None where the runs are no full grid, which W&B's sweeps cannot list.
    """
    typed = [dict(_parted(o) for o in run.overrides) for run in study.planned]
    names = list(dict.fromkeys(name for run in typed for name in run))
    values = {n: list(dict.fromkeys(run[n] for run in typed if n in run)) for n in names}
    complete = all(set(run) == set(names) for run in typed)
    combinations = {tuple(run.get(name) for name in names) for run in typed}
    if not names or not complete or len(combinations) != math.prod(map(len, values.values())):
        return None
    fixed = {name: values[name][0] for name in names if len(values[name]) == 1}
    fixed.setdefault("logger", "wandb")
    return {
        "name": study.name,
        "project": project,
        "method": "grid",
        "program": "t2ibench",
        "command": [
            "t2ibench",
            "train",
            *(f"{name}={value}" for name, value in fixed.items()),
            "${args_no_hyphens}",
        ],
        "parameters": {name: {"values": values[name]} for name in names if name not in fixed},
    }


def _parted(override: str) -> tuple[str, str]:
    name, _, value = override.partition("=")
    return name, value
