"""W&B without a network or a key: the same keys as scores.json, one id a run."""

import time

from t2ibench.core.types import Score
from t2ibench.runs.folder import Run
from t2ibench.training.tracking import track_run, track_scores

OFFLINE = {"project": "t2ibench", "group": "study", "mode": "offline"}
KEY = "fd[x@1|native|val|10]"


HEADER = 64
"""Bytes: a log that holds no more than its header is still being written."""


def logged(run):
    """The bytes of every offline log of a run, once W&B's own process has written them."""
    for _ in range(300):
        files = sorted(run.path.glob("wandb/offline-run-*/*.wandb"))
        if all(file.stat().st_size > HEADER for file in files):
            break
        time.sleep(0.1)
    return [file.read_bytes() for file in files]


def test_curves_and_scores_are_kept_offline_under_one_id(tmp_path):
    run = Run.of(tmp_path, "toy", {"a": 1}, "")
    with track_run(OFFLINE, run, {"seed": 0}) as track:
        track({"images_seen": 8.0, "loss": 0.5})
    track_scores(OFFLINE, run, {KEY: Score(1.5, 10, 1.0, 2.0, KEY)})
    curves, scores = logged(run)
    assert b"images_seen" in curves and b"loss" in curves
    assert KEY.encode() in scores and KEY.encode() + b"/ci_low" in scores
    assert run.identity.encode() in curves and run.identity.encode() in scores


def test_no_logger_logs_nothing(tmp_path):
    run = Run.of(tmp_path, "toy", {"a": 1}, "")
    with track_run(None, run, {}) as track:
        assert track is None
    track_scores(None, run, {KEY: Score(1.5, 10, 1.0, 2.0, KEY)})
    assert not (run.path / "wandb").exists()
