"""Distances of features that lie on a GPU are those of the CPU."""

import pytest
import torch

from t2ibench.metrics.diversity import vendi_score
from t2ibench.metrics.extrapolation import fd_infinity
from t2ibench.metrics.frechet import Moments, frechet_distance, frechet_estimate
from t2ibench.metrics.kernel import cmmd_estimate, kid, kid_estimate
from t2ibench.metrics.memorisation import nearest_training
from t2ibench.metrics.neighbours import neighbours


def draw(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.mark.gpu
@pytest.mark.parametrize("n", [20, 300])
def test_scores_are_those_of_the_cpu(n):
    x, y = draw(n, 24, 0), draw(n + 7, 24, 1, 0.3)
    a, b = x.cuda(), y.cuda()
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(x, y), rel=1e-9)
    streamed = Moments.empty(24).update(a)
    assert frechet_distance(streamed, Moments.of(b)) == pytest.approx(
        frechet_distance(x, y), rel=1e-6
    )
    assert kid(a, b) == pytest.approx(kid(x, y), rel=1e-9)
    for estimate in (frechet_estimate, kid_estimate, cmmd_estimate):
        assert estimate(a, b)[:3] == pytest.approx(estimate(x, y)[:3], rel=1e-6)
    assert fd_infinity(a, b) == pytest.approx(fd_infinity(x, y), rel=1e-6)
    assert vendi_score(a) == pytest.approx(vendi_score(x), rel=1e-9)
    assert neighbours(a, b).means() == neighbours(x, y).means()
    there, here = nearest_training(a, b), nearest_training(x, y)
    assert torch.equal(there.index, here.index) and torch.equal(there.authentic, here.authentic)
