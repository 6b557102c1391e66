"""Somebody's pictures: rows of their own, a reference of their own, sizes said aloud."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import t2ibench
from t2ibench.cli.main import main
from t2ibench.core.files import read_json
from t2ibench.evaluation.results import by_metric
from t2ibench.metrics.extractors.efficientnet import EfficientNetLite0
from t2ibench.metrics.frechet import frechet_distance

COMMON = ["trainer=cpu", "evaluator/dual_encoder=[]"]


def pictures(folder, count, size=(40, 32), seed=0):
    """Smooth pictures without captions."""
    stream = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        coarse = stream.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def words(tmp_path):
    return [f"paths.cache={tmp_path}/cache", f"paths.runs={tmp_path}/runs", *COMMON]


def test_two_folders_are_compared_whole_at_their_own_size_which_is_said(tmp_path, words, capsys):
    made = pictures(tmp_path / "sd-v1.5", 24, (32, 32))
    real = pictures(tmp_path / "r\u00e9el, a=b", 31, (48, 40), seed=1)
    (real / "sub").mkdir()
    for odd in ("._x.jpg", ".Trash-0/y.png"):
        (real / odd).parent.mkdir(exist_ok=True)
        (real / odd).write_bytes(b"no picture")
    assert main(["score", str(made), f"reference={real}", *words]) == 0
    told = capsys.readouterr()
    assert "24 images of 32 px" in told.err and "31 images of 40 px" in told.err
    assert "data.resolution=32" in told.err
    found = read_json(made / "scores.json")
    assert found["model"]["name"] == "sd-v1.5", "whole, not cut at the dot"
    (key,) = [key for key in found["chosen"]["scores"] if key.startswith("fd[")]
    assert key.endswith("|24/31]"), "all of the reference, no hidden tenth"
    assert key in told.out and str(made / "scores.json") in told.out
    assert "no clip_score, r_precision: the images carry no captions" in told.out
    assert "no floor: the real-against-real floor needs 24 images outside the reference" in told.out
    smaller = ["protocol.test.reference_size=16", "protocol.test.num_images=15"]
    assert f"all 31 images of {real.name}/test: set {' and '.join(smaller)}" in told.out
    assert main(["score", str(made), f"reference={real}", *words, *smaller]) == 0
    assert "no floor" not in capsys.readouterr().out
    value = found["chosen"]["scores"][key]["value"]
    network = EfficientNetLite0()
    expected = frechet_distance(*(network.features(squares(f, 32)) for f in (made, real)))
    assert value == pytest.approx(expected, rel=1e-4)


def test_the_protocol_of_two_folders_counts_also_where_it_is_typed(
    tmp_path, words, capsys, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    made, _ = pictures(tmp_path / "made", 20), pictures(tmp_path / "real", 24, seed=1)
    assert main(["score", str(made), "reference=~/real", "protocol=folders", *words]) == 0
    told = capsys.readouterr()
    assert "|20/24]" in told.out and "reference ~/real: 24 images of 32 px" in told.err
    assert main(["score", str(made), "data=shapes", "protocol=folders", *words]) == 2
    assert "protocol.test.num_images must be given" in capsys.readouterr().err


def squares(folder, side):
    """The folder's pictures, centre-cropped and resized with Pillow alone."""
    found = []
    for path in folder.glob("[0-9]*.png"):
        with Image.open(path) as picture:
            left = (picture.width - picture.height) / 2
            box = (left, 0, left + picture.height, picture.height)
            found.append(np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box)))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


def test_a_protocol_and_a_typed_size_rule_the_comparison(tmp_path, words, capsys):
    made, real = pictures(tmp_path / "a", 24), pictures(tmp_path / "b", 24, (64, 64), seed=1)
    typed = ["protocol=quick", "protocol.test.num_images=20", "protocol.test.reference_size=22",
             "protocol.images.resolution=16", "protocol.images.resize=lanczos"]  # fmt: skip
    assert main(["score", str(made), f"reference={real}", *typed, *words]) == 0
    told = capsys.readouterr()
    assert "compared at 16 px (lanczos-centre-16)" in told.err
    assert "the protocol scores 20 of 24" in told.err and "|20/22]" in told.out
    assert main(["score", str(made), f"reference={real}", "data.resolution=24", *words]) == 0
    assert "data.resolution=24" in capsys.readouterr().err
    assert main(["score", str(made), f"reference={real}", "data=shapes", *words]) == 2
    assert "reference= and data= both name" in capsys.readouterr().err
    assert main(["score", str(made), f"reference={tmp_path}/none", *words]) == 2
    assert "none is no folder" in capsys.readouterr().err
    assert main(["score", str(tmp_path), f"reference={real}", "out=x", str(made), *words]) == 2
    assert "out= takes the scores of one folder" in capsys.readouterr().err


