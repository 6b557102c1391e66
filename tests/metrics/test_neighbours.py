"""Precision, recall, density, coverage against brute force and known cases."""

import pytest
import torch

from t2ibench.core.errors import ScoreError
from t2ibench.metrics import neighbours as module
from t2ibench.metrics.neighbours import neighbours


def draw(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def test_against_brute_force():
    x, y = draw(30, 4, 0), draw(25, 4, 1, 0.7)

    def radius(z: torch.Tensor, i: int, k: int) -> float:
        return sorted(float((z[i] - z[j]).norm()) for j in range(len(z)) if j != i)[k - 1]

    found = neighbours(x, y)
    for i in range(len(x)):
        away = [float((x[i] - y[j]).norm()) for j in range(len(y))]
        in_three = [d <= radius(y, j, 3) for j, d in enumerate(away)]
        in_five = [d <= radius(y, j, 5) for j, d in enumerate(away)]
        assert bool(found.precision[i]) == any(in_three)
        assert float(found.density[i]) == pytest.approx(sum(in_five) / 5)
    for j in range(len(y)):
        away = [float((x[i] - y[j]).norm()) for i in range(len(x))]
        assert bool(found.recall[j]) == any(d <= radius(x, i, 3) for i, d in enumerate(away))
        assert bool(found.coverage[j]) == any(d <= radius(y, j, 5) for d in away)


def test_equal_sets_and_far_sets():
    y = draw(100, 6, 2)
    same = neighbours(y, y.clone()).means()
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    far = neighbours(y + 100, y).means()
    assert set(far.values()) == {0.0}


def test_mode_drop_costs_recall_and_noise_costs_precision():
    real = torch.cat([draw(100, 2, 3), draw(100, 2, 4, 20)])
    one_mode = neighbours(draw(200, 2, 5), real).means()
    assert one_mode["precision"] > 0.9 and one_mode["recall"] < 0.55
    assert one_mode["coverage"] < 0.55
    noisy = neighbours(torch.cat([draw(100, 2, 6), draw(100, 2, 7) * 50 + 200]), real).means()
    assert noisy["precision"] < 0.55


def test_density_of_equal_distributions_is_about_one():
    means = neighbours(draw(800, 3, 8), draw(800, 3, 9)).means()
    assert means["density"] == pytest.approx(1, abs=0.08)
    assert means["coverage"] == pytest.approx(1 - 0.5**5, abs=0.03)


def test_blocks_change_nothing(monkeypatch):
    x, y = draw(50, 5, 10), draw(40, 5, 11, 0.3)
    whole = neighbours(x, y).means()
    monkeypatch.setattr(module, "BLOCK", 7)
    assert neighbours(x, y).means() == whole


def test_impossible_inputs_are_named():
    with pytest.raises(ScoreError, match="more than 5 images"):
        neighbours(draw(5, 2, 0), draw(50, 2, 1))
    with pytest.raises(ScoreError, match="width 2 and 3"):
        neighbours(draw(9, 2, 0), draw(9, 3, 1))


@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_precision_and_recall_equal_torch_fidelity(shift):
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = draw(300, 16, 0), draw(280, 16, 1, shift)
    theirs = prc_features_to_metric(x, y, prc_neighborhood=3, verbose=False)
    found = neighbours(x, y)
    assert float(found.precision.double().mean()) == pytest.approx(theirs["precision"], abs=4e-3)
    assert float(found.recall.double().mean()) == pytest.approx(theirs["recall"], abs=4e-3)
