"""Floor 0: conversions, noise, knobs, hashing, files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ibench.core.errors import ConfigError
from t2ibench.core.files import atomic_path, read_json, write_json
from t2ibench.core.hashing import derive_seed, hash_json, hash_tensors
from t2ibench.core.knobs import Knob, front_knob, resolve_knobs
from t2ibench.core.noise import SeededNoise, sample_seeds
from t2ibench.core.pixels import from_pixels, to_pixels
from t2ibench.core.types import Batch, Score, TextFeatures


def test_jaxtyping_canary():
    """If this does not raise, shapes are checked nowhere."""
    with pytest.raises(Exception, match="Type-check error"):
        to_pixels(torch.zeros(3, 8, 8))


def test_pixels_round_trip_every_value():
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_pixels(from_pixels(x)), x)


@given(st.floats(-10, 10))
def test_pixels_clamp_and_round(value):
    pixel = to_pixels(torch.full((1, 3, 2, 2), value))[0, 0, 0, 0].item()
    clamped = (np.clip(np.float32(value), -1, 1) + np.float32(1)) * np.float32(127.5)
    assert abs(pixel - clamped) <= 0.5


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=5), st.integers(0, 4))
def test_noise_belongs_to_the_seed_not_the_batch(seeds, position):
    position %= len(seeds)
    together = SeededNoise(seeds)
    alone = SeededNoise([seeds[position]])
    assert torch.equal(together.normal(3, 2)[position], alone.normal(3, 2)[0])
    assert torch.equal(together.uniform(5)[position], alone.uniform(5)[0])


def test_noise_is_standard():
    x = SeededNoise(range(2000)).normal(8)
    assert abs(x.mean()) < 0.03 and abs(x.std() - 1) < 0.03
    assert not torch.equal(x[0], x[1])


def test_sample_seeds_follow_the_key():
    assert sample_seeds(["a", "b"], 0)[1] == sample_seeds(["b"], 0)[0]
    assert sample_seeds(["a"], 0) != sample_seeds(["a"], 1)


KNOBS = (
    Knob("guidance_scale", 2.0, 0.0, 10.0, fidelity_alignment=True, sweep=(1.0, 2.0)),
    Knob("num_steps", 20, 1, 1000, integer=True),
)


def test_knobs_defaults_and_overrides():
    assert resolve_knobs(KNOBS, {"num_steps": 5}) == {"guidance_scale": 2.0, "num_steps": 5}
    assert front_knob(KNOBS).name == "guidance_scale"


@pytest.mark.parametrize(
    ("given_knobs", "words"),
    [
        ({"psi": 1.0}, "not a knob of this family; it has guidance_scale, num_steps"),
        ({"guidance_scale": 11.0}, r"outside \[0.0, 10.0\]"),
        ({"num_steps": 2.5}, "whole number"),
    ],
)
def test_knob_mistakes_are_named(given_knobs, words):
    with pytest.raises(ConfigError, match=words):
        resolve_knobs(KNOBS, given_knobs)


def features(lengths, width=4):
    longest = max(lengths)
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    return TextFeatures(
        torch.randn(len(lengths), longest, width), mask, torch.randn(len(lengths), width)
    )


def test_text_features_join_and_choose():
    a, b = features([2, 3]), features([5, 1])
    both = TextFeatures.cat([a, b])
    assert both.tokens.shape == (4, 5, 4) and both.mask.sum() == 11
    kept = a.where(torch.tensor([True, False]), b)
    assert torch.equal(kept.pooled[0], a.pooled[0]) and torch.equal(kept.pooled[1], b.pooled[1])
    assert kept.mask[1].sum() == 1
    assert len(both[1:3]) == 2


def test_an_embedding_goes_where_its_caption_goes():
    a, b = (replace(features([2, 3]), embedding=torch.randn(2, 6)) for _ in range(2))
    both = TextFeatures.cat([a, b]).to(torch.float64).detach()
    assert torch.equal(both[1:3].embedding, torch.stack([a.embedding[1], b.embedding[0]]).double())
    kept = a.where(torch.tensor([True, False]), b)
    assert torch.equal(kept.embedding, torch.stack([a.embedding[0], b.embedding[1]]))
    assert TextFeatures.cat([features([2]), features([3])]).embedding is None


def test_batch_moves_without_touching_integers():
    targets = {"codes": torch.tensor([[1], [2]]), "latents": torch.zeros(2, 4, 1, 1)}
    batch = Batch(torch.zeros(2, 3, 4, 4), ["a", "b"], torch.tensor([1, 2]), targets=targets)
    moved = batch.to(torch.float64)
    assert moved.image.dtype == moved.targets["latents"].dtype == torch.float64
    assert moved.index.dtype == moved.targets["codes"].dtype == torch.int64


def test_score_round_trip_and_metric():
    score = Score(1.0, 10, 0.5, 1.5, "fd[x@1|y|val|10]", "underdetermined")
    assert Score.from_dict(score.to_dict()) == score and score.metric == "fd"


def test_hashes_are_stable_across_order_and_sessions():
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1}) == "43258cff783f"
    assert derive_seed("x", 1) == derive_seed("x", "1") != derive_seed("x", 2)
    a, b = torch.ones(2), torch.zeros(3, dtype=torch.int64)
    assert hash_tensors([("a", a), ("b", b)]) == hash_tensors([("b", b), ("a", a)])
    assert hash_tensors([("a", a)]) != hash_tensors([("a", a.double())])


def test_tensors_of_any_layout_have_a_hash():
    scalar, image = torch.tensor(3.0), torch.randn(1, 1, 4, 5)
    assert hash_tensors([("a", scalar)]) != hash_tensors([("a", scalar.reshape(1))])
    other = image.to(memory_format=torch.channels_last)
    assert hash_tensors([("a", image)]) == hash_tensors([("a", other)])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
