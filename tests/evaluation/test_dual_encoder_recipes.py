"""Recipes of the shipped encoders: negatives are false, a short training writes a whole folder."""

import json

import numpy as np
import pytest
import torch

from t2ibench.data.records import Record
from t2ibench.data.shapes.captions import parse, satisfies
from t2ibench.data.shapes.world import Scene
from t2ibench.evaluation.dual_encoder_recipes import (
    SHAPES,
    emoji_negatives,
    shapes_negatives,
    shapes_pairs,
    train_shapes_encoder,
)
from t2ibench.metrics.dual_encoder import WEIGHTS, DualEncoder, split_words


@pytest.mark.parametrize("level", ["L1", "L2", "L3"])
def test_hard_negatives_of_shapes_are_false_and_near(level, tmp_path):
    pairs = shapes_pairs("train", 40, 32, level, 7, tmp_path)
    rng = np.random.default_rng(0)
    made = 0
    for record in pairs.records:
        scene = Scene.from_dict(record.meta["scene"])
        for caption in record.captions:
            for negative in shapes_negatives(record, caption, rng):
                assert not satisfies(parse(negative), scene)
                words = zip(split_words(caption), negative.split(), strict=True)
                assert 1 <= sum(a != b for a, b in words) <= 2
                made += 1
    assert made > 1.5 * 200 if level == "L2" else made > 150


def test_hard_negatives_of_emoji_name_another_style():
    record = Record("k", ("cat, noto style",), "g", "train", {"style": "noto"})
    found = {
        emoji_negatives(record, "cat, noto style", np.random.default_rng(i))[0] for i in range(60)
    }
    assert len(found) == 5 and "cat, noto style" not in found
    assert all(f.startswith("cat, ") and f.endswith(" style") for f in found)


def test_pairs_of_64_px_are_averaged_to_32(tmp_path):
    pairs = shapes_pairs("train", 3, 64, "L1", 7, tmp_path)
    assert pairs.pixels.shape == (3, 3, 32, 32) and pairs.pixels.dtype == torch.uint8


def test_batches_hold_the_wanted_share_of_relations(tmp_path):
    pairs = shapes_pairs("train", 200, 32, "L1+L2+L3", 7, tmp_path)
    often = [bool(record.meta["scene"]["relation"]) for record in pairs.records]
    owner = {
        caption: flag
        for record, flag in zip(pairs.records, often, strict=True)
        for caption in record.captions
    }
    draw = pairs.batches(40, shapes_negatives, share=0.75)
    batch = draw(np.random.default_rng(0))
    assert len(batch.pixels) == len(batch.captions) == 40
    assert sum(owner[caption] for caption in batch.captions) == 30
    assert len(batch.hard_negatives) > 40


def test_the_shipped_shapes_encoder_meets_its_acceptance():
    card = json.loads((WEIGHTS / SHAPES.name / "card.json").read_text())
    for level in ("L1", "L2", "L3"):
        reached = card["acceptance"][f"{level}@32"]
        assert reached["r@1-of-100"] >= 0.9 and reached["swapped_accuracy"] >= 0.95, level
    assert card["trained_on"]["split"] == "train"
    assert DualEncoder.load(SHAPES.name).key == "shapes-clip-v1@128|area-32"


def test_a_short_training_writes_a_folder_that_loads(tmp_path):
    card = train_shapes_encoder(tmp_path / "cache", tmp_path / "out", steps=2)
    loaded = DualEncoder.load(folder=tmp_path / "out")
    assert loaded.name == SHAPES.name and card["steps_of_each_phase"] == 2
    assert set(card["acceptance"]) == {f"L{i}@{s}" for i in (1, 2, 3) for s in (32, 64)}
