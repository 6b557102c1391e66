"""The Fréchet distance against closed forms and two independent libraries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.core.errors import ScoreError
from t2ibench.metrics.frechet import (
    Moments,
    frechet_distance,
    frechet_estimate,
    underdetermined,
)


def normal(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    stream = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=stream, dtype=torch.float64) / d**0.5
    return torch.randn(n, d, generator=stream, dtype=torch.float64) @ mixing * scale + shift


def with_moments(n: int, mean: torch.Tensor, deviation: torch.Tensor, seed: int) -> torch.Tensor:
    """Features whose sample mean is ``mean`` and sample covariance exactly diag(deviation^2)."""
    raw = normal(n, len(mean), seed)
    raw = raw - raw.mean(0)
    root = torch.linalg.cholesky(raw.T @ raw / (n - 1))
    return torch.linalg.solve_triangular(root, raw.T, upper=False).T * deviation + mean


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_closed_form_of_diagonal_gaussians(d, seed):
    rng = np.random.default_rng(seed)
    means = torch.from_numpy(rng.normal(size=(2, d)))
    deviations = torch.from_numpy(rng.uniform(0.1, 3, size=(2, d)))
    x = with_moments(40, means[0], deviations[0], seed)
    y = with_moments(50, means[1], deviations[1], seed + 1)
    truth = (means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum()
    assert frechet_distance(x, y) == pytest.approx(float(truth), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(("n", "d"), [(400, 24), (30, 64)])
def test_agrees_with_torch_fidelity_and_torchmetrics(n, d):
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    x, y = normal(n, d, 0), normal(n + 10, d, 1, scale=1.3, shift=0.2)
    a, b = Moments.of(x), Moments.of(y)
    ours = frechet_distance(x, y)
    numpy_sides = [{"mu": m.mean.numpy(), "sigma": m.covariance.numpy()} for m in (a, b)]
    fidelity = fid_statistics_to_metric(*numpy_sides, verbose=False)
    fidelity = fidelity["frechet_inception_distance"]
    metrics = float(_compute_fid(a.mean, a.covariance, b.mean, b.covariance))
    tolerance = 1e-8 if n > d else 1e-4
    assert ours == pytest.approx(float(fidelity), rel=tolerance)
    assert ours == pytest.approx(metrics, rel=tolerance)
    assert ours == pytest.approx(frechet_distance(a, b), rel=1e-8)


@pytest.mark.parametrize(("n", "d"), [(200, 20), (20, 100)])
def test_axioms(n, d):
    x, y = normal(n, d, 2), normal(n, d, 3, scale=2.0)
    rotation = torch.linalg.qr(normal(d, d, 4)).Q
    distance = frechet_distance(x, y)
    assert frechet_distance(x, x.clone()) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(Moments.of(x), Moments.of(x)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(y, x) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(x + 1, y + 1) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * distance, rel=1e-9)


def test_dead_features_change_nothing():
    x, y = normal(200, 10, 5), normal(200, 10, 6, shift=0.1)
    dead = torch.full((200, 3), 0.25, dtype=torch.float64)
    both = [torch.cat([z, dead], 1) for z in (x, y)]
    assert frechet_distance(*both) == pytest.approx(frechet_distance(x, y), rel=1e-6)


def test_float32_features_are_measured_in_float64():
    x, y = normal(300, 16, 7) + 1000, normal(300, 16, 8) + 1000
    assert frechet_distance(x.float(), y.float()) == pytest.approx(frechet_distance(x, y), rel=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.randoms())
def test_streaming_equals_whole_in_any_merge_order(sizes, shuffler):
    features = normal(sum(sizes) + 5, 6, 9, shift=3.0)
    parts = [Moments.of(part) for part in features.split([*sizes, 5])]
    shuffler.shuffle(parts)
    merged = Moments.empty(6)
    for part in parts:
        merged = merged.merge(part)
    whole = Moments.of(features)
    assert merged.n == whole.n
    assert torch.allclose(merged.mean, whole.mean, atol=1e-12)
    assert torch.allclose(merged.scatter, whole.scatter, atol=1e-9)


def test_underdetermined_is_said():
    x, y = normal(30, 64, 0), normal(30, 64, 1)
    assert underdetermined(x, y) and not underdetermined(x[:, :8], y[:, :8])
    assert frechet_estimate(x, y).note.startswith("underdetermined")
    assert frechet_estimate(x[:, :8], y[:, :8]).note == ""


@pytest.mark.parametrize("d", [8, 300])
def test_interval_has_the_width_of_real_repetitions(d):
    deviations = torch.linspace(1, 0.1, d, dtype=torch.float64)
    stream = torch.Generator().manual_seed(0)

    def draw() -> torch.Tensor:
        return torch.randn(200, d, generator=stream, dtype=torch.float64) * deviations

    reference = draw() + 0.3
    spread = float(np.std([frechet_distance(draw(), reference) for _ in range(60)], ddof=1))
    widths = [frechet_estimate(draw(), reference, replicates=20, seed=i) for i in range(6)]
    sd = float(np.mean([(e.ci_high - e.value) / 1.96 for e in widths]))
    assert sd == pytest.approx(spread, rel=0.35)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (torch.zeros(5, 3), torch.zeros(5, 4), "width 3 and 4"),
        (torch.zeros(1, 3), torch.zeros(5, 3), "at least 2 images"),
        (torch.full((5, 3), float("nan")), torch.zeros(5, 3), "NaN or infinity"),
    ],
)
def test_impossible_inputs_are_named(x, y, words):
    with pytest.raises(ScoreError, match=words):
        frechet_distance(x, y)