def test_folders_of_one_name_are_rows_of_their_own(tmp_path, words):
    real = pictures(tmp_path / "real", 24, seed=9)
    models = [pictures(tmp_path / m / "images", 24, seed=i) for i, m in enumerate(("A", "B", "C"))]
    assert main(["score", *map(str, models), f"reference={real}", *words]) == 0
    assert main(["compare", *map(str, models), f"out={tmp_path}/tables"]) == 0
    tests = (tmp_path / "tables" / "comparisons.csv").read_text()
    assert "intervals" in tests and "paired by prompt" not in tests, "equal names are no prompts"
    groups = read_json(next((tmp_path / "tables").glob("*.json")))["models"]
    assert sorted(g["label"] for g in groups) == [
        f"images (external) [{m}/images]" for m in ("A", "B", "C")
    ]
    assert all(len(g["seeds"]) == 1 for g in groups)


def test_a_seed_that_the_user_names_makes_one_row_and_the_same_seed_never_does(
    tmp_path, words, capsys
):
    real = pictures(tmp_path / "real", 24, seed=9)
    models = [pictures(tmp_path / f"run{i}", 24, seed=i) for i in range(3)]
    for folder, seed in zip(models, (0, 1, 1), strict=True):
        named = ["name=theirs", f"seed={seed}", f"reference={real}", *words]
        assert main(["score", str(folder), *named]) == 0
    assert main(["compare", *map(str, models), f"out={tmp_path}/tables"]) == 0
    groups = read_json(next((tmp_path / "tables").glob("*.json")))["models"]
    assert sorted(g["seeds"] for g in groups) == [[0, 1], [1]]
    assert len({g["label"] for g in groups}) == 2


def test_another_protocol_leaves_the_first_scores_and_is_compared_by_name(tmp_path, words, capsys):
    real = pictures(tmp_path / "real", 24, seed=9)
    models = [pictures(tmp_path / f"run{i}", 24, seed=i) for i in range(2)]
    small = ["protocol=dev", "protocol.test.num_images=20"]
    for folder in map(str, models):
        assert main(["score", folder, f"reference={real}", *words]) == 0
        first = (tmp_path / folder / "scores.json").read_bytes()
        assert main(["score", folder, f"reference={real}", *small, *words]) == 0
        assert (tmp_path / folder / "scores.json").read_bytes() == first
    (other,) = (models[0] / "scores").glob("dev-*.json")
    told = capsys.readouterr().out
    assert str(other) in told and f"scored as {other.stem}:" in told
    folders = [str(folder) for folder in models]
    assert main(["compare", *folders, "protocol=dev"]) == 0
    assert main(["compare", *folders, f"protocol={other.stem}"]) == 0
    assert main(["compare", *folders, "protocol=standard"]) == 2
    assert "none of 2 folders is scored under protocol=standard" in capsys.readouterr().err
    both = [t2ibench.compare(*folders, protocol=p).analysis for p in ("", "dev")]
    sizes = [{row.runs[0].scores.protocol["num_images"] for row in a.leaderboard.groups}
             for a in both]  # fmt: skip
    assert sizes == [{24}, {20}]


def test_from_python_with_pictures_in_memory(tmp_path, words):
    real = pictures(tmp_path / "real", 24, seed=9)
    made = pictures(tmp_path / "made", 24)
    opened = [Image.open(made / f"{i}.png") for i in range(24)]
    alone = t2ibench.score(opened, None, *words, reference=real)
    folder = t2ibench.score(made, None, *words, reference=real)
    distances = [by_metric(scores.chosen.scores)["fd"] for scores in (alone, folder)]
    assert distances[0].key == distances[1].key
    assert distances[0].value == pytest.approx(distances[1].value, rel=1e-6)
    assert "clip_score, r_precision" in alone.absent


