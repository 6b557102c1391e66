"""The dual encoder: tokens, round trip, training on a toy world, the shipped weights."""

import numpy as np
import pytest
import torch

from t2ibench.core.errors import CheckpointError, MissingWeightsError
from t2ibench.metrics.dual_encoder import WEIGHTS, DualEncoder, Vocabulary
from t2ibench.metrics.dual_encoder_training import (
    ContrastiveBatch,
    TrainingPlan,
    acceptance,
    contrastive_loss,
    swap_words,
    train_dual_encoder,
)

TINY = {
    "image_size": 16,
    "embed_dim": 16,
    "vision": {"width": 8, "layers": [1, 1, 1], "heads": 4},
    "text": {"width": 16, "layers": 1, "heads": 2, "context_length": 8},
}
COLOURS = {"red": (220, 20, 20), "green": (20, 180, 40), "blue": (30, 40, 220)}
PLACES = ("left", "right")
CAPTIONS = [f"a {c} block {p}" for c in COLOURS for p in PLACES]


def draw_pictures(captions: list[str], seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(90, 130, (len(captions), 3, 16, 16))
    for image, caption in zip(pixels, captions, strict=True):
        _, colour, _, place = caption.split()
        columns = slice(0, 8) if place == "left" else slice(8, 16)
        image[:, :, columns] = np.array(COLOURS[colour])[:, None, None]
    return torch.from_numpy(pixels.astype(np.uint8))


def draw(rng: np.random.Generator) -> ContrastiveBatch:
    order = [CAPTIONS[i] for i in rng.permutation(len(CAPTIONS))]
    wrong = [swap_words(c, (tuple(COLOURS), PLACES), rng) for c in order]
    seed = int(rng.integers(1 << 30))
    return ContrastiveBatch(draw_pictures(order, seed), order, [w for w in wrong if w])


@pytest.fixture(scope="module")
def trained() -> DualEncoder:
    plan = TrainingPlan(steps=80, learning_rate=3e-3, warmup_steps=10)
    return train_dual_encoder("toy", TINY, Vocabulary.of(CAPTIONS, 8), draw, plan)


def test_tokens_start_end_and_survive_long_and_unknown_captions():
    vocabulary = Vocabulary.of(["A red,block", "red Block"], 6, least=2)
    assert vocabulary.words == ("block", "red")
    ids = vocabulary(["red block!", "", "red zebra red red red red red"])
    assert ids.tolist() == [[2, 4, 3, 5, 0, 0], [2, 5, 0, 0, 0, 0], [2, 4, 1, 4, 4, 5]]


def test_loss_of_a_perfect_and_of_a_blind_encoder():
    eye = torch.eye(4)
    wrong = torch.cat([eye, -eye])
    assert float(contrastive_loss(eye, wrong, torch.tensor(5.0))) < 1e-3
    blind = torch.ones(4, 3) / 3**0.5
    both_ways = (np.log(8) + np.log(4)) / 2
    found = contrastive_loss(blind, torch.cat([blind, blind]), torch.tensor(0.0))
    assert float(found) == pytest.approx(both_ways, rel=1e-5)


def test_swapped_words_change_one_class_and_only_it():
    rng = np.random.default_rng(0)
    classes = (("red", "blue", "green"), ("circle", "square"))
    seen = {swap_words("a red circle and a blue square", classes, rng) for _ in range(200)}
    assert "a blue circle and a red square" in seen
    assert "a red square and a blue circle" in seen
    assert "a green circle and a blue square" in seen
    assert "a red circle and a blue square" not in seen
    assert swap_words("nothing here", classes, rng) is None


def test_a_toy_world_is_learnt(trained):
    captions = CAPTIONS * 4
    wrong = [
        c.replace("left", "x").replace("right", "left").replace("x", "right") for c in captions
    ]
    found = acceptance(trained, draw_pictures(captions, 7), captions, captions, wrong)
    assert found["r@1-of-6"] > 0.9 and found["swapped_accuracy"] > 0.9
    assert found["clip_score"] > found["clip_score_shuffled"] + 10


def test_training_is_reproducible_and_leaves_the_global_generator_alone(trained):
    state = torch.random.get_rng_state()
    plan = TrainingPlan(steps=3, learning_rate=3e-3)
    twins = [
        train_dual_encoder("toy", TINY, Vocabulary.of(CAPTIONS, 8), draw, plan) for _ in range(2)
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert twins[0].fingerprint == twins[1].fingerprint != trained.fingerprint


def test_features_have_unit_length_and_depend_on_their_row_alone(trained):
    pixels = draw_pictures(CAPTIONS)
    image, text = trained.image_features(pixels), trained.text_features(CAPTIONS)
    assert torch.allclose(image.norm(dim=1), torch.ones(6), atol=1e-5)
    assert torch.allclose(trained.image_features(pixels[2:3]), image[2:3], atol=1e-5)
    assert torch.allclose(trained.text_features(CAPTIONS[2:3]), text[2:3], atol=1e-5)
    large = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(trained.image_features(large), image, atol=1e-5)


def test_save_and_load_and_a_broken_file(trained, tmp_path):
    sha256 = trained.save(tmp_path / "toy", {"note": "test"})
    loaded = DualEncoder.load(folder=tmp_path / "toy")
    pixels = draw_pictures(CAPTIONS)
    assert torch.equal(loaded.image_features(pixels), trained.image_features(pixels))
    assert torch.equal(loaded.text_features(CAPTIONS), trained.text_features(CAPTIONS))
    assert loaded.fingerprint == sha256[:12] and loaded.key == "toy@16|area-16"
    weights = tmp_path / "toy" / "model.safetensors"
    broken = bytearray(weights.read_bytes())
    broken[-1] ^= 1
    weights.write_bytes(bytes(broken))
    with pytest.raises(CheckpointError, match="its card says"):
        DualEncoder.load(folder=tmp_path / "toy")
    with pytest.raises(MissingWeightsError, match="no dual encoder 'nothing-v9'"):
        DualEncoder.load("nothing-v9")


@pytest.mark.parametrize("card", sorted(WEIGHTS.glob("*/card.json")), ids=lambda p: p.parent.name)
def test_shipped_encoders_load_and_tell_captions_apart(card):
    encoder = DualEncoder.load(card.parent.name)
    assert sum(f.stat().st_size for f in card.parent.iterdir()) < 8e6
    words = encoder.vocabulary.words
    text = encoder.text_features([words[3], words[30]])
    assert float(text[0] @ text[1]) < 0.999
    assert encoder.fingerprint == encoder.sha256[:12]
