"""What a run's status says after its work ended early, and how signals end it anywhere."""

import os
import signal
import sys
import time

import pytest
from by_words import context_of, run_of

from t2ibench.cli.compose import compose_spec
from t2ibench.cli.main import main
from t2ibench.core.errors import ConfigError, RunError
from t2ibench.engine import sampling
from t2ibench.engine.identity import named_run
from t2ibench.engine.interrupt import Interrupted, interruptible, outcome
from t2ibench.engine.study import train_and_score, worker_message
from t2ibench.runs.folder import Run
from t2ibench.training.preemption import SIGNALS


@pytest.fixture
def run(tmp_path):
    return Run.of(tmp_path, "toy", {}, {})


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_work_at_once_and_is_carried(run, number):
    run.set_status("running")
    with pytest.raises(Interrupted) as stop, outcome(run):
        os.kill(os.getpid(), number)
        time.sleep(30)
    assert stop.value.signal == number and run.state == "interrupted"


class Finalised:
    """An object in whose finaliser a signal comes."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)


@pytest.mark.parametrize("seconds", [0, 30])
def test_a_signal_that_python_swallows_comes_again(capfd, seconds):
    began, hook = time.monotonic(), sys.unraisablehook
    with pytest.raises(Interrupted) as stop, interruptible():
        thing = Finalised()
        del thing
        time.sleep(seconds)
    assert stop.value.signal == signal.SIGUSR1 and time.monotonic() - began < 10
    assert capfd.readouterr().err == "" and sys.unraisablehook is hook


def test_a_signal_of_which_a_library_makes_an_error_is_a_signal(run):
    run.set_status("running")
    with pytest.raises(Interrupted) as stop, outcome(run):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        except BaseException as error:
            raise ValueError("composition failed") from error
    assert stop.value.signal == signal.SIGTERM and run.state == "interrupted"


def test_only_the_keyboard_is_heard_twice():
    with pytest.raises(Interrupted) as stop, interruptible():
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(30)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
    assert stop.value.signal == signal.SIGUSR1


@pytest.mark.parametrize(
    "error, raised, reason",
    [
        (ConfigError("a key is wrong."), ConfigError, "a key is wrong."),
        (ValueError("no such thing"), ValueError, "ValueError: no such thing"),
        (
            OSError(28, "No space left", "/x/y"),
            RunError,
            "/x/y cannot be written, the disk is full",
        ),
    ],
)
def test_a_failure_is_told_with_its_reason(run, error, raised, reason):
    run.set_status("running")
    with pytest.raises(raised), outcome(run):
        raise error
    assert run.state == "failed" and run.status()["reason"].startswith(reason)


def test_a_damaged_status_hides_no_failure(run):
    with pytest.raises(ConfigError, match="a key is wrong"), outcome(run):
        (run.path / "status.json").write_bytes(bytes(40))
        raise ConfigError("a key is wrong.")


def test_a_cell_with_a_damaged_status_is_shared_as_any_other(tmp_path, shared_cache):
    words = [*CELL, f"paths.runs={tmp_path}", f"paths.cache={shared_cache}"]
    context = context_of(words)
    status = named_run(context).path / "status.json"
    status.parent.mkdir()
    status.write_text("{")
    assert worker_message(context) == {"train": context.spec.config()}


def test_what_is_finished_stays_so_and_what_is_trained_stays_known(run):
    run.set_status("trained", clock={})
    with pytest.raises(Interrupted), outcome(run):
        raise Interrupted
    assert run.state == "interrupted" and run.trained
    run.set_status("finished", clock={}, scored="x")
    with pytest.raises(ConfigError), outcome(run):
        raise ConfigError("another protocol's mistake.")
    assert run.state == "finished" and run.status()["scored"] == "x"


CELL = [
    "model=gan/fast_painter",
    "budget=images",
    "budget.amount=32",
    "model.training.batch_size=16",
    "data.source.num_train=64",
    "data.source.num_val=16",
    "data.source.num_test=16",
    "protocol.test.num_images=16",
    "protocol.test.reference_size=16",
    "protocol.front.num_images=8",
    "protocol.front.reference_size=8",
    "protocol.knob_sweep=[1.0]",
    "protocol.cost_seconds=0.01",
    "trainer=cpu",
    "trainer.progress=false",
]


def test_a_signal_while_scoring_keeps_the_training(tmp_path, shared_cache, monkeypatch):
    words = [*CELL, f"paths.runs={tmp_path}", f"paths.cache={shared_cache}"]
    spec, generate = compose_spec(words), sampling.generate_pixels

    def preempted(*arguments):
        os.kill(os.getpid(), signal.SIGUSR1)
        return generate(*arguments)

    monkeypatch.setattr(sampling, "generate_pixels", preempted)
    with pytest.raises(Interrupted) as stop:
        train_and_score(spec)
    run = run_of(words)
    assert stop.value.signal == signal.SIGUSR1
    assert run.state == "interrupted" and run.trained
    weights = run.weights.stat().st_mtime_ns
    monkeypatch.setattr(sampling, "generate_pixels", generate)
    train_and_score(spec)
    assert run.state == "finished" and run.weights.stat().st_mtime_ns == weights


def test_a_folder_that_cannot_be_written_is_said_before_training(tmp_path, shared_cache, capsys):
    (tmp_path / "file").touch()
    for runs in (tmp_path / "file" / "runs", "/sys/t2ibench"):
        assert main(["train", *CELL, f"paths.runs={runs}", f"paths.cache={shared_cache}"]) == 2
        said = capsys.readouterr().err
        assert str(runs) in said and "choose another" in said and "Traceback" not in said


def test_a_gpu_that_is_not_there_is_said_before_any_run_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    words = ["trainer.accelerator=gpu", f"paths.runs={tmp_path}", f"paths.cache={tmp_path}"]
    assert main(["train", *CELL, *words]) == 2
    assert "this process sees 0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
