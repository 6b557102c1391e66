"""Trials of the dual encoders: damages are what they say, orders agree or don't."""

import json

import pytest
import torch

from t2ibench.core.errors import ScoreError
from t2ibench.evaluation.dual_encoder_recipes import EMOJI, SHAPES, shapes_pairs
from t2ibench.evaluation.encoder_trials import (
    MOVES,
    damaged_sets,
    monotone,
    rank_agreement,
    trial,
)
from t2ibench.metrics.dual_encoder import WEIGHTS, DualEncoder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return shapes_pairs("test", 120, 32, "L1+L2+L3", 3, tmp_path_factory.mktemp("scenes"))


def test_damages_are_what_they_say(scenes):
    captions = [record.captions[0] for record in scenes.records]
    sets = {(s.damage, s.strength): s for s in damaged_sets(scenes.pixels, captions)}
    assert len(sets) == 1 + 4 * 4
    assert torch.equal(sets["none", 0.0].pixels, scenes.pixels)
    residual = sets["noise", 10.0].pixels.float() - scenes.pixels.float()
    inside = (scenes.pixels > 60) & (scenes.pixels < 195)
    assert residual[inside].std() == pytest.approx(10.0, rel=0.05)
    assert len({p.numpy().tobytes() for p in sets["mode_drop", 0.75].pixels}) == 30
    owner = {p.numpy().tobytes(): c for p, c in zip(scenes.pixels, captions, strict=True)}
    dropped = sets["mode_drop", 0.95]
    assert all(owner[p.numpy().tobytes()] == c for p, c in zip(*_of(dropped), strict=True))
    for share in (0.25, 1.0):
        given = sets["caption_shuffle", share].captions
        assert sorted(given) == sorted(captions)
        moved = sum(a is not b for a, b in zip(given, captions, strict=True)) / len(captions)
        assert moved == pytest.approx(share, abs=0.05)
    edges = [sets["blur", s].pixels.float().diff(dim=-1).abs().mean() for s in (0.5, 1.0, 2.0, 4.0)]
    assert edges == sorted(edges, reverse=True)


def _of(found):
    return found.pixels, found.captions


def test_the_shipped_encoder_falls_with_each_step_of_damage(scenes):
    captions = [record.captions[0] for record in scenes.records]
    rows = trial(DualEncoder.load(SHAPES.name), scenes.pixels, scenes.pixels, captions)
    found = monotone(rows)
    assert set(found) == {f"{damage}/{score}" for damage in MOVES for score in MOVES[damage]}
    assert all(found.values()), found
    assert rank_agreement(rows, rows) == pytest.approx({"fd": 1.0, "clip_score": 1.0})


def test_a_score_that_turns_back_is_not_monotone(scenes):
    captions = [record.captions[0] for record in scenes.records]
    rows = trial(DualEncoder.load(SHAPES.name), scenes.pixels, scenes.pixels, captions)
    worst = next(r for r in rows if (r["damage"], r["strength"]) == ("blur", 4.0))
    spoilt = [r | {"fd": 0.0} if r is worst else r for r in rows]
    assert not monotone(spoilt)["blur/fd"] and monotone(spoilt)["noise/fd"]
    reversed_rows = [r | {"fd": -r["fd"]} for r in rows]
    assert rank_agreement(rows, reversed_rows)["fd"] == pytest.approx(-1.0)
    with pytest.raises(ScoreError, match="same damaged sets"):
        rank_agreement(rows, rows[1:])


@pytest.mark.parametrize("name", [SHAPES.name, EMOJI.name])
def test_the_cards_say_how_the_encoders_fared(name):
    card = json.loads((WEIGHTS / name / "card.json").read_text())
    assert card["trained_on"]["fingerprint"] and card["command"].startswith("t2ibench evaluator")
    assert all(card["trial"]["monotone"].values()), card["trial"]["monotone"]
    assert card["twin"]["sha256"] != card["sha256"]
    assert min(card["twin"]["rank_agreement"].values()) > 0.8
