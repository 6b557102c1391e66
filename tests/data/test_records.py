import numpy as np
import pytest

from t2ibench.core.errors import DataError
from t2ibench.data.records import (
    PreparedSplit,
    Record,
    clean_caption,
    read_records,
    write_records,
)


def make_split(n=5, captions=("a", "b")):
    images = np.random.default_rng(0).integers(0, 256, (n, 3, 4, 4), dtype=np.uint8)
    records = [Record(f"k{i}", tuple(captions), f"g{i}", "train", {"i": i}) for i in range(n)]
    return PreparedSplit("toy/train", images, records)


def test_pixels_are_the_images_at_the_indices_and_owned():
    split = make_split()
    pixels = split.pixels([3, 0, 3])
    assert (pixels.numpy() == split.images[[3, 0, 3]]).all()
    pixels.zero_()
    assert split.images.any()


def test_fingerprint_depends_on_pixels_captions_and_keys_only():
    split = make_split()
    assert split.fingerprint == make_split().fingerprint
    other = split.images.copy()
    other[0, 0, 0, 0] ^= 1
    assert PreparedSplit("t", other, split.records).fingerprint != split.fingerprint
    assert make_split(captions=("a", "c")).fingerprint != split.fingerprint
    assert PreparedSplit("renamed", split.images, split.records).fingerprint == split.fingerprint


def test_wrong_shapes_and_counts_are_refused():
    split = make_split()
    with pytest.raises(DataError, match="5 images but 4 records"):
        PreparedSplit("t", split.images, split.records[:4])
    with pytest.raises(DataError, match="uint8"):
        PreparedSplit("t", split.images.astype(np.float32), split.records)
    with pytest.raises(DataError, match="uint8"):
        PreparedSplit("t", split.images[:, :, :2], split.records)


def test_records_survive_the_manifest(tmp_path):
    records = [Record("é", ("ein Käfer", "a 'b' \"c\""), "g", "val", {"scene": {"x": [1, 2]}})]
    write_records(tmp_path / "manifest.jsonl", records)
    assert read_records(tmp_path / "manifest.jsonl") == records


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a red\n bus ", "a red bus"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\x00b\u200bc", "a b c"),
        ("\x07\n ", ""),
        ("non\u00a0breaking", "non breaking"),
    ],
)
def test_clean_caption(raw, clean):
    assert clean_caption(raw) == clean
