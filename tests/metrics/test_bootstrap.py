"""Intervals: coverage on known distributions, clusters, pairing, determinism."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from t2ibench.core.errors import ScoreError
from t2ibench.metrics.bootstrap import (
    bootstrap_mean,
    half_sample_values,
    half_samples,
    halves_interval,
    halves_p_value,
)


def test_interval_of_a_mean_matches_the_normal_theory():
    values = np.random.default_rng(0).normal(2.0, 3.0, 4000)
    estimate = bootstrap_mean(values)
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.ci_high - estimate.value == pytest.approx(half, rel=0.1)
    assert estimate.value - estimate.ci_low == pytest.approx(half, rel=0.1)


def test_clusters_widen_the_interval_by_the_design_effect():
    rng = np.random.default_rng(1)
    per_prompt = rng.normal(size=300)
    values = np.repeat(per_prompt, 9)
    keys = [f"prompt {i}" for i in range(300) for _ in range(9)]
    alone, clustered = bootstrap_mean(values), bootstrap_mean(values, keys)
    ratio = (clustered.ci_high - clustered.ci_low) / (alone.ci_high - alone.ci_low)
    assert ratio == pytest.approx(3.0, rel=0.12)


def test_unequal_clusters_keep_the_mean_over_images():
    values = np.array([1.0, 1.0, 1.0, 0.0])
    assert bootstrap_mean(values, ["a", "a", "a", "b"]).value == 0.75


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 5))
def test_a_mean_of_answers_stays_between_its_ends_and_in_range(answers, seed):
    estimate = bootstrap_mean(np.array(answers), replicates=200, seed=seed)
    assert 0 <= estimate.ci_low <= estimate.value + 1e-12
    assert estimate.value - 1e-12 <= estimate.ci_high <= 1
    assert estimate == bootstrap_mean(np.array(answers), replicates=200, seed=seed)


def test_pairing_finds_a_difference_that_unpaired_intervals_hide():
    rng = np.random.default_rng(2)
    prompt_difficulty = rng.normal(0, 5, 400)
    a = prompt_difficulty + rng.normal(0.3, 0.5, 400)
    b = prompt_difficulty + rng.normal(0.0, 0.5, 400)
    assert bootstrap_mean(a - b).ci_low > 0
    assert bootstrap_mean(a).ci_low < bootstrap_mean(b).ci_high


def test_the_spread_of_halves_is_the_sd_at_full_size():
    values = np.random.default_rng(3).normal(0, 2, 1000)
    halves = half_sample_values(lambda kept: values[kept].mean(), 1000, replicates=400)
    assert halves.std(ddof=1) == pytest.approx(2 / 1000**0.5, rel=0.12)


def test_halves_keep_prompts_whole():
    keys = [i // 4 for i in range(40)]
    halves = half_samples(40, 5, clusters=keys)
    assert halves.sum(1).tolist() == [20] * 5
    assert all(len(set(group)) == 1 for row in halves for group in row.reshape(10, 4))


def spread_like(sd, count):
    """Halves of a given standard deviation."""
    halves = np.arange(count, dtype=float)
    return halves * sd / halves.std(ddof=1)


def test_the_interval_of_halves_is_centred():
    found = halves_interval(3.0, spread_like(1.0, 8))
    assert found.ci_high - 3.0 == pytest.approx(2.365, abs=1e-3)
    assert found.ci_low + found.ci_high == pytest.approx(6.0)
    many = halves_interval(3.0, spread_like(1.0, 10**6))
    assert many.ci_high - 3.0 == pytest.approx(1.96, abs=1e-3)


def test_paired_halves_test_the_difference_alone():
    """scipy's t-test of the differences, their spread that at full size (no division by R)."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 5, 64)
    a, b = shared + rng.normal(0, 0.1, 64), shared + rng.normal(0, 0.1, 64)
    centred = (a - a.mean()) - (b - b.mean())
    gap = 0.25
    # A t-test of one sample divides by sqrt(R); without that division the statistic is ours.
    expected = ttest_1samp(centred + gap / 64**0.5, 0).pvalue
    assert halves_p_value(10 + gap, 10.0, tuple(a), tuple(b)) == pytest.approx(expected, rel=1e-9)
    assert halves_p_value(11.0, 10.0, tuple(a), tuple(b)) < 1e-6
    assert halves_p_value(11.0, 10.0, tuple(a), tuple(b[::-1])) > 0.5, "other halves are no pairs"
    assert halves_p_value(1.0, 1.0, tuple(a), tuple(a)) == 1.0
    assert halves_p_value(2.0, 1.0, tuple(a), tuple(a)) == 0.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_mean(np.array([])), "no values"),
        (lambda: bootstrap_mean(np.array([1.0, np.nan])), "not finite"),
        (lambda: bootstrap_mean(np.array([1.0, 2.0]), ["a"]), "cluster keys"),
        (lambda: half_samples(3, 2), "at least 4"),
        (
            lambda: halves_p_value(1.0, 2.0, [1.0, 2.0], [1.0]),
            "same halves of both",
        ),
    ],
)
def test_impossible_inputs_are_named(call, words):
    with pytest.raises(ScoreError, match=words):
        call()
