"""Paths, names and prompts with characters that shells and Hydra's grammar give a meaning to."""

import json

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from t2ibench.cli.arguments import parse_arguments
from t2ibench.cli.compose import compose_config, config_files
from t2ibench.cli.grid import read_grid
from t2ibench.cli.main import main
from t2ibench.cli.overrides import PATHS, for_hydra, with_quotes
from t2ibench.cli.verbs import score
from t2ibench.core.errors import ConfigError
from t2ibench.engine.spec import StudySpec, checked

ODD = [
    "a=b", "my pics", "[x]", "(1)", "{x}", "~x", "ü ß", "日本", "-dash", "it's", 'a"b', "a#b",
    "a!b", "a$b", "a&b", "a\\b", "a;b", "a^b", "a`b", "<a>", "2024", "1e5", "007", "true", "a%b",
    "a|b", "a?b", "a*b", "end\\", "a\tb", "a:b",
]  # fmt: skip


def read(override):
    """An override's value as Hydra's grammar reads it."""
    (found,) = OverridesParser.create().parse_overrides(for_hydra([override]))
    value = found.value()
    return value.text if isinstance(value, QuotedString) else value


def root_of(*overrides):
    return compose_config(["data=folder", *overrides])["data"]["source"]["root"]


@pytest.mark.parametrize("name", ODD)
def test_a_path_arrives_as_it_was_typed(name):
    judge = "evaluator.dual_encoders.open_clip_vit_b32.weights"
    for key in ("data.root", "paths.runs", "text.path", "start", judge):
        assert read(f"{key}={name}") == name
    assert read(f"data.root=/d/{name}/x") == f"/d/{name}/x"


def test_odd_paths_arrive_in_the_configuration():
    assert root_of("data.root=/d/a=b ü [x]") == "/d/a=b ü [x]"
    assert compose_config(["paths.runs=2024"])["paths"]["runs"] == "2024"


@given(st.text(min_size=1, max_size=30).filter(lambda t: "${" not in t and "," not in t))
def test_any_path_arrives_and_quoting_twice_changes_nothing(name):
    quoted_by_user = name[0] in "'\"" and name[-1] == name[0]
    override = f"data.root=/d/{name}" if quoted_by_user or name.startswith("~") else None
    once = with_quotes(override or f"data.root=d{name}")
    assert with_quotes(once) == once
    assert read(once) == (f"/d/{name}" if override else f"d{name}")


def test_a_comma_is_a_sweep_unless_a_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    assert root_of("data.root=a,b") == str(tmp_path / "a,b")
    cells = read_grid(["data=folder", "data.root=/d/ü,/d/x y", "-m"][:2]).cells
    assert [root_of(*cell[1:]) for cell in cells] == ["/d/ü", "/d/x y"]
    with pytest.raises(ConfigError, match="data.root=/d/a,/d/b has several values"):
        root_of("data.root=/d/a,/d/b")
    assert root_of("data.root='/d/a,b'") == "/d/a,b"


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ü")
    assert read("data.root=~/pics") == "/home/ü/pics"
    assert read("evaluator.extractors.dinov2.folder=~/d") == "/home/ü/d"
    assert read("data.root=x~/pics") == "x~/pics"


def test_null_and_interpolations_and_the_users_quotes_stay():
    assert for_hydra(["start=null", "text.path=", "seed=0,1"]) == [
        "start=null", "text.path=", "seed=0,1",
    ]  # fmt: skip
    assert root_of("data.root=${paths.data}/x", "paths.data=/a b") == "/a b/x"
    assert read('data.root="/d/q"') == "/d/q"
    assert for_hydra(["start=12345678"]) == ["start='12345678'"]
    assert set(PATHS) >= {"data.root", "start", "base", "text.run", "text.path"}


@pytest.mark.parametrize("name", [*ODD, "a,b", "null", "a b,c"])
def test_a_study_has_any_name(name):
    assert read(f"study.name={name}") == name


@pytest.mark.parametrize("name", ["a=b ü, [x]", "2024", "null"])
def test_a_grid_has_the_studys_name(name):
    grid = read_grid([f"study.name={name}", "seed=0,1"])
    assert grid.study.name == name and len(grid.cells) == 2
    assert {compose_config(cell)["study"]["name"] for cell in grid.cells} == {name}


@pytest.mark.parametrize("name", ["a/b", "../x", ".", "..", ".hidden", "", " ", "x" * 201])
def test_a_study_whose_name_is_no_folder_is_refused(name):
    words = {"name": name, "retries": 0, "cells_per_job": 1, "objective": None}
    with pytest.raises(ConfigError, match=r"study\.name=.*it names a folder; choose"):
        checked(StudySpec, words | {"models": [], "cells": []}, "study")


def test_a_command_with_such_a_name_is_refused():
    with pytest.raises(ConfigError, match=r"study\.name=\.\./x: it names a folder"):
        read_grid(["study.name=../x"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.level=a=b", r"data\.level=a=b cannot be read.*\"data\.level='a=b'\""),
        ("data.level=ü", r"cannot be read.*\"data\.level='ü'\""),
        ("ring", "ring is no override; type key=value"),
        ("data.level=L1,L2", "data.level=L1,L2 has several values, which `t2ibench train -m`"),
    ],
)
def test_another_word_says_how_it_is_quoted(override, words):
    with pytest.raises(ConfigError, match=words):
        compose_config([override])


