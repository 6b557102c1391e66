"""The cache of frozen features: same values, kept, never mixed, whole or absent."""

import pytest
import torch
from text.tiny import save_bert

from t2ibench.core.errors import ConfigError
from t2ibench.text import cache as cache_module
from t2ibench.text.cache import FrozenTextCache
from t2ibench.text.language import SentenceEncoder
from t2ibench.text.word import WordTransformer

CAPTIONS = ["a red ring above a blue star", "", "a ring", "a red ring", "blue star"]


@pytest.fixture
def encoder(hub):
    return SentenceEncoder(model="tiny/bert", path=hub / "bert", max_length=12)


def same(one, other):
    assert torch.equal(one.mask, other.mask)
    torch.testing.assert_close(one.tokens, other.tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.pooled, other.pooled, atol=1e-5, rtol=0)


def test_cached_features_equal_the_encoders(encoder, tmp_path):
    cache = FrozenTextCache(encoder, tmp_path, batch_size=2)
    for captions in (CAPTIONS, CAPTIONS[1:2], CAPTIONS[2:], [CAPTIONS[0]] * 3):
        same(cache(captions), encoder.encode(captions))


def test_a_second_process_reads_and_does_not_encode(encoder, tmp_path, monkeypatch):
    first = FrozenTextCache(encoder, tmp_path)
    first.warm(CAPTIONS)
    expected = first(CAPTIONS)
    again = FrozenTextCache(encoder, tmp_path)
    monkeypatch.setattr(encoder, "encode", lambda captions: pytest.fail("encoded again"))
    found = again(CAPTIONS[::-1])
    assert torch.equal(found.tokens.flip(0), expected.tokens)
    assert torch.equal(found.pooled.flip(0), expected.pooled)


def test_a_warm_cache_does_not_depend_on_who_asked_first(encoder, tmp_path):
    one = FrozenTextCache(encoder, tmp_path / "one")
    other = FrozenTextCache(encoder, tmp_path / "other")
    one.warm(CAPTIONS)
    other.warm(iter([*reversed(CAPTIONS), *CAPTIONS]))
    assert torch.equal(one(CAPTIONS).tokens, other(CAPTIONS).tokens)
    assert len(list((tmp_path / "one").rglob("*.safetensors"))) == 1


def test_a_large_set_is_written_in_shards(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "CAPTIONS_A_SHARD", 2)
    cache = FrozenTextCache(encoder, tmp_path)
    cache.warm(CAPTIONS)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3 and len(cache) == 5
    same(cache(CAPTIONS), encoder.encode(CAPTIONS))


def test_other_weights_have_another_folder(encoder, tmp_path):
    save_bert(tmp_path / "other", seed=1)
    other = SentenceEncoder(model="tiny/bert", path=tmp_path / "other", max_length=12)
    root = tmp_path / "cache"
    mine, theirs = FrozenTextCache(encoder, root), FrozenTextCache(other, root)
    assert mine.folder != theirs.folder
    mine.warm(CAPTIONS)
    same(theirs(CAPTIONS), other.encode(CAPTIONS))


def test_a_damaged_shard_is_encoded_again(encoder, tmp_path, caplog):
    cache = FrozenTextCache(encoder, tmp_path)
    cache.warm(CAPTIONS)
    shard = next(tmp_path.rglob("*.safetensors"))
    whole = shard.read_bytes()
    del cache
    shard.write_bytes(whole[: len(whole) // 2])
    again = FrozenTextCache(encoder, tmp_path)
    assert len(again) == 0 and "cannot be read" in caplog.text
    same(again(CAPTIONS), encoder.encode(CAPTIONS))
    assert shard.read_bytes() == whole


def test_nothing_is_left_of_a_write_that_fails(encoder, tmp_path, monkeypatch):
    def fail(tensors, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(cache_module, "save_file", fail)
    cache = FrozenTextCache(encoder, tmp_path)
    with pytest.raises(OSError, match="disk full"):
        cache.warm(CAPTIONS)
    assert not list(tmp_path.rglob("*.safetensors")) and len(cache) == 0


def test_a_trained_encoder_cannot_be_cached(tmp_path):
    encoder = WordTransformer(vocabulary=["a"], width=8, depth=1, heads=1, max_length=4)
    with pytest.raises(ConfigError, match="give it a frozen one"):
        FrozenTextCache(encoder, tmp_path)
