"""Anybody's images and features, in the formats that people have."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from toy_networks import Projection, make_split

from t2ibench.core.errors import DataError, ScoreError
from t2ibench.data.prompts import Prompt
from t2ibench.data.resize import ResizeRecipe
from t2ibench.evaluation.evaluator import Evaluator
from t2ibench.evaluation.external import (
    ExternalFeatures,
    ExternalImages,
    fitted_rows,
    read_external,
)
from t2ibench.evaluation.protocol import Protocol

SPLIT = make_split("test", 60)
PIXELS = SPLIT.pixels(range(24))
PROMPTS = [Prompt(f"a thing number {i}") for i in range(12)]


def read(path, tmp_path, prompts=()):
    return read_external(path, ResizeRecipe(8), tmp_path / "cache", prompts)


def save_images(folder, names):
    for name, image in zip(names, PIXELS, strict=False):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def test_images_and_a_prompts_file_pair_in_the_order_of_numbers(tmp_path):
    folder = tmp_path / "pictures"
    save_images(folder, [f"image_{i}.png" for i in range(24)])
    found = read(folder, tmp_path, PROMPTS)
    assert isinstance(found, ExternalImages) and found.prompted
    assert torch.equal(found.samples.pixels, PIXELS), "image_2 comes before image_10"
    assert found.samples.captions == tuple(p.text for p in PROMPTS for _ in range(2))
    assert len(set(found.samples.keys)) == 12 and len(set(found.samples.seeds)) == 24
    with pytest.raises(DataError, match="24 images for 5 prompts"):
        read(folder, tmp_path, PROMPTS[:5])


def test_genevals_folders(tmp_path):
    folder = tmp_path / "geneval"
    for prompt in range(3):
        save_images(folder / f"{prompt:05d}", ["grid.png", "samples/0000.png", "samples/0001.png"])
        row = {"tag": "colors", "include": [], "prompt": f"a photo of {prompt}"}
        (folder / f"{prompt:05d}" / "metadata.jsonl").write_text(json.dumps(row))
    samples = read(folder, tmp_path).samples
    assert samples.captions == tuple(f"a photo of {i}" for i in range(3) for _ in range(2))
    assert torch.equal(samples.pixels[:2], PIXELS[1:3])


def test_a_broken_image_is_named_and_not_passed_over(tmp_path):
    save_images(tmp_path / "p", ["0.png", "1.png"])
    (tmp_path / "p" / "1.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"1\.png"):
        read(tmp_path / "p", tmp_path, PROMPTS[:2])


def test_adms_npz_with_and_without_captions(tmp_path):
    images = PIXELS.permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "bare.npz", images)
    bare = read(tmp_path / "bare.npz", tmp_path)
    assert torch.equal(bare.samples.pixels, PIXELS) and not bare.prompted
    assert len(set(bare.samples.keys)) == 24
    np.savez(tmp_path / "said.npz", arr_0=images, captions=[f"c{i // 2}" for i in range(24)])
    said = read(tmp_path / "said.npz", tmp_path)
    assert said.prompted and said.samples.captions[:3] == ("c0", "c0", "c1")
    prompted = read(tmp_path / "bare.npz", tmp_path, PROMPTS)
    assert prompted.prompted and prompted.samples.captions[2] == PROMPTS[1].text


def test_features_of_both_formats(tmp_path):
    features = Projection().features(PIXELS)
    np.savez(tmp_path / "f.npz", features=features.numpy(), extractor="projection")
    save_file({"features": features}, tmp_path / "f.safetensors", {"extractor": "projection"})
    for name in ("f.npz", "f.safetensors"):
        found = read(tmp_path / name, tmp_path)
        assert isinstance(found, ExternalFeatures) and found.extractor == "projection"
        assert torch.equal(found.features, features)


def test_features_score_as_their_images_do(tmp_path):
    evaluator = Evaluator(
        protocol=Protocol("dev", "test", 24, 0), reference=SPLIT, extractors=[Projection()]
    )
    np.savez(tmp_path / "bare.npz", PIXELS.permute(0, 2, 3, 1).numpy())
    samples = read(tmp_path / "bare.npz", tmp_path).samples
    from_images = evaluator.unprompted(samples).scores
    features = Projection().features(PIXELS)
    for name in ("projection", Projection().key):
        assert evaluator.of_features(name, features, samples.keys).scores == from_images
    for bad, words in (
        (features[:20], r"scores 24 rows .*num_images=20"),
        (features[:, :4], "6 features of projection"),
        (features / 0, "NaN or infinity"),
    ):
        with pytest.raises(ScoreError, match=words):
            evaluator.of_features("projection", bad, samples.keys[: len(bad)])
    for name in ("", "inception"):
        with pytest.raises(ScoreError, match=r"match 0 .*projection@6\|native-8"):
            evaluator.of_features(name, features, samples.keys)


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "evil.npz", arr_0=np.array([{"run": "me"}], dtype=object))
    with pytest.raises(DataError, match="without unpickling"):
        read(tmp_path / "evil.npz", tmp_path)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"arr_0": np.zeros((2, 3, 8, 8), np.uint8)}, r"must be \(N, H, W, 3\) uint8"),
        ({"arr_0": np.zeros((2, 8, 8, 3), np.float32)}, "not float32"),
        ({"arr_0": np.zeros((2, 8, 8, 3), np.uint8), "captions": ["one"]}, "1 captions for 2"),
        ({"features": np.zeros(5, np.float32)}, r"must be \(N, D\) floats"),
        ({"x": np.zeros(5)}, "holds x; give arr_0"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=words):
        read(tmp_path / "a.npz", tmp_path)


def test_other_paths_are_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"x")
    for name in ("a.pkl", "none.npz"):
        with pytest.raises(DataError, match="neither a run, a folder"):
            read(tmp_path / name, tmp_path)


def test_too_few_are_refused_and_too_many_chosen_by_hash():
    with pytest.raises(ScoreError, match=r"scores 30 images, here are 24.*num_images=24"):
        fitted_rows(24, Protocol("quick", "test", 30, 0))
    rows = fitted_rows(24, Protocol("quick", "test", 10, 0))
    assert len(set(rows)) == 10 and rows == sorted(rows) != list(range(10))
    assert fitted_rows(24, Protocol("quick", "test", 24, 0)) is None
