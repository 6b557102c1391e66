"""W&B without a network: what its folders hold, read back record by record."""

import json
import os
from pathlib import Path

import pytest
import yaml
from PIL import Image
from reporting.run_folders import KEYS, write_run
from training.wandb_file import sessions

from t2ibench.core import launch
from t2ibench.core.errors import ConfigError
from t2ibench.core.files import read_json
from t2ibench.runs.curves import MetricsFile
from t2ibench.runs.folder import Run
from t2ibench.training import wandb_session
from t2ibench.training.tracking import (
    ComparisonView,
    _sender,
    joined_curves,
    track_comparison,
    track_run,
    track_scores,
)
from t2ibench.training.wandb_session import has_key, mode_of, open_session

OFFLINE = {"project": "t2ibench", "group": None, "mode": "offline"}
CONFIG = {
    "seed": 0,
    "model": {"name": "diffusion/ldm", "family": "diffusion", "lr": 0.1},
    "text": {"name": "word_transformer"},
    "size": {"name": "xs"},
    "data": {"name": "shapes"},
    "conditioning": "cross_attention",
    "study": {"name": "iso_flop", "models": []},
}
TAGS = ["diffusion", "diffusion/ldm", "word_transformer", "xs", "shapes", "cross_attention"]


@pytest.fixture(autouse=True)
def without_a_key(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def run(tmp_path):
    """A scored run's folder, before its training: no curves, no weights."""
    path = write_run(tmp_path, "diffusion/ldm", 0)
    (path / "metrics.csv").unlink()
    (path / "config.yaml").write_text(yaml.safe_dump(CONFIG, explicit_end=True))
    return Run(path, "0123456789abcdef")


def train(run, images, settings=OFFLINE, validation=(), ends=False):
    """One session that makes the rows at ``images``, as the callbacks do."""
    with track_run(settings, run, CONFIG) as track:
        curves, losses = (
            MetricsFile(run.path / "metrics.csv"),
            MetricsFile(run.path / "validation.csv"),
        )
        curves.rewind(min(images) - 1)
        losses.rewind(min(images) - 1)
        for seen in images:
            row = {"images_seen": seen, "flops": f"{seen * 1e9:.6e}", "loss": 1 / seen}
            curves.append(row)
            if track is not None:
                track({name: float(value) for name, value in row.items()})
            if seen in validation:
                losses.append({"images_seen": seen, "val_loss": 2.0})
        if ends:
            run.weights.parent.mkdir(exist_ok=True)
            run.weights.write_bytes(b"weights")


def images_of(session):
    return [row["images_seen"] for row in session.history if "loss" in row]


def test_an_undisturbed_cell_is_one_whole_folder(run):
    train(run, [8, 16, 24], validation=[16], ends=True)
    assert sessions(run.path) == [], "nothing is written before the scores are there"
    track_scores(OFFLINE, run)
    (found,) = sessions(run.path)
    assert found.run.run_id == run.identity and found.run.display_name == run.path.name
    assert (found.run.project, found.run.run_group) == ("t2ibench", "iso_flop")
    assert found.run.job_type == "train" and sorted(found.run.tags) == sorted(TAGS)
    assert {key: found.config[key] for key in CONFIG} == CONFIG
    assert images_of(found) == [8, 16, 24] and found.exit_code == 0
    assert [row["_step"] for row in found.history] == [8, 16, 24]
    middle = next(row for row in found.history if row["images_seen"] == 16)
    assert (middle["loss"], middle["flops"], middle["val_loss"]) == (0.0625, 16e9, 2.0)


def test_scores_have_the_keys_of_scores_json(run):
    train(run, [8, 16], ends=True)
    track_scores(OFFLINE, run)
    (found,) = sessions(run.path)
    written = read_json(run.path / "scores.json")
    for key, score in written["chosen"]["scores"].items():
        assert found.summary[key] == score["value"]
        assert found.summary[f"{key}/ci_low"] == score["ci_low"]
        assert found.summary[f"{key}/ci_high"] == score["ci_high"]
        assert found.summary[f"{key}/n"] == score["n"]
    assert found.summary["cost/train_flops"] == written["cost"]["train_flops"]
    assert found.summary["cost/parameters/network"] == 2_400_000
    assert found.summary["loss"] == 1 / 16 and found.summary["images_seen"] == 16


def test_samples_come_with_their_prompts_and_verdicts(run):
    track_scores(OFFLINE, run)
    (found,) = sessions(run.path)
    (row,) = [row for row in found.history if "samples.path" in row]
    (file,) = run.path.glob(f"wandb/offline-*/files/{row['samples.path']}")
    table = json.loads(file.read_text())
    assert table["columns"][:3] == ["caption", "seed", "image"]
    assert set(table["columns"][3:]) == {
        KEYS[n] for n in ("clip_score", "r_precision", "grader_colour", "grader_shape",
                          "grader_exact")
    }  # fmt: skip
    assert len(table["data"]) == 32 and table["data"][3][:2] == [
        "a large yellow square on white, no. 3", 1003,
    ]  # fmt: skip
    assert table["data"][0][table["columns"].index(KEYS["grader_exact"])] in (0, 1)
    contents = found.artifacts[0].manifest.contents
    images = [entry for entry in contents if entry.path.endswith(".png")]
    assert len({entry.digest for entry in images}) == len(images) == 32
    assert all(Path(entry.local_path).is_relative_to(run.path) for entry in contents)
    with Image.open(images[0].local_path) as image:
        assert image.size == (32, 32)


def test_an_interrupted_run_goes_on_without_a_row_twice_or_missing(run):
    train(run, [8, 16, 24], validation=[16])
    train(run, [32, 40], validation=[32])
    train(run, [48], ends=True)
    track_scores(OFFLINE, run)
    track_scores(OFFLINE, run)
    found = sessions(run.path)
    assert {s.run.run_id for s in found} == {run.identity}
    assert [images_of(s) for s in found] == [[8, 16, 24], [32, 40], [48], []]
    rows = [row for s in found for row in s.history if "loss" in row]
    kept = [{k: row[k] for k in row if k[0] != "_" and "samples" not in k} for row in rows]
    assert kept == joined_curves(run)


def test_a_killed_session_leaves_nothing_that_the_next_repeats(run):
    train(run, [8, 16])
    child = os.fork()
    if child == 0:
        with track_run(OFFLINE, run, CONFIG):
            MetricsFile(run.path / "metrics.csv").append({"images_seen": 24, "loss": 9.0})
            os._exit(0)
    os.waitpid(child, 0)
    train(run, [8, 16, 24, 32], ends=True)
    track_scores(OFFLINE, run)
    assert [images_of(s) for s in sessions(run.path)] == [[8, 16], [24, 32]]


def test_a_row_that_is_sent_again_is_dropped(run):
    """What a run resumed online relies on: W&B keeps one row a step."""
    with open_session(
        OFFLINE, "offline", run.path, identity="a", name="a", group=None, job_type="train"
    ) as session:
        for seen in (8, 16, 8, 24):
            _sender(session)({"images_seen": float(seen), "loss": 1.0})
    (found,) = sessions(run.path)
    assert images_of(found) == [8, 16, 24]


def test_an_unreachable_server_neither_stops_nor_loses_anything(run, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_session, "INIT_SECONDS", 1)
    train(run, [8, 16], OFFLINE | {"mode": "online"})
    (found,) = sessions(run.path)
    assert images_of(found) == [8, 16] and found.run.run_id == run.identity
    said = [line for line in capfd.readouterr().err.splitlines() if "t2ibench" in line]
    assert len(said) == 1 and "kept offline" in said[0] and "wandb sync" in said[0]


def test_auto_is_online_only_with_a_key(monkeypatch, tmp_path, capsys):
    assert not has_key() and mode_of(OFFLINE | {"mode": "auto"}) == "offline"
    assert mode_of(OFFLINE | {"mode": "online"}) == "offline"
    assert "wandb login" in capsys.readouterr().err
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 123\n")
    assert has_key() and mode_of(OFFLINE | {"mode": "auto"}) == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.lab.example")
    assert not has_key(), "the key is another server's"
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert mode_of(OFFLINE | {"mode": "auto"}) == "online"
    with pytest.raises(ConfigError, match="logger.wandb.mode=of is unknown; choose auto"):
        mode_of(OFFLINE | {"mode": "of"})


@pytest.mark.parametrize("settings", [None, OFFLINE | {"mode": "disabled"}])
def test_no_logger_logs_nothing(run, settings):
    train(run, [8], settings)
    track_scores(settings, run)
    assert sessions(run.path) == [] and not (run.path / "wandb").exists()


def test_only_the_first_rank_logs(run, monkeypatch):
    monkeypatch.setattr(launch, "_rank", 1)
    train(run, [8])
    track_scores(OFFLINE, run)
    assert not (run.path / "wandb").exists()


def test_a_comparison_is_a_run_of_its_own(tmp_path):
    page = tmp_path / "leaderboard.html"
    page.write_text("<p>page")
    view = ComparisonView(
        "iso_flop: 2 models", "iso_flop", ("b", "a"),
        {"leaderboard": [["model", "fd"], ["ldm", 1.5], ["gan", None]]},
        {"pareto": "<svg></svg>"}, (page,),
    )  # fmt: skip
    for _ in range(2):
        track_comparison(OFFLINE, view, tmp_path)
    first, second = sessions(tmp_path)
    assert first.run.run_id == second.run.run_id
    assert (first.run.job_type, first.run.run_group) == ("compare", "iso_flop")
    (row,) = first.history
    (file, *_) = tmp_path.glob(f"wandb/offline-*/files/{row['leaderboard.path']}")
    assert json.loads(file.read_text())["data"] == [["ldm", 1.5], ["gan", None]]
    assert "pareto.path" in row
    results = next(a for a in first.artifacts if a.type == "comparison")
    assert [entry.path for entry in results.manifest.contents] == ["leaderboard.html"]
