"""FD-infinity: sizes, closed forms, and nearer to the truth than the distance at N."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ibench.core.errors import ScoreError
from t2ibench.metrics.extrapolation import (
    SizePoint,
    even_sizes,
    fd_infinity,
    fd_infinity_estimate,
    intercept,
    size_curve,
)
from t2ibench.metrics.frechet import frechet_distance


@given(st.integers(20, 5000), st.integers(2, 20))
def test_sizes_are_even_in_their_inverse(n, sizes):
    found = even_sizes(n, sizes)
    assert found == sorted(set(found)) and found[-1] == n and found[0] == round(n / 10)
    if n > 1000:
        gaps = np.diff([1 / size for size in found])
        assert np.allclose(gaps, gaps.mean(), rtol=0.2)


@given(st.floats(-5, 5), st.floats(0, 100))
def test_the_intercept_of_a_line_is_exact(limit, slope):
    points = [SizePoint(n, limit + slope / n, 0.0) for n in (10, 20, 40, 80)]
    assert intercept(points) == pytest.approx(limit, abs=1e-8)


def gaussians(n, m, width=24, seed=0):
    stream = torch.Generator().manual_seed(seed)
    spread = torch.linspace(0.5, 1.5, width, dtype=torch.float64)
    x = torch.randn(n, width, generator=stream, dtype=torch.float64)
    y = torch.randn(m, width, generator=stream, dtype=torch.float64) * spread + 0.1
    truth = float(width * 0.01 + (1 - spread).square().sum())
    return x, y, truth


def test_it_is_nearer_to_the_truth_than_the_distance_at_n():
    plain, extrapolated = [], []
    for seed in range(12):
        x, y, truth = gaussians(2000, 20_000, seed=seed)
        plain.append(frechet_distance(x, y) - truth)
        extrapolated.append(fd_infinity(x, y, sizes=6, draws=2) - truth)
    assert np.mean(plain) > 0.04
    assert abs(np.mean(extrapolated)) < 0.5 * np.mean(plain)


def test_the_curve_falls_and_ends_at_the_whole_set():
    x, y, _ = gaussians(400, 4000)
    curve = size_curve(x, y)
    values = [point.value for point in curve]
    assert values[0] > 1.3 * values[-1]
    assert values[-1] == pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert curve[-1].sd == 0 and curve[0].sd > 0
    again = size_curve(x, y)
    assert again == curve and size_curve(x, y, seed=1) != curve


def test_the_interval_covers_and_small_sizes_are_noted():
    x, y, truth = gaussians(600, 40_000)
    found = fd_infinity_estimate(x, y)
    assert found.ci_low < truth < found.ci_high and not found.note
    wide, reference, _ = gaussians(200, 400, width=64)
    assert "underdetermined" in fd_infinity_estimate(wide, reference).note


def test_too_few_images_are_one_sentence():
    x, y, _ = gaussians(12, 100)
    with pytest.raises(ScoreError, match="at least 20 images, got 12"):
        fd_infinity(x, y)
    with pytest.raises(ScoreError, match=r"must lie in \[2, 12\]"):
        size_curve(x, y, sizes=[5, 50])
    with pytest.raises(ScoreError, match="two sample sizes"):
        intercept([SizePoint(10, 1.0, 0.0)])
