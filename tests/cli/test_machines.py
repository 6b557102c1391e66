"""Terminals, pipes and environments as they are."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from t2ibench.cli.compose import compose_config
from t2ibench.cli.main import PLAIN, main
from t2ibench.engine.interrupt import outcome
from t2ibench.runs.folder import Run
from t2ibench.training.wandb_session import has_key, mode_of

ROOT = Path(__file__).parents[2]


def test_a_closed_pipe_is_no_traceback():
    command = [sys.executable, "-m", "t2ibench", "--help"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(60) == 141 and said == ""


def test_a_run_whose_output_nobody_reads_is_interrupted_and_not_failed(tmp_path):
    run = Run.named(tmp_path, "toy", {}).begin({})
    with pytest.raises(BrokenPipeError), outcome(run):
        raise BrokenPipeError
    assert run.state == "interrupted" and "failures" not in run.status()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_lines_and_accents_shows_ascii(tmp_path, monkeypatch, encoding):
    study = tmp_path / "studies" / "grün"
    study.mkdir(parents=True)
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["status", "grün", f"runs={tmp_path}"]) == 0
    shown = stream.buffer.getvalue().decode(encoding)
    assert "State" in shown and "+" in shown and "?" not in shown
    assert ("grun" if encoding == "ascii" else "grün") in shown
    assert stream.errors == PLAIN


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_wandb_is_off_where_the_user_turned_it_off(monkeypatch, value):
    monkeypatch.setenv("WANDB_DISABLED", value)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert mode_of({"mode": "online"}) == "disabled"
    monkeypatch.setenv("WANDB_DISABLED", "false")
    assert mode_of({"mode": "online"}) == "online"


def test_wandb_has_the_project_that_the_environment_names(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    chosen = compose_config(["logger=wandb"])["logger"]["wandb"]
    assert chosen["project"] == "theirs"
    typed = compose_config(["logger=wandb", "logger.wandb.project=typed"])["logger"]["wandb"]
    assert typed["project"] == "typed"
    monkeypatch.delenv("WANDB_PROJECT")
    assert compose_config(["logger=wandb"])["logger"]["wandb"]["project"] == "t2ibench"


def test_a_user_without_a_home_has_no_key(monkeypatch, tmp_path):
    import pwd

    def nobody(number):
        raise KeyError(number)

    for name in ("HOME", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)
    assert not has_key()
    assert main(["doctor"]) == 0
