"""Rank probabilities, from run folders."""

import pytest
from run_folders import KEYS, write_run

from t2ibench.reporting import analyse, gather


def test_one_seed_resamples_prompts_or_samples(analysis):
    found = {ranking.key: ranking for ranking in analysis.rankings}
    assert found[KEYS["clip_score"]].basis == "prompts"
    assert found[KEYS["fd"]].basis == "samples"
    for ranking in found.values():
        shares = ranking.probabilities
        assert set(shares) == {"ldm", "vqgan_gpt", "gan_int_cls"}
        for rank in range(3):
            assert sum(row[rank] for row in shares.values()) == pytest.approx(1)
    best = {label: p[0] for label, p in found[KEYS["fd"]].probabilities.items()}
    assert best["ldm"] > 0.95, "its distance is 10.5 below the next, three intervals away"
    assert best["gan_int_cls"] < 0.01


def test_several_seeds_resample_trainings(tmp_path):
    runs = [write_run(tmp_path, "diffusion/ldm", s) for s in range(3)]
    runs += [write_run(tmp_path, "gan/gan_int_cls", s) for s in range(3)]
    found = analyse(*gather(runs)).rankings
    assert {ranking.basis for ranking in found} == {"training seeds"}


def test_one_model_has_no_rank(tmp_path):
    assert analyse(*gather([write_run(tmp_path, "gan/gan_int_cls", 0)])).rankings == ()
