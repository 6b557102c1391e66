from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.core.errors import ConfigError, DataError
from t2ibench.core.pixels import to_pixels
from t2ibench.core.types import TextFeatures
from t2ibench.data.records import PreparedSplit, Record
from t2ibench.data.stream import BatchStream


def make_split(n):
    images = np.zeros((n, 3, 4, 4), dtype=np.uint8)
    images[:, 0] = np.arange(n, dtype=np.uint8)[:, None, None]
    images[:, 1, :, 0] = 255
    records = [Record(f"k{i}", (f"{i} one", f"{i} two", f"{i} three"), "g", "t") for i in range(n)]
    return PreparedSplit("toy/train", images, records)


def take(stream, count):
    out = []
    while len(out) < count:
        batch = next(stream)
        out += list(zip(batch.index.tolist(), batch.caption, strict=True))
    return out[:count]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 13), st.integers(1, 9), st.integers(0, 40), st.integers(0, 3))
def test_a_restart_anywhere_continues_the_uninterrupted_stream(n, batch, seen, seed):
    split = make_split(n)
    whole = take(BatchStream(split, batch_size=1, seed=seed), seen + 30)
    resumed = take(BatchStream(split, batch_size=batch, seed=seed, images_seen=seen), 30)
    assert resumed == whole[seen:]


def test_every_image_once_an_epoch_in_an_order_that_changes():
    order = [i for i, _ in take(BatchStream(make_split(10), batch_size=4, seed=0), 30)]
    epochs = [order[k : k + 10] for k in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_captions_vary_over_epochs_and_are_spread_evenly():
    drawn = take(BatchStream(make_split(10), batch_size=10, seed=0), 3000)
    assert all(caption.split()[0] == str(i) for i, caption in drawn)
    counts = Counter(caption.split()[1] for _, caption in drawn)
    assert all(900 < counts[word] < 1100 for word in ("one", "two", "three"))


def test_ranks_share_the_global_batch():
    split = make_split(7)
    whole = BatchStream(split, batch_size=6, seed=3)
    parts = [BatchStream(split, batch_size=6, seed=3, rank=r, world_size=3) for r in range(3)]
    for _ in range(4):
        batch, shares = next(whole), [next(part) for part in parts]
        assert torch.equal(batch.index, torch.cat([share.index for share in shares]))
        assert batch.caption == sum((share.caption for share in shares), [])
    assert parts[0].images_seen == whole.images_seen == 24


def test_batch_holds_the_rows_of_every_cache():
    split = make_split(9)
    latents = np.random.default_rng(0).normal(size=(9, 4, 2, 2)).astype(np.float16)
    codes = torch.arange(9 * 4, dtype=torch.int32).reshape(9, 4)

    def encode(captions):
        ones = torch.ones(len(captions), 1, 2)
        return TextFeatures(ones, torch.ones(len(captions), 1, dtype=torch.bool), ones[:, 0])

    targets = {"latents": latents, "codes": codes}
    stream = BatchStream(split, batch_size=4, seed=0, targets=targets, text=encode)
    batch = next(stream)
    assert batch.image.min() >= -1 and batch.image.max() <= 1
    assert torch.equal(to_pixels(batch.image), split.pixels(batch.index.numpy()))
    assert set(batch.targets) == set(targets)
    rows = latents[batch.index.numpy()].astype(np.float32)
    assert np.array_equal(batch.targets["latents"].numpy(), rows)
    assert batch.targets["latents"].dtype == torch.float32
    assert torch.equal(batch.targets["codes"], codes[batch.index].long())
    assert len(batch.text) == 4


def test_flip_mirrors_about_half_and_always_the_same_ones():
    split = make_split(50)
    plain = next(BatchStream(split, batch_size=50, seed=1)).image
    first = next(BatchStream(split, batch_size=50, seed=1, flip=True)).image
    again = next(BatchStream(split, batch_size=50, seed=1, flip=True)).image
    assert torch.equal(first, again)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(first, plain, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(first, plain, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 12 < sum(mirrored) < 38


def test_impossible_requests_are_refused():
    split = make_split(4)
    with pytest.raises(ConfigError, match="multiple"):
        BatchStream(split, batch_size=5, seed=0, world_size=2)
    with pytest.raises(ConfigError, match="cached codes cannot be flipped; set data.flip=false"):
        codes = {"codes": np.zeros((4, 1), np.int64)}
        BatchStream(split, batch_size=2, seed=0, flip=True, targets=codes)
    with pytest.raises(DataError, match="3 cached latents"):
        BatchStream(split, batch_size=2, seed=0, targets={"latents": np.zeros((3, 1, 1, 1))})
    with pytest.raises(DataError, match="empty"):
        BatchStream(make_split(0), batch_size=2, seed=0)