def test_pictures_without_captions_join_a_data_sets_table(tmp_path, words, capsys, caplog):
    made = pictures(tmp_path / "made", 24, (64, 64))
    protocol = ["protocol.test.num_images=24", "protocol.test.reference_size=24",
                "data.source.num_train=32", "data.source.num_test=24"]  # fmt: skip
    assert main(["score", str(made), "data=shapes", *protocol, *words]) == 0
    told = capsys.readouterr()
    assert "24 images of 64 px, compared at 32 px" in told.err
    assert "No CLIP-score, no R-precision: no judge of alignment is at hand" in caplog.text
    found = read_json(made / "scores.json")
    assert "floor" in found["reference"] and not any("clip" in k for k in found["chosen"]["scores"])
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "\n".join(
            f"a {('red', 'blue', 'green')[i % 3]} {('ring', 'moon')[i % 2]}" for i in range(24)
        )
    )
    judged = ["evaluator/dual_encoder=[embedded]", f"prompts={prompts}", "evaluator.grader=false"]
    assert main(["score", str(made), "data=shapes", *protocol, *words, *judged]) == 0
    told = capsys.readouterr().out
    assert "clip_score[shapes-clip-v1" in told
    assert "no r_precision: it ranks each caption among 99 others, here are 6 captions" in told


def test_a_reference_is_compared_with_every_picture_whatever_the_captions(tmp_path, words, capsys):
    made, real = pictures(tmp_path / "made", 20), pictures(tmp_path / "real", 24, seed=1)
    (made / "grid.png").write_bytes((made / "0.png").read_bytes())
    rows = [json.dumps({"file_name": f"{i}.png", "text": "a red ring"}) for i in range(20)]
    (made / "metadata.jsonl").write_text("\n".join(rows[:15]))
    assert main(["score", str(made), f"reference={real}", *words]) == 0
    told = capsys.readouterr()
    assert "5 images have no caption (15.png, 16.png, 17.png, …): distances alone" in told.err
    assert "grid.png is taken for an overview and left out" in told.err
    assert "|20/24]" in told.out
    (made / "metadata.jsonl").write_text("\n".join(rows))
    assert main(["score", str(made), f"reference={real}", *words]) == 0
    assert "no caption" not in capsys.readouterr().err


def test_images_of_one_prompt_have_scores_with_intervals_over_images(tmp_path, words):
    made, real = pictures(tmp_path / "made", 20), pictures(tmp_path / "real", 24, seed=1)
    opened = [Image.open(made / f"{i}.png") for i in range(20)]
    scores = t2ibench.score(opened, ["a red ring"] * 20, *words, reference=real)
    found = by_metric(scores.chosen.scores)
    assert found["fd"].ci_low < found["fd"].value < found["fd"].ci_high
    assert "fewer than 4 prompts: the interval is over images" in found["fd"].note
    assert found["density"].ci_low < found["density"].ci_high


@pytest.mark.parametrize("captioned", [True, False])
def test_a_broken_picture_is_named_with_what_to_do(tmp_path, words, capsys, captioned):
    made, real = pictures(tmp_path / "made", 20), pictures(tmp_path / "real", 24, seed=1)
    (made / "7.png").write_bytes((made / "7.png").read_bytes()[:200])
    if captioned:
        rows = [json.dumps({"file_name": f"{i}.png", "text": f"thing {i}"}) for i in range(20)]
        (made / "metadata.jsonl").write_text("\n".join(rows))
    assert main(["score", str(made), f"reference={real}", *words]) == 2
    told = capsys.readouterr().err
    assert "7.png: " in told and "eplace or remove" in told
    assert "policy" not in told and "max_refused" not in told


def test_a_folder_with_an_equals_sign_is_scored_and_home_is_where_scores_go(
    tmp_path, words, capsys, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "gen=1", 20), pictures(tmp_path / "real", 24, seed=1)
    assert main(["score", "gen=1", "reference=real", "out=~/theirs", *words]) == 0
    assert (tmp_path / "home" / "theirs" / "scores.json").is_file() and not (
        tmp_path / "~"
    ).exists()
    assert main(["compare", "home/theirs", "out=~/tables"]) == 0
    assert main(["report", "home/theirs", "out=~/page.html"]) == 0
    assert (tmp_path / "home" / "page.html").is_file() and not (tmp_path / "~").exists()
    assert main(["score", "gen=2", "reference=real"]) == 2
    assert "Names with = stand after --: t2ibench score … -- gen=2" in capsys.readouterr().err
