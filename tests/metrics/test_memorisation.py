"""Nearest training images: copies are found, fresh draws are authentic half of the time."""

import pytest
import torch
from scipy.spatial import KDTree

from t2ibench.core.errors import ScoreError
from t2ibench.metrics.memorisation import nearest_training


def draw(n, seed):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))


def test_distances_equal_those_of_a_search_tree():
    x, train = draw(300, 0), draw(1500, 1)
    found = nearest_training(x, train)
    tree = KDTree(train.numpy())
    distance, index = tree.query(x.numpy())
    assert found.index.tolist() == index.tolist()
    assert found.distance.numpy() == pytest.approx(distance, rel=1e-5)
    own = tree.query(train[found.index].numpy(), k=2)[0][:, 1]
    assert found.own_distance.numpy() == pytest.approx(own, rel=1e-5)


def test_the_share_of_authentic_fresh_draws_depends_on_the_dimension():
    """So it is no constant that a model's could be read against."""
    shares = []
    for width in (1, 8, 128):
        rng = torch.Generator().manual_seed(0)
        x, train = (torch.randn(1000, width, generator=rng) for _ in range(2))
        shares.append(float(nearest_training(x, train).authentic.double().mean()))
    assert shares[0] < 0.4 < 0.5 < shares[1] < 0.6 < 0.8 < shares[2]


def test_fresh_draws_are_told_from_copies():
    train = draw(3000, 2)
    fresh = nearest_training(draw(3000, 3), train).authentic.float().mean()
    assert 0.45 < fresh < 0.6
    copies = nearest_training(train[:500] + 1e-4, train).authentic.float().mean()
    assert copies < 0.01
    far = nearest_training(draw(100, 4) + 50, train).authentic
    assert far.all()


def test_bad_input_is_one_sentence():
    with pytest.raises(ScoreError, match="width 5 and 4"):
        nearest_training(draw(3, 0), draw(3, 1)[:, :4])
    with pytest.raises(ScoreError, match="at least 2 training images"):
        nearest_training(draw(3, 0), draw(1, 1))
    with pytest.raises(ScoreError, match="NaN"):
        nearest_training(draw(3, 0) * torch.nan, draw(3, 1))
