import hashlib
import json
import tracemalloc

import numpy as np
import pytest
import torch

from t2ibench.core.errors import ScoreError
from t2ibench.core.tensors import write_safetensors
from t2ibench.engine.sampling import PIXELS, joined
from t2ibench.evaluation.samples import SampleSet, load_values, save_values


def samples(n=5):
    pixels = torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    return SampleSet(
        pixels.to(torch.uint8),
        tuple(f'a "quoted", caption {i}\u2028é' for i in range(n)),
        tuple(f"k{i // 2}" for i in range(n)),
        tuple(range(0, 2**62, 2**62 // n))[:n],
        {"knobs": {"guidance_scale": 3.0}, "model": "ldm"},
    )


def test_a_saved_set_comes_back_whole(tmp_path):
    made = samples()
    made.save(tmp_path / "set")
    read = SampleSet.load(tmp_path / "set")
    assert torch.equal(read.pixels, made.pixels)
    assert (read.captions, read.keys, read.seeds, read.meta) == (
        made.captions,
        made.keys,
        made.seeds,
        made.meta,
    )
    assert read.hash == made.hash


def big(n=2000, side=32):
    pixels = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8)
    keys = tuple(str(i) for i in range(n))
    return SampleSet(pixels, keys, keys, tuple(range(n)))


def test_opening_a_set_needs_the_memory_of_a_few_batches(tmp_path):
    made = big()
    made.save(tmp_path)
    tracemalloc.start()
    try:
        read = SampleSet.load(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert torch.equal(read.pixels, made.pixels)
    assert peak < made.pixels.numel() / 2, "before, the pixels and a copy of them"
    read.pixels[0] = 7
    assert SampleSet.load(tmp_path).hash == made.hash, "what is done to the tensor stays in memory"


def test_the_hash_is_that_of_all_pixels_at_once():
    made = big(n=600, side=4)
    digest = hashlib.sha256(b"(600, 3, 4, 4)" + made.pixels.numpy().tobytes())
    rows = list(zip(made.captions, made.keys, made.seeds, strict=True))
    digest.update(json.dumps(rows, ensure_ascii=False).encode())
    assert made.hash == digest.hexdigest()[:16]


def test_parts_are_joined_in_a_file(tmp_path):
    made, paths = big(n=500), []
    for start in range(0, 500, 64):
        paths.append(tmp_path / f"{start:06d}.safetensors")
        write_safetensors({PIXELS: made.pixels[start : start + 64]}, paths[-1])
    tracemalloc.start()
    try:
        pixels = joined(paths, tmp_path / "joined")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert torch.equal(pixels, made.pixels) and peak < made.pixels.numel() / 2


def test_the_hash_sees_pixels_captions_and_seeds():
    made = samples()
    changed = made.pixels.clone()
    changed[2, 1, 3, 3] ^= 1
    variants = [
        SampleSet(changed, made.captions, made.keys, made.seeds),
        SampleSet(made.pixels, made.captions[::-1], made.keys, made.seeds),
        SampleSet(made.pixels, made.captions, made.keys, made.seeds[::-1]),
    ]
    assert len({made.hash, *(v.hash for v in variants)}) == 4


def test_a_changed_or_half_written_set_is_refused(tmp_path):
    samples().save(tmp_path)
    pixels = np.load(tmp_path / "pixels.npy")
    pixels[0, 0, 0, 0] ^= 1
    np.save(tmp_path / "pixels.npy", pixels)
    with pytest.raises(ScoreError, match="changed since"):
        SampleSet.load(tmp_path)
    (tmp_path / "set.json").unlink()
    with pytest.raises(ScoreError, match=r"set\.json missing"):
        SampleSet.load(tmp_path)


def test_saving_again_forgets_the_old_values(tmp_path):
    made = samples()
    made.save(tmp_path)
    save_values(tmp_path, made, {"clip_score[x|y]": [1.0, 2.0, 3.0, float("nan"), 5.0]})
    read = load_values(tmp_path)
    assert read.keys == made.keys and read.seeds == made.seeds
    np.testing.assert_array_equal(read.columns["clip_score[x|y]"], [1, 2, 3, np.nan, 5])
    made.save(tmp_path)
    assert load_values(tmp_path) is None


def test_unequal_columns_are_refused():
    made = samples()
    with pytest.raises(ScoreError, match="5 images, 4 captions"):
        SampleSet(made.pixels, made.captions[:4], made.keys, made.seeds)


def test_meta_is_json(tmp_path):
    samples().save(tmp_path)
    assert json.loads((tmp_path / "set.json").read_text())["meta"]["model"] == "ldm"
