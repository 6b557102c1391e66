"""Files as GenEval's, T2I-CompBench's and ADM's evaluators and our own reader expect them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from t2ibench.core.errors import ConfigError
from t2ibench.data.folder import FolderSource
from t2ibench.data.prompts import Prompt
from t2ibench.evaluation.external import read_external
from t2ibench.evaluation.layouts import choose_layout, write_images

ROWS = [
    {
        "tag": "single_object",
        "include": [{"class": "cup", "count": 1}],
        "prompt": "a photo of a cup",
    },
    {
        "tag": "colors",
        "include": [{"class": "cup", "color": "red"}],
        "prompt": "a photo of a red cup",
    },
]
GENEVAL = [Prompt(row["prompt"], row["tag"], row) for row in ROWS]
PLAIN = [Prompt("a red/blue ring"), Prompt("a moon")]


def pixels(count):
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8) * 20


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_genevals_folders(tmp_path):
    write_images(tmp_path, "geneval", GENEVAL, 2, pixels(4), range(4))
    assert files(tmp_path) == [
        f"{p}/{f}"
        for p in ("00000", "00001")
        for f in ("metadata.jsonl", "samples/00000.png", "samples/00001.png")
    ]
    for number, row in enumerate(ROWS):
        # As its evaluator reads it: one JSON document in metadata.jsonl.
        assert json.loads((tmp_path / f"{number:05d}" / "metadata.jsonl").read_text()) == row
    image = np.asarray(Image.open(tmp_path / "00001" / "samples" / "00000.png"))
    assert image.shape == (8, 8, 3) and (image == 40).all()


def test_compbench_names_carry_prompt_and_running_number(tmp_path):
    write_images(tmp_path, "t2i_compbench", PLAIN, 2, pixels(4), range(4))
    names = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert names == [
        "a moon_000002.png", "a moon_000003.png",
        "a red blue ring_000000.png", "a red blue ring_000001.png",
    ]  # fmt: skip
    assert sorted(int(name[-10:-4]) for name in names) == [0, 1, 2, 3]


def test_endless_prompts_still_have_a_file_name(tmp_path):
    write_images(tmp_path, "t2i_compbench", [Prompt("é" * 400)], 1, pixels(1), [0])
    assert len(next((tmp_path / "samples").iterdir()).name.encode()) <= 255


def test_plain_images_are_read_back_with_their_captions(tmp_path):
    out = tmp_path / "out"
    write_images(out, "plain", PLAIN, 2, pixels(4), (5, 6, 7, 8))
    source = FolderSource(out, cache_dir=tmp_path / "cache", resolution=8, max_refused=0)
    whole = source.everything()
    assert [r.captions[0] for r in whole.records] == [
        "a red/blue ring", "a red/blue ring", "a moon", "a moon",
    ]  # fmt: skip
    assert [r.meta["seed"] for r in whole.records] == [5, 6, 7, 8]
    assert torch.equal(whole.pixels(slice(None)), pixels(4))


def test_adms_arrays_are_read_by_its_evaluator_and_by_ours(tmp_path):
    shades = torch.arange(4 * 3 * 8 * 8).remainder(251).to(torch.uint8).view(4, 3, 8, 8)
    write_images(tmp_path / "out", "adm", PLAIN, 2, shades, range(4))
    assert files(tmp_path / "out") == ["samples_4x8x8x3.npz"]
    # As guided-diffusion's evaluator opens it: one array by name, without unpickling.
    with np.load(tmp_path / "out" / "samples_4x8x8x3.npz", allow_pickle=False) as file:
        assert file["arr_0"].dtype == np.uint8
        assert file["seeds"].tolist() == [0, 1, 2, 3]
        np.testing.assert_array_equal(file["arr_0"], shades.permute(0, 2, 3, 1).numpy())
    read = read_external(tmp_path / "out" / "samples_4x8x8x3.npz", 8, tmp_path / "cache")
    assert torch.equal(read.samples.pixels, shades)
    assert read.samples.captions == ("a red/blue ring", "a red/blue ring", "a moon", "a moon")


def test_the_layout_follows_the_prompts_unless_it_is_told():
    assert choose_layout("auto", GENEVAL) == "geneval"
    assert choose_layout("auto", PLAIN) == "plain"
    assert choose_layout("plain", GENEVAL) == "plain"
    with pytest.raises(ConfigError, match="needs GenEval's evaluation_metadata"):
        choose_layout("geneval", PLAIN)
    with pytest.raises(ConfigError, match="layout=cube is unknown"):
        choose_layout("cube", PLAIN)
