"""`t2ibench info` tells of every model what it is, from shapes alone."""

import json
from pathlib import Path

import pytest

from t2ibench.cli.compose import config_dir
from t2ibench.cli.main import main

MODELS = sorted(
    str(path.relative_to(config_dir() / "model").with_suffix(""))
    for path in Path(config_dir() / "model").rglob("*.yaml")
)

STEPS = {"gan/fast_painter": [], "autoregressive/fast_gpt": []}
"""Those that do not sample in steps."""

MINUTE = ("diffusion/fast_imagen_sr", "autoregressive/fast_gpt")
"""Whose sampling has thousands of operations."""


@pytest.mark.parametrize(
    "model", [pytest.param(m, marks=[pytest.mark.slow] if m in MINUTE else []) for m in MODELS]
)
def test_every_model_is_described(model, capsys, shared_cache):
    few = [f"knobs.{name}=2" for name in STEPS.get(model, ["num_steps"])]
    words = ["info", f"model={model}", f"paths.cache={shared_cache}", *few, "--json"]
    assert main(words) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"] == model
    assert facts["sample_flops_per_image"] > 0
    assert sum(facts["parameters"].values()) > 10_000
    assert sum(knob["fidelity_alignment"] for knob in facts["knobs"]) == 1
