"""A package of a third party: installed, found by every verb, and no more trusted than it asks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "colour_field"
MODEL = "model=examples/colour_field"
SMALL = ["debug=smoke", "data.source.num_train=96", "data.source.num_val=32",
         "data.source.num_test=64"]  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example as pip installs it, in a folder of its own."""
    site = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--target", str(site), str(EXAMPLE)],
        check=True, capture_output=True,
    )  # fmt: skip
    return site


@pytest.fixture(scope="module")
def t2ibench(installed, tmp_path_factory):
    """The command line with the plugin installed, in an empty folder."""
    place = tmp_path_factory.mktemp("place")
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "PYTHONPATH": f"{root}:{installed}",
        "T2IBENCH_CACHE": str(place / "cache"),
    }

    def run(*words, plugin=True):
        env = environment if plugin else environment | {"PYTHONPATH": str(root)}
        return subprocess.run(
            [sys.executable, "-m", "t2ibench", *words],
            capture_output=True, text=True, cwd=place, env=env, check=False,
        )  # fmt: skip

    run.place = place
    return run


def test_doctor_lists_it(t2ibench):
    told = t2ibench("doctor").stdout
    assert "plugin colour_field: colour_field.ColourField (t2ibench-colour-field 0.1.0)" in told
    assert "plugin" not in t2ibench("doctor", plugin=False).stdout


def test_info_bench_and_a_dry_run_know_its_model(t2ibench):
    done = t2ibench("info", MODEL, "--json", *SMALL)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "examples/colour_field"
    done = t2ibench("bench", MODEL, "rounds=3", *SMALL)
    assert done.returncode == 0 and "training" in done.stdout, done.stderr
    done = t2ibench("train", MODEL, *SMALL, "seed=0,1", "-m", "--dry-run")
    assert done.returncode == 0 and "2 of 2 cells would run" in done.stdout, done.stderr
    assert not (t2ibench.place / "runs").exists()
    without = t2ibench("info", MODEL, plugin=False)
    assert without.returncode == 2 and f"{MODEL} is unknown; choose one of" in without.stderr


def test_it_trains_samples_and_is_compared_and_refused_where_it_is_not_installed(t2ibench):
    done = t2ibench("train", MODEL, *SMALL)
    assert done.returncode == 0, done.stderr
    run = done.stdout.strip().splitlines()[-1]
    scores = json.loads((t2ibench.place / run / "scores.json").read_text())
    assert scores["model"]["family"] == "colour_field" and scores["model"]["origin"] == "own"
    done = t2ibench("sample", run, "a red ring", "out=pictures")
    assert done.returncode == 0, done.stderr
    assert len(list((t2ibench.place / "pictures").glob("*.png"))) == 1
    done = t2ibench("compare", run)
    assert done.returncode == 0 and "colour_field" in done.stdout, done.stderr
    # Somebody else's machine does not have the package: its code is not looked for.
    done = t2ibench("sample", run, "a red ring", plugin=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "model.module._target_=colour_field.ColourField is refused" in done.stderr
    assert done.stderr.count("\n") == 1
