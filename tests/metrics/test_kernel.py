"""Kernel distances against torch-fidelity, torchmetrics and brute force."""

import numpy as np
import pytest
import torch

from t2ibench.core.errors import ScoreError
from t2ibench.metrics import kernel
from t2ibench.metrics.kernel import cmmd, cmmd_estimate, kid, kid_estimate


def draw(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def test_kid_agrees_with_torch_fidelity_and_torchmetrics():
    from torch_fidelity.metric_kid import kernel_mmd
    from torchmetrics.image.kid import poly_mmd

    x, y = draw(80, 32, 0), draw(80, 32, 1, 0.4)
    assert kid(x, y) == pytest.approx(float(poly_mmd(x.double(), y.double())), rel=1e-9)
    theirs = kernel_mmd(x.double().numpy(), y.double().numpy())
    assert kid(x, y) == pytest.approx(float(theirs), rel=1e-9)


def test_cmmd_is_the_unbiased_sum_over_pairs():
    x, y = draw(7, 5, 2), draw(9, 5, 3, 0.5)
    a, b = (z.double() / z.double().norm(dim=1, keepdim=True) for z in (x, y))

    def k(u: torch.Tensor, v: torch.Tensor) -> float:
        return float(torch.exp(-(u - v).square().sum() / 200))

    within_x = np.mean([k(a[i], a[j]) for i in range(7) for j in range(7) if i != j])
    within_y = np.mean([k(b[i], b[j]) for i in range(9) for j in range(9) if i != j])
    across = np.mean([k(u, v) for u in a for v in b])
    assert cmmd(x, y) == pytest.approx(1000 * (within_x + within_y - 2 * across), rel=1e-9)


def test_cmmd_ignores_feature_length():
    x, y = draw(20, 5, 4), draw(20, 5, 5, 0.5)
    assert cmmd(7 * x, y) == pytest.approx(cmmd(x, y), rel=1e-6)


@pytest.mark.parametrize("metric", [kid, cmmd])
def test_blocks_change_nothing(metric, monkeypatch):
    x, y = draw(50, 6, 6), draw(37, 6, 7, 0.3)
    whole = metric(x, y)
    monkeypatch.setattr(kernel, "BLOCK", 8)
    assert metric(x, y) == pytest.approx(whole, rel=1e-10)


def test_unbiased_at_zero_and_monotone_in_shift():
    values = [kid(draw(60, 8, 2 * s), draw(60, 8, 2 * s + 1)) for s in range(60)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 60**0.5
    x = draw(200, 8, 0)
    shifts = [kid(x, draw(200, 8, 1, shift)) for shift in (0.0, 0.2, 0.5, 1.0)]
    assert shifts == sorted(shifts)


@pytest.mark.parametrize("estimate", [kid_estimate, cmmd_estimate])
def test_interval_has_the_width_of_real_repetitions(estimate):
    point = kid if estimate is kid_estimate else cmmd
    reference = draw(150, 8, 1000, 0.5)
    spread = np.std([point(draw(150, 8, s), reference) for s in range(80)], ddof=1)
    intervals = [estimate(draw(150, 8, s), reference) for s in range(5)]
    sd = np.mean([(e.ci_high - e.value) / 1.96 for e in intervals])
    assert sd == pytest.approx(spread, rel=0.35)
    assert intervals[0].value == pytest.approx(point(draw(150, 8, 0), reference), rel=1e-9)


def test_impossible_inputs_are_named():
    with pytest.raises(ScoreError, match="width 3 and 4"):
        kid(torch.zeros(5, 3), torch.zeros(5, 4))
    with pytest.raises(ScoreError, match="NaN"):
        kid(torch.full((5, 3), float("nan")), torch.zeros(5, 3))
    with pytest.raises(ScoreError, match="at least 2"):
        cmmd(torch.ones(1, 3), torch.ones(5, 3))
