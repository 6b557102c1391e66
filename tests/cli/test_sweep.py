"""Studies through the command line: launchers, the same command again, failures, two launchers."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2ibench.cli.compose import config_dir
from t2ibench.cli.main import main
from t2ibench.core.files import read_json
from t2ibench.runs.folder import Run

ROOT = Path(__file__).parents[2]
SMALL = [
    "model=gan/fast_painter", "budget=images", "budget.amount=64",
    "data.source.num_train=96", "data.source.num_val=32", "data.source.num_test=48",
    "protocol.test.num_images=48", "protocol.test.reference_size=48",
    "protocol.front.num_images=8", "protocol.front.reference_size=8",
    "protocol.knob_sweep=[1.0]", "protocol.cost_seconds=0.01",
    "trainer=cpu", "trainer.log_every_images=32",
]  # fmt: skip
DIVERGES = "model.module.generator_optimizer.lr=1e30,1e-3"
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "study.cells_per_job=2"]
LOCAL = ["hydra/launcher=submitit_local", "study.cells_per_job=2"]
OPTUNA = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.direction=maximize"]

GRID = """
# @package _global_
study: {name: grid}
hydra:
  mode: MULTIRUN
  sweeper:
    params: {conditioning: "concat,modulation", seed: "0,1"}
"""


@pytest.fixture
def runs(tmp_path, shared_cache, monkeypatch):
    """An empty folder of runs, not made yet."""
    monkeypatch.setenv("T2IBENCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("T2IBENCH_CACHE", str(shared_cache))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the processes of launchers
    return tmp_path / "runs"


def words(*overrides, name="s"):
    return ["train", "-m", *SMALL, f"study.name={name}", *overrides]


def typed(*overrides, name="s"):
    """The sweep as its own process."""
    command = [sys.executable, "-m", "t2ibench", *words(*overrides, name=name)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def cells(capsys, name="s"):
    """The ledger as ``status json=true`` tells it, by label."""
    capsys.readouterr()
    assert main(["status", name, "json=true"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["study"] == name
    return {cell["label"]: cell for cell in told["cells"]}


def states(capsys, name="s"):
    return {label: cell["state"] for label, cell in cells(capsys, name).items()}


def stamps(runs, pattern):
    """When files of all runs were written."""
    return {path: path.stat().st_mtime_ns for path in runs.glob(f"gan-*/{pattern}")}


def weights(runs):
    return stamps(runs, "checkpoints/model.safetensors")


# ---- launchers ----


@pytest.mark.parametrize(
    ("launcher", "seeds"),
    [([], "0,1"), (JOBLIB, "0,1,2"), (LOCAL, "0,1")],
    ids=["basic", "joblib", "local"],
)
def test_a_launcher_finishes_every_cell_and_the_same_command_trains_nothing(
    runs, capsys, launcher, seeds
):
    assert main(words(f"seed={seeds}", *launcher)) == 0
    assert states(capsys) == {f"seed={seed}": "finished" for seed in seeds.split(",")}
    before = weights(runs) | stamps(runs, "*.json")
    assert len(weights(runs)) == len(seeds.split(","))
    jobs = sorted((runs / "studies" / "s" / "jobs").rglob("*"))
    assert main(words(f"seed={seeds}", *launcher)) == 0
    assert weights(runs) | stamps(runs, "*.json") == before
    assert sorted((runs / "studies" / "s" / "jobs").rglob("*")) == jobs  # nothing was launched


def test_a_folder_of_hydra_for_each_job_leaves_the_runs_where_they_are(
    runs, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("T2IBENCH_RUNS", "runs")
    assert main(words("seed=0", "hydra.job.chdir=true")) == 0
    before = weights(runs)
    assert len(before) == 1 and Path.cwd() == tmp_path
    assert len(list(tmp_path.rglob("model.safetensors"))) == len(
        list(runs.rglob("model.safetensors"))
    )
    assert main(words("seed=0")) == 0 and weights(runs) == before


def test_a_larger_sweep_trains_only_what_is_new(runs, capsys):
    assert main(words("seed=0")) == 0
    before = weights(runs)
    assert main(words("seed=0,1", name="larger")) == 0
    assert len(weights(runs)) == 2 and before.items() <= weights(runs).items()
    assert len(cells(capsys, "s")) == 1
    found = cells(capsys, "larger")
    assert list(found) == ["seed=0", "seed=1"]
    for cell in found.values():
        assert cell["state"] == "finished" and cell["failures"] == 0
        assert cell["spent"]["images_seen"] == 64
        assert cell["spent"]["flops"] > 0 and cell["spent"]["seconds"] > 0
    assert main(["status", f"runs={runs}"]) == 0
    assert capsys.readouterr().out == "larger\ns\n"
    assert main(["status", "larger", f"runs={runs}"]) == 0
    assert main(["status", "larger", f"runs={runs}", "json=yes"]) == 2
    assert main(["status", f"runs={runs}/none"]) == 2
    told = capsys.readouterr().out
    assert told.count("100%") == 2 and "seed=0" in told and "seed=1" in told
    assert told.endswith("larger: 2 finished\n")


def test_a_sweeper_that_optimises_enters_its_trials_into_the_ledger(runs, capsys):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra optuna")
    sampler = ["hydra.sweeper.sampler.seed=0", "study.objective=clip_score"]
    assert main(words(*OPTUNA, *sampler, "seed=choice(0,1)", "hydra.sweeper.n_jobs=1")) == 0
    best = (runs / "studies" / "s" / "jobs" / "optimization_results.yaml").read_text()
    found = cells(capsys)
    scores = []
    for cell in found.values():
        assert cell["state"] == "finished"
        scored = read_json(runs / cell["run"] / "scores.json")["chosen"]["scores"].values()
        scores.append(next(s["value"] for s in scored if s["key"].startswith("clip_score")))
    assert f"best_value: {max(scores)}" in best


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [([], "needs a score to go by"), (["study.objective=beauty"], "study.objective=beauty is no")],
)
def test_a_sweeper_that_optimises_needs_a_score(runs, capsys, objective, sentence):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra optuna")
    one = ["hydra.sweeper.n_trials=1", "seed=choice(0,1)"]
    assert main(words(*OPTUNA, *one, *objective)) == 2
    assert sentence in capsys.readouterr().err


# ---- the same command again ----


def test_another_protocol_scores_again_without_training(runs, capsys):
    assert main(words("seed=0")) == 0
    trained, scored = weights(runs), stamps(runs, "scores.json")
    other = ["protocol.test.num_images=40", "protocol.test.reference_size=40"]
    capsys.readouterr()
    assert main(words("seed=0", *other, "--dry-run")) == 0
    planned = capsys.readouterr().out
    assert "is scored again" in planned and "interrupted" not in planned
    assert main(words("seed=0", *other)) == 0
    assert weights(runs) == trained
    again = stamps(runs, "scores.json")
    assert all(again[path] > scored[path] for path in scored)
    for path in again:
        assert read_json(path)["protocol"]["num_images"] == 40
    assert main(words("seed=0", *other)) == 0
    assert stamps(runs, "scores.json") == again
    assert set(states(capsys).values()) == {"finished"}


def test_a_protocol_that_fails_costs_nothing_that_was_scored(runs, capsys):
    assert main(words("seed=0")) == 0
    (file,) = runs.glob("gan-*/scores.json")
    trained, scored = weights(runs), read_json(file)["chosen"]["scores"]
    (path,) = runs.glob("gan-*/samples/chosen")
    shutil.rmtree(path)
    path.write_text("")  # where samples cannot be written
    other = ["protocol.test.num_images=40", "protocol.test.reference_size=40"]
    assert main(words("seed=0", *other)) == 2
    assert "study s: 1 failed" in capsys.readouterr().err
    (kept,) = runs.glob("gan-*/scores/*.json")
    assert weights(runs) == trained and read_json(kept)["chosen"]["scores"] == scored
    assert set(states(capsys).values()) == {"failed"}, "what was asked for is not there"
    path.unlink()
    assert main(words("seed=0", *other)) == 0
    assert weights(runs) == trained
    assert read_json(file)["protocol"]["num_images"] == 40


def test_grids_may_be_typed_as_an_experiment_writes_them(runs, capsys):
    assert main(words("hydra.sweeper.params.seed=0,1", "--dry-run")) == 0
    assert "2 of 2 cells would run" in capsys.readouterr().out


def test_a_failed_cell_stops_no_other_and_is_tried_again_so_often(runs, capsys):
    command = words(DIVERGES, "study.retries=1", "study.cells_per_job=2")
    bad = "model.module.generator_optimizer.lr=1e+30"
    for attempt in (1, 2, 2):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "study s: 1 finished, 1 failed" in said and f"{bad}: " in said
        assert ("study.retries tries them again" in said) == (attempt == 2)
        assert "Traceback" not in said
        found = cells(capsys)
        assert (found[bad]["state"], found[bad]["failures"]) == ("failed", attempt)
        assert sorted(cell["state"] for cell in found.values()) == ["failed", "finished"]
    assert "became NaN or infinite" in cells(capsys)[bad]["detail"]
    assert main([*command, "study.retries=2"]) == 2
    assert cells(capsys)[bad]["failures"] == 3
    assert main(["status", "s"]) == 0
    table = capsys.readouterr().out
    assert "became NaN or infinite" in table and table.endswith("s: 1 finished, 1 failed\n")


def test_what_nobody_foresaw_is_kept_whole_and_its_first_line_told(runs, capsys, monkeypatch):
    def fails(*_):
        raise ValueError("a fault of ours\nand where")

    monkeypatch.setattr("t2ibench.engine.train.train_module", fails)
    assert main(words()) == 2
    assert "Traceback" not in capsys.readouterr().err
    (failed,) = cells(capsys).values()
    assert (failed["state"], failed["failures"]) == ("failed", 1)
    assert failed["detail"].startswith("ValueError: a fault of ours")
    assert "and where" in (runs / failed["run"] / "error.txt").read_text()


def test_a_killed_launchers_cells_go_on(runs, capsys):
    slow = ["seed=0,1", "budget.amount=320", "trainer.checkpoint_every_seconds=0"]
    launcher, until = typed(*slow), time.monotonic() + 120
    while not list(runs.glob("gan-*/checkpoints/last.ckpt")) and time.monotonic() < until:
        time.sleep(0.02)
    launcher.send_signal(signal.SIGKILL)
    said = launcher.communicate()[0]
    assert launcher.returncode == -signal.SIGKILL, said
    assert states(capsys) == {"seed=0": "interrupted", "seed=1": "missing"}
    assert main(words(*slow, "--dry-run")) == 0
    assert "2 of 2 cells would run" in capsys.readouterr().out
    begun = runs / cells(capsys)["seed=0"]["run"] / "metrics.csv"
    before = rows(begun)[0] if begun.exists() else None
    assert main(words(*slow)) == 0
    assert states(capsys) == {"seed=0": "finished", "seed=1": "finished"}
    after = rows(begun)
    assert before in (None, after[0])  # with its seconds: it went on, and did not begin again
    assert [int(row["images_seen"]) for row in after] == list(range(32, 321, 32))


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---- two launchers ----


def test_a_cell_that_another_works_on_is_left_to_it(runs, capsys, monkeypatch):
    assert main(words("seed=0,1", "--dry-run")) == 0
    name = next(word for word in capsys.readouterr().out.split() if word.startswith("gan-"))
    run = Run(runs / name, "0" * 16)
    run.set_status("created")
    lock, seen = run.lock, []
    lock.acquire()

    def waited(seconds):
        seen.append(states(capsys))
        lock.release()

    monkeypatch.setattr("t2ibench.cli.verbs.train.pause", waited)
    assert main(words("seed=0,1")) == 2
    said = capsys.readouterr().err
    assert "1 finished, 1 missing; `t2ibench status s`" in said
    assert seen == [{"seed=0": "running", "seed=1": "finished"}]
    assert states(capsys) == {"seed=0": "missing", "seed=1": "finished"}


def test_two_launchers_run_no_cell_twice(runs, capsys):
    launchers = [typed("seed=0,1"), typed("seed=0,1")]
    said = [launcher.communicate(timeout=300)[0] for launcher in launchers]
    assert not any("Traceback" in text for text in said), said
    assert [launcher.returncode for launcher in launchers] == [0, 0], said
    made = [line for text in said for line in text.splitlines() if " chosen: 48 images in" in line]
    assert len(made) == len({line.split()[1] for line in made}) == 2, said
    before = weights(runs)
    assert main(words("seed=0,1")) == 0
    assert weights(runs) == before and set(states(capsys).values()) == {"finished"}


# ---- before anything is launched ----


def test_a_dry_run_makes_nothing_and_tells_cells_hashes_states_and_costs(runs, capsys):
    assert main(words("seed=0,1", "--dry-run")) == 0
    table = capsys.readouterr().out
    assert not runs.exists()
    assert table.count("missing") == 2 and "2 of 2 cells would run" in table and "128" in table
    names = [word for word in table.split() if word.startswith("gan-")]
    assert main(words("seed=0")) == 0
    assert [path.parent.parent.name for path in weights(runs)] == names[:1]
    capsys.readouterr()
    assert main(words("seed=0,1", "--dry-run")) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "gan-" in line]
    assert "finished" in lines[0] and "skipped" in lines[0]
    assert "missing" in lines[1] and "runs" in lines[1]
    assert all("–" not in line and "e" in line.split("│")[6] for line in lines)  # FLOPs are known
    assert len(weights(runs)) == 1


def test_an_experiment_can_be_a_sweep_by_itself(runs, capsys, tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    shutil.copytree(config_dir(), conf)
    (conf / "experiment" / "grid.yaml").write_text(GRID)
    monkeypatch.setattr("t2ibench.cli.compose.config_dir", lambda: conf)
    plain = ["train", *SMALL, "experiment=grid", "--dry-run"]
    assert main(plain) == 0
    told = capsys.readouterr().out
    assert "4 of 4 cells would run" in told and "conditioning=concat seed=1" in told
    assert main([*plain, "seed=5"]) == 0  # what is typed counts
    told = capsys.readouterr().out
    assert "2 of 2 cells would run" in told and told.count("seed5") == 2
    assert not runs.exists()
    assert main([*plain[:-1], "seed=0", "conditioning=concat"]) == 0
    assert states(capsys, "grid") == {"": "finished"}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["nonsense=1,2"], "nonsense is not a configuration key"),
        (["seed=0,1", "model.nonsense=1"], "model.nonsense is not a configuration key"),
        (["model=gan/fast_painter,gan/nonsense"], "model=gan/nonsense is unknown; choose one of"),
        (["hydra/launcher=nonsense", "seed=0,1"], "hydra/launcher=nonsense is unknown; choose one"),
        (["hydra.launcher.nonsense=1", "seed=0,1"], "hydra.launcher.nonsense"),
        (["seed=0,1", "conditioning=concat,nonsense"], "nonsense"),
        (["trainer.log_every_images=32,64"], "are one run: they differ in nothing that changes"),
        ([*OPTUNA, "seed=choice(0,1)", "--dry-run"], "has no dry run"),
    ],
)
def test_a_mistake_is_said_before_anything_is_launched(runs, capsys, overrides, sentence):
    assert main(words(*overrides)) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.startswith("t2ibench train: ") and said.count("\n") == 1
    assert not runs.exists()


def test_several_values_without_the_flag_are_said(runs, capsys):
    assert main(["train", *SMALL, "seed=0,1"]) == 2
    assert "seed has several values, 2 cells; add -m." in capsys.readouterr().err
    assert not runs.exists()


# ---- status ----


def test_status_names_the_studies(runs, capsys):
    assert main(["status"]) == 0
    assert capsys.readouterr().out.strip() == ""
    assert main(["status", "s"]) == 2
    assert "has no study s (it has: none)" in capsys.readouterr().err
