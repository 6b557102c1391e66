"""First losses, gradients, parameter counts and state-dict names are what they were."""

import json

import pytest
from contract.models import MODELS
from golden.models import FILE, facts

KEPT = json.loads(FILE.read_text())
EXACT = ("trainable_parameters", "keys")

MAXIMA = {"gan/fast_painter": 1e-2, "gan/fast_painter_words": 1e-2}
"""Gradient through maxima over positions: which is the greatest may hang on the last bit."""


def differences(found, kept, model):
    """Names of the facts that differ by more than another CPU's rounding."""
    differing = [name for name in EXACT if found[name] != kept[name]]
    if found["losses"] != pytest.approx(kept["losses"], rel=1e-5, abs=1e-6):
        differing.append("losses")
    for name, tolerance in (("gradient_norm", MAXIMA.get(model, 1e-5)), ("initial_norm", 1e-5)):
        if found[name] != pytest.approx(kept[name], rel=tolerance):
            differing.append(name)
    return differing


def test_every_model_has_golden_facts():
    assert sorted(KEPT) == MODELS


@pytest.mark.parametrize("model", MODELS)
def test_model_is_unchanged(model, shared_cache):
    found = facts(model, shared_cache)
    assert differences(found, KEPT[model], model) == [], found


@pytest.mark.parametrize(
    "model, word, differing",
    [
        ("diffusion/fast_unet", "process.snr_cap=4.9", ["losses", "gradient_norm"]),
        ("autoregressive/fast_gpt", "label_smoothing=0.01", ["losses", "gradient_norm"]),
        ("gan/fast_painter", "matching_weight=0.99", ["losses"]),
        ("gan/fast_painter_words", "redescription_weight=0.99", ["losses"]),
        ("gan/fast_painter", "wrong_weight=0.49", ["losses"]),
        ("gan/fast_painter", "gradient_penalty_weight=1.0", ["gradient_norm"]),
        ("gan/fast_painter", "interpolation_weight=0.01", ["losses"]),
        ("diffusion/adm", "process.timesteps=900", ["losses", "gradient_norm"]),
        ("diffusion/fast_dit", "network.long_skips=true", ["losses", "gradient_norm"]),
    ],
)
def test_a_changed_loss_is_noticed(model, word, differing, shared_cache):
    found = facts(model, shared_cache, f"model.module.{word}")
    assert set(differing) <= set(differences(found, KEPT[model], model)), found
