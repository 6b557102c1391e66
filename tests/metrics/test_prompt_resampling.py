"""Many models on the same prompts: each pair has the numbers that it would have alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.core.errors import ScoreError
from t2ibench.metrics import prompt_resampling
from t2ibench.metrics.bootstrap import bootstrap_mean
from t2ibench.metrics.inference import rank_probabilities
from t2ibench.metrics.prompt_resampling import PromptSums, resampled_means, sign_flip_p_values


def drawn_alone(a, b, clusters, permutations, seed=0):
    """The test of one pair as it is defined: each pattern drawn, its sum of gaps counted."""
    names = sorted(set(clusters), key=repr)
    gaps = np.array(a) - np.array(b)
    sums = np.array([gaps[[c == name for c in clusters]].sum() for name in names])
    signs = 1 - 2 * np.random.default_rng(seed).integers(
        0, 2, size=(permutations, len(names)), dtype=np.int8
    ).astype(float)
    extreme = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9
    return (extreme.sum() + 1) / (permutations + 1)


def test_a_pair_among_many_is_tested_as_if_alone():
    rng = np.random.default_rng(0)
    clusters = [f"k{i // 2}" for i in range(60)]
    base = rng.normal(size=60)
    columns = [base + rng.normal(shift, 1, 60) for shift in (0, 0.2, 0.4, 0.8, 2.0)]
    pairs = np.array([(i, j) for i in range(5) for j in range(i)])
    found = sign_flip_p_values(PromptSums.of(columns, clusters), pairs, permutations=4999)
    alone = [drawn_alone(columns[i], columns[j], clusters, 4999) for i, j in pairs]
    drawn = found > 1e-5
    assert found[drawn].tolist() == pytest.approx(np.array(alone)[drawn].tolist(), abs=1e-12)
    assert all(p == pytest.approx(1 / 5000) for p in np.array(alone)[~drawn])
    assert 0 < (~drawn).sum() < drawn.sum() and found.max() > 0.05


def test_ties_count_as_extreme_however_large_the_values_are():
    """Equal models, and models that differ on one prompt, whose every pattern is a tie."""
    base = 1e3 + np.random.default_rng(0).random(400)
    other = base.copy()
    other[7] += 1e-4
    table = PromptSums.of([base, base.copy(), other])
    assert sign_flip_p_values(table, np.array([[0, 1], [0, 2]])).tolist() == [1.0, 1.0]


def test_blocks_change_no_number(monkeypatch):
    rng = np.random.default_rng(1)
    table = PromptSums.of(list(rng.normal(size=(4, 100))))
    pairs = np.array([[0, 1], [2, 3], [1, 2]])
    once = sign_flip_p_values(table, pairs), resampled_means(table, 100)
    monkeypatch.setattr(prompt_resampling, "SIGNS_AT_ONCE", 1600)
    monkeypatch.setattr(prompt_resampling, "NUMBERS_AT_ONCE", 700)
    monkeypatch.setattr(prompt_resampling, "PAIRS_AT_ONCE", 2)
    again = sign_flip_p_values(table, pairs), resampled_means(table, 100)
    assert np.array_equal(once[0], again[0]) and np.allclose(once[1], again[1])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_what_is_not_drawn_would_have_turned_up_nothing(seed, shift):
    """The Gaussian bound is above the exact p-value of few prompts, so none is passed wrongly."""
    rng = np.random.default_rng(seed)
    sums = rng.normal(shift, 1, size=(10, 2))
    pairs = np.array([[0, 1]])
    exact = sign_flip_p_values(PromptSums.of(list(sums.T)), pairs)
    observed = abs((sums[:, 0] - sums[:, 1]).sum())
    bound = prompt_resampling._bound(sums, pairs, np.array([observed]))
    assert exact[0] <= bound[0] + 1e-12


def test_the_gaussian_bound_is_reached_and_never_passed():
    """Two equal weights reach it; where it was cut after three decimals, they passed it."""
    sums, pairs = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0, 1]])
    exact = sign_flip_p_values(PromptSums.of(list(sums.T)), pairs)
    bound = prompt_resampling._bound(sums, pairs, np.array([2.0]))
    assert exact[0] == 0.5 and bound[0] == pytest.approx(0.5, rel=1e-12)


def test_bootstraps_are_those_of_each_pair_alone():
    rng = np.random.default_rng(2)
    clusters = [i // 3 for i in range(90)]
    columns = list(rng.normal(size=(3, 90)))
    means = resampled_means(PromptSums.of(columns, clusters))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        alone = bootstrap_mean(columns[i] - columns[j], clusters)
        ends = np.quantile(means[:, i] - means[:, j], [0.025, 0.975])
        assert ends == pytest.approx((alone.ci_low, alone.ci_high), abs=1e-12)


def test_prompts_are_drawn_once_for_all_models():
    """A model that is better on every prompt by a hair is best in every world."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=300)
    worlds = resampled_means(PromptSums.of([base, base + 1e-3], [i // 3 for i in range(300)]))
    assert rank_probabilities(worlds)[0, 0] == 1.0
    assert worlds[:, 0].std() == pytest.approx(base.std() / 300**0.5, rel=0.35)


def test_columns_that_do_not_belong_together_are_refused():
    with pytest.raises(ScoreError, match="one length above 0, got 3, 5"):
        PromptSums.of([np.zeros(3), np.zeros(5)])
    with pytest.raises(ScoreError, match="1 of 3 values are not finite"):
        PromptSums.of([np.array([0, np.nan, 1.0]), np.zeros(3)])