# ---- sweeps ----


def test_glob_means_the_files_of_a_group():
    cells = read_grid(["text=glob(word_*)"]).cells
    assert [cell[0] for cell in cells] == ["text=word_lstm", "text=word_transformer"]
    grid = read_grid(["text=glob(*,exclude=[base,damsm,run,*_*])", "seed=0,1"])
    assert len(grid.cells) == 2 * len({"minilm", "t5"}) and set(grid.swept) == {"text", "seed"}
    assert len(read_grid(["model=glob(gan/*)"]).cells) == sum(
        name.startswith("gan/") for name in config_files("model")
    )
    with pytest.raises(ConfigError, match=r"text=glob\(nope\*\) matches nothing; text has base"):
        read_grid(["text=glob(nope*)"])


def test_keys_of_the_models_that_are_swept_are_known():
    key = "model.module.generator_optimizer.lr"
    cells = read_grid(["model=gan/fast_painter", f"{key}=1e-3,1e-4"]).cells
    assert len(cells) == 2
    # The default model has no such key, the swept ones have.
    cells = read_grid(["model=gan/fast_painter,diffusion/fast_unet", f"{key}=1e-3"]).cells
    assert compose_config(cells[0])["model"]["module"]["generator_optimizer"]["lr"] == 1e-3
    with pytest.raises(ConfigError, match=f"{key} is not a configuration key"):
        compose_config(cells[1])


def test_a_cell_without_the_key_is_named_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("T2IBENCH_RUNS", str(tmp_path / "runs"))
    models = "model=diffusion/fast_unet,gan/fast_painter"
    lr = "model.module.generator_optimizer.lr=1e-3"
    assert main(["train", "-m", "--dry-run", models, lr]) == 2
    told = capsys.readouterr().err
    assert "cell model=diffusion/fast_unet: model.module.generator_optimizer.lr is not" in told


# ---- words of the other verbs ----


def test_everything_after_two_dashes_is_a_word():
    words = ["run", "seed=3", "--", "e=mc2", "-5 degrees", "seed=4", "--"]
    given = parse_arguments("sample", words, {"seed": "0"})
    assert given.words == ["run", "e=mc2", "-5 degrees", "seed=4", "--"]
    assert given.options == {"seed": "3"}


def test_mistaken_words_say_how_they_are_typed(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"no option e; .*sample … -- 'e=a ring'"):
        parse_arguments("sample", ["e=a ring"], {"seed": "0"})
    with pytest.raises(ConfigError, match=r"no flag -5 degrees.*-- '-5 degrees'"):
        parse_arguments("sample", ["-5 degrees"], {"seed": "0"})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=3").mkdir()
    assert parse_arguments("compare", ["lr=3"], {"out": ""}).words == ["lr=3"]


def test_sample_refuses_a_folder_of_others_before_any_work(tmp_path, capsys):
    (tmp_path / "holiday.png").write_bytes(b"x")
    assert main(["sample", "nowhere", "a ring", f"out={tmp_path}"]) == 2
    assert "holds 1 files that no sampling wrote" in capsys.readouterr().err


def test_a_study_in_odd_places_is_trained_and_found(tmp_path, shared_cache, monkeypatch, capsys):
    odd = tmp_path / "ü = [1], it's {x} ~"
    pictures = odd / "my pics, -m"
    pictures.mkdir(parents=True)
    rows = []
    for i in range(60):
        name = f"{'train' if i < 40 else 'val' if i < 50 else 'test'}/{i}=ü, [x].png"
        (pictures / name).parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / name)
        rows.append(json.dumps({"file_name": name, "text": f"picture {i}"}))
    (pictures / "metadata.jsonl").write_text("\n".join(rows))
    monkeypatch.setenv("T2IBENCH_CACHE", str(shared_cache))
    words = [
        "train", "-m", "data=folder", f"data.root={pictures}", "data.resolution=32",
        f"paths.runs={odd}/runs", "study.name=a=b, ü", "seed=0,1", "model=gan/fast_painter",
        "budget=images", "budget.amount=32", "trainer=cpu",
        "protocol.test.num_images=8", "protocol.test.reference_size=8",
        "protocol.front.num_images=8", "protocol.front.reference_size=8",
        "protocol.knob_sweep=[1.0]", "protocol.cost_seconds=0.01",
    ]  # fmt: skip
    assert main(words) == 0
    capsys.readouterr()
    assert main(["status", f"runs={odd}/runs", "--", "a=b, ü"]) == 0
    assert "a=b, ü: 2 finished" in capsys.readouterr().out


def test_a_folder_after_two_dashes_is_scored_whatever_its_name(tmp_path, monkeypatch):
    scored = []
    monkeypatch.setattr(score, "score_pictures", lambda folder, *rest: scored.append(str(folder)))
    assert main(["score", "a", "data=shapes", "--", "-b", "seed=3", "--"]) == 0
    assert scored == ["a", "-b", "seed=3", "--"]


def test_the_home_folder_is_found_in_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("T2IBENCH_RUNS", "~/x")
    monkeypatch.setenv("T2IBENCH_CACHE", "~/y")
    config = compose_config([])
    assert config["paths"]["runs"] == f"{tmp_path}/x"
    assert config["data"]["source"]["cache_dir"].startswith(f"{tmp_path}/y")
