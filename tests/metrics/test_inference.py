"""Tests of the tests: levels under the null, exact small cases, closed forms of fronts."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm, permutation_test

from t2ibench.core.errors import ScoreError
from t2ibench.metrics.inference import (
    at_equal,
    hypervolume,
    rank_probabilities,
    resampled_group_means,
    sign_flip_p_value,
)


def test_few_prompts_are_tested_exactly_as_scipy_does():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.6, 1, 9), rng.normal(0, 1, 9)
    theirs = permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    )
    assert sign_flip_p_value(a, b) == pytest.approx(theirs.pvalue)


def test_clusters_swap_together():
    a = np.array([1.0, 1, 1, 1, 1, 1, 1, 1])
    assert sign_flip_p_value(a, 0 * a, list("aabbccdd")) == pytest.approx(2 / 2**4)
    assert sign_flip_p_value(a, 0 * a) == pytest.approx(2 / 2**8)


def test_p_values_are_uniform_under_the_null():
    """The share of p <= alpha lies where a fair test's would in 1 of 1000 at each end."""
    rng = np.random.default_rng(1)
    trials = 600
    found = []
    for trial in range(trials):
        values = rng.exponential(size=(2, 40)) + rng.normal(size=40)
        found.append(sign_flip_p_value(*values, permutations=199, seed=trial))
    for alpha in (0.05, 0.2, 0.5):
        low, high = binom.interval(0.998, trials, alpha)
        assert low <= (np.array(found) <= alpha).sum() <= high, alpha


def test_a_real_difference_is_found_and_the_floor_is_the_number_of_patterns():
    rng = np.random.default_rng(2)
    b = rng.normal(size=200)
    sure = sign_flip_p_value(b + 1, b, permutations=999)
    assert sure == pytest.approx(2 * 3.178 * norm.sf(200**0.5)), "its bound, as all gaps are 1"
    assert sure >= 2 * 0.5**200, "the exact one is not above it"
    drawn = sign_flip_p_value(b + 0.25 * rng.normal(1, 1, 200), b, permutations=19)
    assert drawn == pytest.approx(1 / 20) or drawn < 1e-3
    assert sign_flip_p_value(b, b) == 1.0
    with pytest.raises(ScoreError, match="one length"):
        sign_flip_p_value(b, b[:3])
    with pytest.raises(ScoreError, match="1 of 200"):
        sign_flip_p_value(b, np.where(np.arange(200) == 5, np.nan, b))


@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 99))
def test_rank_probabilities_are_doubly_stochastic(models, worlds, seed):
    draws = np.random.default_rng(seed).integers(0, 4, size=(worlds, models)).astype(float)
    found = rank_probabilities(draws)
    assert np.allclose(found.sum(0), 1) and np.allclose(found.sum(1), 1)


def test_ranks_of_certain_and_equal_models():
    sure = rank_probabilities(np.array([[1.0, 3.0, 2.0]] * 5))
    assert np.array_equal(sure, [[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    equal = rank_probabilities(np.array([[1.0, 1.0, 2.0]]))
    assert np.array_equal(equal, [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])


def test_seeds_rank_as_their_student_posterior_says():
    groups = [np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.5, 3.5])]
    best = rank_probabilities(resampled_group_means(groups, 20_000))[0, 0]
    assert 0.6 < best < 0.8
    with pytest.raises(ScoreError, match="2 seeds"):
        resampled_group_means([np.array([1.0]), groups[0]])


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_hypervolume_counts_the_dominated_cells(points, reference):
    cells = sum(
        any(x <= i and y <= j for x, y in points)
        for i, j in itertools.product(range(reference[0]), range(reference[1]))
    )
    assert hypervolume(points, reference) == cells


def test_fronts_are_compared_at_equal_alignment():
    first, second = [(0.0, 4.0), (2.0, 6.0)], [(1.0, 3.0), (3.0, 3.5)]
    assert at_equal(first, second) == pytest.approx((6 - 3.5, 1.0, 2.0))
    turned = [*first, (1.5, 9.0)]
    assert at_equal(turned, second) == at_equal(first, second), "a dominated point says nothing"
    assert at_equal(first, [(5.0, 1.0), (6.0, 2.0)]) == (6 - 1.0, 2.0, 2.0)
    assert at_equal(first, first) == (0.0, 0.0, 2.0)
    steps = [(0.0, 1.0), (1.0, 2.0), (4.0, 5.0)]
    assert at_equal(steps, [(0.0, 0.0), (4.0, 0.0)]) == pytest.approx(((2 + 3 * 5) / 4, 0.0, 4.0))
