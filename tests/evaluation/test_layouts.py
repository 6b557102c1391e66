"""Files as GenEval's, T2I-CompBench's and ADM's evaluators and our own reader expect them."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from t2ibench.core.errors import ConfigError
from t2ibench.core.hashing import hash_file
from t2ibench.data.folder import FolderSource
from t2ibench.data.prompts import Prompt
from t2ibench.data.resize import ResizeRecipe
from t2ibench.evaluation import sample_folder
from t2ibench.evaluation.external import read_external
from t2ibench.evaluation.layouts import choose_layout, write_images
from t2ibench.evaluation.sample_folder import RECORD

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
    """Files that are seen; the record of samples is hidden."""
    found = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return sorted(str(p.relative_to(folder)) for p in found)


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
    read = read_external(
        tmp_path / "out" / "samples_4x8x8x3.npz", ResizeRecipe(8), tmp_path / "cache"
    )
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


# ---- GenEval 2, DPG-Bench, OneIG-Bench ----

QUESTIONS = [["Is there a cup?", "Yes"]]
GENEVAL2 = [Prompt(t, "", {"prompt": t, "vqa_list": QUESTIONS}) for t in ("a  cup", "two cups")]
DPG = [Prompt("a cat", "", {"item_id": "7"}), Prompt("a dog", "", {"item_id": "COCOval2"})]
ONEIG = [
    Prompt("a man", "Portrait", {"category": "Portrait", "id": "000", "prompt_en": "a man"}),
    Prompt("a sign", "", {"category": "Text_Rendering", "id": "000", "prompt_en": "a sign"}),
]


def test_geneval2s_paths_lead_from_its_prompts_to_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images("out", "geneval2", GENEVAL2, 2, pixels(4), range(4))
    monkeypatch.chdir("/")
    for sample in range(2):
        paths = json.loads((tmp_path / "out" / f"image_paths_{sample}.json").read_text())
        assert list(paths) == ["a  cup", "two cups"]  # as its file has them
        shades = [np.asarray(Image.open(path))[0, 0, 0] for path in paths.values()]
        assert shades == [20 * sample, 20 * (2 + sample)]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_dpg_benchs_quarters_are_where_its_evaluator_cuts(tmp_path, count):
    write_images(tmp_path / "out", "dpg_bench", DPG, count, pixels(2 * count), range(2 * count))
    assert files(tmp_path / "out") == ["7.png", "COCOval2.png"]
    whole = Image.open(tmp_path / "out" / "COCOval2.png")
    assert whole.size == ((8, 8) if count == 1 else (16, 16))
    corners = [(0, 0, 8, 8), (8, 0, 16, 8), (0, 8, 8, 16), (8, 8, 16, 16)]
    shades = [np.asarray(whole.crop(box)) for box in corners[:count]]
    assert [s.min() for s in shades] == [s.max() for s in shades]
    assert [int(s.min()) for s in shades] == [20 * (count + i) for i in range(count)]


@pytest.mark.parametrize("side", [1, 2])
def test_oneigs_grids_lie_in_the_folders_of_its_classes(tmp_path, side):
    count = side * side
    write_images(tmp_path / "mine", "oneig", ONEIG, count, pixels(2 * count), range(2 * count))
    assert files(tmp_path / "mine") == ["human/mine/000.webp", "text/mine/000.webp"]
    whole = Image.open(tmp_path / "mine" / "text" / "mine" / "000.webp")
    assert whole.size == (8 * side, 8 * side)
    for row in range(side):
        for column in range(side):
            cut = np.asarray(whole.crop((8 * column, 8 * row, 8 * column + 8, 8 * row + 8)))
            assert (cut == 20 * (count + row * side + column)).all()


def test_the_layouts_of_benchmarks_need_their_prompts(tmp_path):
    for name, prompts in (("geneval2", GENEVAL2), ("dpg_bench", DPG), ("oneig", ONEIG)):
        assert choose_layout("auto", prompts) == name
        with pytest.raises(ConfigError, match=f"layout={name} needs"):
            choose_layout(name, PLAIN)
        with pytest.raises(ConfigError, match="2 prompts share;"):
            choose_layout("auto", [*prompts, prompts[0]])
        with pytest.raises(ConfigError, match="3 prompts share, as others do 1 more names;"):
            choose_layout("auto", [*prompts, *prompts, prompts[0]])
    with pytest.raises(ConfigError, match="images_per_prompt=5 is more than the 4"):
        choose_layout("auto", DPG, 5)
    with pytest.raises(ConfigError, match="images_per_prompt=3 fills no square grid"):
        choose_layout("auto", ONEIG, 3)


# ---- a folder twice ----


@pytest.mark.parametrize(
    ("layout", "prompts"),
    [("plain", PLAIN), ("geneval", GENEVAL), ("geneval2", GENEVAL2), ("dpg_bench", DPG),
     ("oneig", ONEIG), ("t2i_compbench", PLAIN), ("adm", PLAIN)],
)  # fmt: skip
def test_a_second_call_leaves_no_image_of_the_first(tmp_path, layout, prompts):
    write_images(tmp_path / "new", "plain", PLAIN[:1], 1, pixels(1), [0])
    write_images(tmp_path / "out", layout, prompts, 1, pixels(2), range(2))
    write_images(tmp_path / "out", "plain", PLAIN[:1], 1, pixels(1), [0])
    assert files(tmp_path / "out") == files(tmp_path / "new")
    assert not [p for p in (tmp_path / "out").iterdir() if p.is_dir()]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("change", ["foreign", "edited", "scored"])
def test_files_of_others_are_told_and_never_removed(tmp_path, change):
    out = tmp_path / "out"
    write_images(out, "plain", PLAIN, 1, pixels(2), range(2))
    image = next(out.glob("*.png"))
    name = {"foreign": "mine.png", "edited": image.name, "scored": "scores.json"}[change]
    (out / name).write_bytes(b"precious")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=rf"holds 1 files.*\({re.escape(name)}\)"):
        write_images(out, "plain", PLAIN[:1], 1, pixels(1), [0])
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_record_of_others_removes_nothing_outside(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious").write_text("x")
    record = {"../precious": hash_file(tmp_path / "precious", 16), "/etc/nothing": "0"}
    (out / RECORD).write_text(json.dumps(record))
    write_images(out, "plain", PLAIN, 1, pixels(2), range(2))
    assert (tmp_path / "precious").read_text() == "x"


def test_hidden_files_and_links_of_others_are_not_removed_for_a_record(tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    for folder in (out, other):
        folder.mkdir()
        (folder / ".hidden").write_text("x")
    (out / "link").symlink_to(other)
    record = {".hidden": "0", "link/.hidden": hash_file(other / ".hidden", 16)}
    (out / RECORD).write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"holds 1 files.*\(\.hidden\)"):
        write_images(out, "plain", PLAIN, 1, pixels(2), range(2))
    (out / ".hidden").unlink()
    write_images(out, "plain", PLAIN, 1, pixels(2), range(2))
    assert (other / ".hidden").exists()


def test_a_prompt_with_a_dot_in_front_is_replaced_as_others_are(tmp_path):
    write_images(tmp_path, "t2i_compbench", [Prompt(".a dot")], 1, pixels(1), [0])
    write_images(tmp_path, "t2i_compbench", PLAIN[:1], 1, pixels(1), [0])
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["a red blue ring_000000.png"]


@pytest.mark.parametrize("step", range(7))
def test_an_interrupted_call_is_replaced_by_the_next(tmp_path, monkeypatch, step):
    """At every step: three files are removed, the record is written, three files are moved."""
    out, done = tmp_path / "out", []
    write_images(out, "plain", PLAIN, 1, pixels(2), range(2))

    def interrupted(act):
        def once(*args):
            if len(done) == step:
                raise KeyboardInterrupt
            done.append(act)
            return act(*args)

        return once

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for name in ("remove", "write_json", "move"):
            patch.setattr(sample_folder, name, interrupted(getattr(sample_folder, name)))
        write_images(out, "plain", PLAIN, 1, pixels(2) + 1, (8, 9))
    write_images(out, "plain", PLAIN[:1], 1, pixels(1), [0])
    assert files(out) == ["00000-a-red-blue-ring.png", "metadata.jsonl"]
