"""CLIP-score and R-precision: scales, ties, distractors."""

import numpy as np
import pytest
import torch
from scipy import stats

from t2ibench.core.errors import ScoreError
from t2ibench.metrics.alignment import (
    clip_score,
    draw_distractors,
    fold_estimate,
    r_precision,
    retrieval,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_clip_score_clips_each_image_before_the_mean():
    image = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
    text = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [0.0, 5.0]])
    assert clip_score(image, text).tolist() == pytest.approx([100, 0, 50 * 2**0.5], abs=1e-4)


def test_r_precision_of_oracle_blind_and_random_encoders():
    text = draw(300, 64)
    distractors = text[draw_distractors(range(300))]
    assert r_precision(text, text, distractors).mean() == 1
    constant = torch.ones(300, 64)
    blind = r_precision(constant, constant, torch.ones(300, 99, 64))
    assert float(blind.mean()) == pytest.approx(0.01)
    chance = r_precision(draw(300, 64, seed=1), text, distractors).mean()
    assert float(chance) < 0.05


def test_distractors_mean_something_else_and_belong_to_the_caption():
    keys = [f"k{i % 150}" for i in range(400)]
    drawn = draw_distractors(keys, seed=3)
    assert drawn.shape == (400, 99)
    for row, others in enumerate(drawn.tolist()):
        meanings = [keys[o] for o in others]
        assert keys[row] not in meanings and len(set(meanings)) == 99
    assert torch.equal(drawn[0], drawn[150])
    assert torch.equal(drawn, draw_distractors(keys, seed=3))
    assert not torch.equal(drawn, draw_distractors(keys, seed=4))


def test_hard_distractors_are_given():
    image, truth = torch.tensor([[1.0, 0.2]]), torch.tensor([[1.0, 0.0]])
    assert r_precision(image, truth, torch.tensor([[[0.0, 1.0]]])).tolist() == [1.0]
    assert r_precision(image, truth, torch.tensor([[[1.0, 0.2]]])).tolist() == [0.0]


def test_chunks_of_a_large_retrieval_change_nothing(monkeypatch):
    image, text = draw(300, 32, seed=1), draw(300, 32)
    image += 0.4 * text
    rows = draw_distractors(range(300))
    whole = r_precision(image, text, text[rows])
    assert 0 < float(whole.mean()) < 1
    monkeypatch.setattr("t2ibench.metrics.alignment.CHUNK", 37)
    assert torch.equal(retrieval(image, text, rows), whole)


def test_folds_give_their_mean_deviation_and_students_interval():
    hits = np.random.default_rng(0).random(3007) < 0.7
    found = fold_estimate(hits.astype(float), 10)
    means = hits[:3000].reshape(10, 300).mean(1)
    low, high = stats.t.interval(0.95, 9, loc=means.mean(), scale=stats.sem(means))
    assert found[:3] == pytest.approx((means.mean(), low, high), rel=1e-12)
    assert found.note == f"sd of 10 folds {means.std(ddof=1):.4f}"
    for count, folds in ((5, 10), (100, 1)):
        with pytest.raises(ScoreError, match="r_precision_folds=0"):
            fold_estimate(np.ones(count), folds)


def test_impossible_inputs_are_named():
    with pytest.raises(ScoreError, match="needs 100 captions"):
        draw_distractors([str(i % 50) for i in range(500)])
    bad = torch.full((2, 3), float("nan"))
    with pytest.raises(ScoreError, match="NaN"):
        clip_score(bad, torch.ones(2, 3))
