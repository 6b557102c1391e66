"""A whole study through the command line, small: train, score, compare, report, resume, sample."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from t2ibench.cli.main import main
from t2ibench.core.files import read_json

ROOT = Path(__file__).parents[2]
SMALL = [
    "budget=images",
    "budget.amount=96",
    "budget.first_stage_images=96",
    "data.source.num_train=192",
    "data.source.num_val=64",
    "data.source.num_test=160",
    "protocol.test.num_images=160",
    "protocol.test.reference_size=160",
    "protocol.front.num_images=16",
    "protocol.front.reference_size=16",
    "protocol.cost_seconds=0.05",
    "trainer=cpu",
    "trainer.log_every_images=32",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The three families once, for every test of this file."""
    root = tmp_path_factory.mktemp("study")
    before = {k: os.environ.get(k) for k in ("T2IBENCH_RUNS", "T2IBENCH_CACHE")}
    os.environ |= {"T2IBENCH_RUNS": str(root / "runs"), "T2IBENCH_CACHE": str(root / "cache")}
    try:
        assert main(["demo", *SMALL]) == 0
        yield root
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def runs(study):
    return sorted(p.parent for p in (study / "runs").glob("*/scores.json"))


def test_three_families_are_scored_with_the_same_keys(study):
    found = [read_json(run / "scores.json") for run in runs(study)]
    assert {f["model"]["family"] for f in found} == {"gan", "autoregressive", "diffusion"}
    keys = [set(f["chosen"]["scores"]) for f in found]
    # A likelihood is in a family's own space, where it has one.
    own = [{key for key in one if key.startswith("bits_per_dim")} for one in keys]
    assert [len(one) for one in sorted(own, key=len)] == [0, 0, 1]
    assert keys[0] - own[0] == keys[1] - own[1] == keys[2] - own[2]
    metrics = {key.split("[")[0] for key in keys[0]}
    assert {"fd", "kid", "precision", "recall", "density", "coverage", "clip_score"} <= metrics
    assert {"grader_colour", "grader_shape", "grader_exact", "r_precision"} <= metrics
    for scores in found:
        assert {"floor", "ground_truth"} <= set(scores["reference"])
        assert ("ceiling" in scores["reference"]) == (scores["model"]["family"] != "gan")
        assert scores["cost"]["train_images"] == 96 and scores["cost"]["train_flops"] > 0
        assert len(scores["front"]) >= 3 and scores["leakage"] == []
        for score in scores["chosen"]["scores"].values():
            assert set(score) >= {"value", "n", "ci_low", "ci_high", "key"}


def test_the_knob_is_chosen_on_validation_prompts(study):
    for run in runs(study):
        scores = read_json(run / "scores.json")
        kid = {p["value"]: score_of(p["scores"], "kid[efficientnet") for p in scores["front"]}
        clip = {p["value"]: score_of(p["scores"], "clip_score") for p in scores["front"]}
        knob, chosen = scores["knob"], scores["chosen"]["value"]
        assert knob["chosen_by"] == "kid"
        lowest = min(kid, key=lambda value: kid[value]["value"])
        assert f"={lowest:g}" in knob["reason"].split(";")[0]
        assert chosen == lowest or clip[chosen]["value"] > clip[lowest]["value"]
        # 16 of 64 validation images give the prompts; the reference begins after them.
        assert all(
            "/val[16:]:" in key for p in scores["front"] for key in p["scores"] if "fd" in key
        )
        assert all("/test:" in key for key in scores["chosen"]["scores"] if "fd" in key)


def score_of(scores, start):
    return next(score for key, score in scores.items() if key.startswith(start))


def test_leaderboard_and_page_are_written(study):
    page = (study / "runs" / "demo" / "report.html").read_text(encoding="utf-8")
    assert "fast_painter" in page
    assert not re.findall(r"https?://(?!www\.w3\.org)", page)
    assert (study / "runs" / "demo" / "leaderboard.csv").exists()
    assert "| " in (study / "runs" / "demo" / "leaderboard.md").read_text(encoding="utf-8")


def test_the_same_command_does_nothing_twice(study):
    before = {run: (run / "scores.json").stat().st_mtime_ns for run in runs(study)}
    assert main(["demo", *SMALL]) == 0
    assert before == {run: (run / "scores.json").stat().st_mtime_ns for run in runs(study)}


def test_compare_says_what_is_not_distinguishable(study, capsys):
    assert main(["compare", *map(str, runs(study))]) == 0
    text = capsys.readouterr().out
    assert "fast_painter" in text and "model" in text


def test_sample_writes_the_same_picture_again(study, tmp_path):
    run = next(r for r in runs(study) if "gan" in r.name)
    for name, batch in (("a", "1"), ("b", "7")):
        arguments = ["a red ring", "a blue moon", f"out={tmp_path / name}", f"batch_size={batch}"]
        assert main(["sample", str(run), *arguments]) == 0
    first, second = (sorted((tmp_path / n).glob("*.png")) for n in "ab")
    assert len(first) == 2
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert len((tmp_path / "a" / "metadata.jsonl").read_text().splitlines()) == 2


def test_a_foreign_folder_is_scored(study, tmp_path, capsys):
    run = next(r for r in runs(study) if "gan" in r.name)
    prompts = tmp_path / "prompts.txt"
    words = [f"a {c} {s}" for c in ("red", "blue", "pink", "cyan") for s in ("ring", "heart")]
    prompts.write_text("\n".join(words * 5))
    out = tmp_path / "pictures"
    assert main(["sample", str(run), f"prompts={prompts}", f"out={out}"]) == 0
    sizes = ["data.source.num_train=192", "data.source.num_test=160", "data.source.num_val=64"]
    reference = ["protocol.test.num_images=40", "protocol.test.reference_size=40"]
    assert main(["score", str(out), "name=theirs", *sizes, *reference]) == 0
    scores = read_json(out / "scores.json")
    assert scores["model"]["family"] == "external"
    capsys.readouterr()
    assert main(["compare", str(out), str(run)]) == 2
    said = capsys.readouterr().err
    assert "share no score" in said and "num_images 40 and 160" in said


def test_kill_at_any_moment_and_type_again_gives_the_same_scores(study, tmp_path):
    environment = os.environ | {
        "T2IBENCH_RUNS": str(tmp_path / "runs"),
        "T2IBENCH_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable, "-m", "t2ibench", "demo", *SMALL, "trainer.checkpoint_every_seconds=0",
    ]  # fmt: skip
    moments = random.Random(0)
    for _ in range(5):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=moments.uniform(5, 20))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    again = sorted(p.parent for p in (tmp_path / "runs").glob("*/scores.json"))
    assert [run.name for run in again] == [run.name for run in runs(study)] and len(again) == 3
    for run, whole in zip(again, runs(study), strict=True):
        one, two = (json.loads((r / "scores.json").read_text()) for r in (whole, run))
        assert one["chosen"] == two["chosen"] and one["front"] == two["front"]
        assert one["reference"] == two["reference"]
