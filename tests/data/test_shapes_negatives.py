"""Hard negatives: one change, never true by accident."""

import pytest

from t2ibench.core.errors import DataError
from t2ibench.data.emoji_styles.negatives import STYLE_NAMES, style_negatives
from t2ibench.data.shapes.captions import captions_of, parse, satisfies
from t2ibench.data.shapes.negatives import contradict, hard_negatives
from t2ibench.data.shapes.scenes import sample_scene
from t2ibench.data.shapes.world import ShapesWorld

WORLD = ShapesWorld("L1+L2+L3+L4", 64)


def test_no_negative_is_true_of_the_scene():
    kept = []
    for index in range(120):
        scene = sample_scene(WORLD, 0, "test", index, "iid")
        for caption in captions_of(scene, f"key-{index}", 3):
            found = hard_negatives(caption, WORLD)
            kept.append(len(found))
            assert len({parse(changed) for changed in found}) == len(found)
            for changed in found:
                assert not satisfies(parse(changed), scene), (caption, changed)
    assert kept.count(9) > 0.95 * len(kept)


def test_every_kind_of_change_takes_its_turn():
    caption = "a small red ring left of a large blue star on a white background"
    found = hard_negatives(caption, WORLD, 12)
    words = [set(changed.split()) ^ set(caption.split()) for changed in found]
    assert {"left", "right"} in words
    assert set() in words, "an exchange has the same words"
    assert any("red" in changed or "blue" in changed for changed in words)
    assert any("star" in changed or "ring" in changed for changed in words)
    assert any("small" in changed or "large" in changed for changed in words)
    assert any("white" in changed for changed in words)


def test_the_draw_belongs_to_the_caption_and_the_seed():
    caption = "a small red ring"
    assert hard_negatives(caption, WORLD) == hard_negatives(caption, WORLD)
    assert hard_negatives(caption, WORLD) != hard_negatives(caption, WORLD, seed=1)
    assert len(hard_negatives(caption, WORLD, 4)) == 4


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a red ring", "a blue ring", True),
        ("a red ring", "a ring on a white background", False),
        ("a red ring", "two red rings", True),
        ("a ring on a white background", "a ring on a grey background", True),
        ("a red ring left of a blue star", "a blue star right of a red ring", False),
        ("a red ring left of a blue star", "a red ring right of a blue star", True),
        ("a red ring left of a blue star", "a red ring above a blue star", False),
        ("a red ring left of a red ring", "a red ring right of a red ring", False),
        ("a red ring and a blue star", "a blue ring and a red star", True),
        ("a ring and a blue star", "a blue ring and a star", False),
    ],
)
def test_contradictions(one, other, expected):
    assert contradict(parse(one), parse(other)) is expected
    assert contradict(parse(other), parse(one)) is expected


def test_foreign_words_are_named():
    with pytest.raises(DataError, match="unicorn"):
        hard_negatives("a red unicorn", WORLD)


def test_emoji_negatives_change_the_style_alone():
    style = STYLE_NAMES[0]
    found = style_negatives(f"red apple, {style} style")
    assert len(found) == len(STYLE_NAMES) - 1
    assert all(text.startswith("red apple, ") and style not in text for text in found)
    assert style_negatives("a photograph of an apple") == ()
