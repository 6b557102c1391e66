"""Signals: remembered to a step's end, given back, agreed on by all ranks, handed to schedulers."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment
from training.painter import Painter, make_run, make_split, painter, train
from training.resuming import differences, kept_state

from t2ibench.core import launch
from t2ibench.runs.clock import Budget
from t2ibench.training.fit import cluster_environment
from t2ibench.training.preemption import SIGNALS, deferred_signals, requeue, signal_handler

ROOT = Path(__file__).parents[2]


@pytest.fixture
def split():
    return make_split()


def test_handlers_are_given_back(split, tmp_path):
    before = [signal.getsignal(number) for number in SIGNALS]
    train(split, tmp_path, Budget("images", 16))
    assert [signal.getsignal(number) for number in SIGNALS] == before


class Late(Painter):
    """Hears a signal in the step that spends the budget."""

    def training_step(self, batch, batch_idx):
        if self.steps == 1:
            os.kill(os.getpid(), signal.SIGUSR2)
        return super().training_step(batch, batch_idx)


def test_a_signal_too_late_to_end_training_goes_to_whoever_was_there_before(split, tmp_path):
    module, came = painter(), []
    module.__class__ = Late
    with signal_handler(came.append):
        run, _, fitted = train(split, tmp_path, Budget("images", 16), module=module)
    assert came == [signal.SIGUSR2]
    assert fitted.signal is None and run.weights.exists()


def test_a_second_interrupt_of_the_keyboard_stops_at_once(split, tmp_path):
    def twice(batches):
        for i, batch in enumerate(batches):
            if i == 2:
                os.kill(os.getpid(), signal.SIGUSR1)
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(split, tmp_path, Budget("images", 64), each_batch=twice)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_forked_worker_ignores_what_its_parent_obeys():
    with deferred_signals() as stop:
        stop.handled = True
        statuses = []
        for number in (signal.SIGUSR1, signal.SIGTERM):
            child = os.fork()
            if not child:
                os.kill(os.getpid(), number)
                os._exit(7)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        assert statuses == [7, -signal.SIGTERM]
        assert stop.number is None


def test_other_threads_install_nothing():
    before = signal.getsignal(signal.SIGUSR1)

    def work():
        with deferred_signals():
            assert signal.getsignal(signal.SIGUSR1) is before

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGUSR1) is before


# ---- schedulers ----


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A scontrol that notes how it is called and tells of one job in the words of the real one."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    script = folder / "scontrol"
    noted = f'kill -TERM $$ $PPID\necho "$@" >> {calls}\n'  # as SLURM repeats it meanwhile
    script.write_text(f'#!/bin/sh\n{noted}echo "JobId=17 JobState=$STATE Requeue=1"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("STATE", "RUNNING Reason=None")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    return lambda: calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize("state", ["RUNNING Reason=None", "COMPLETING Reason=TimeLimit"])
def test_a_slurm_job_is_requeued(scontrol, monkeypatch, state):
    monkeypatch.setenv("STATE", state)
    requeue(signal.SIGTERM)
    assert scontrol()[-1] == "requeue 17"


@pytest.mark.parametrize(
    "number, state, rank",
    [
        (signal.SIGINT, "RUNNING Reason=None", 0),
        (signal.SIGTERM, "COMPLETING Reason=None", 0),
        (signal.SIGUSR1, "RUNNING Reason=None", 1),
    ],
    ids=["keyboard", "cancelled", "rank 1"],
)
def test_what_nobody_wants_back_is_not_requeued(scontrol, monkeypatch, number, state, rank):
    monkeypatch.setenv("STATE", state)
    monkeypatch.setattr(launch, "_rank", rank)
    requeue(number)
    assert not [call for call in scontrol() if call.startswith("requeue")]


def test_a_requeue_that_fails_is_a_warning(scontrol, monkeypatch, caplog):
    monkeypatch.setenv("PATH", "/nowhere")
    requeue(signal.SIGTERM)
    assert "not requeued" in caplog.text


def test_submitit_requeues_its_job(tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{os.environ.get('PYTHONPATH', '')}")
    executor = submitit.LocalExecutor(folder=tmp_path / "jobs")
    executor.update_parameters(timeout_min=60)

    def preempted_once(marker):  # nested, so that it is sent by value
        from t2ibench.engine.interrupt import Interrupted, interruptible

        if marker.exists():
            return "resumed"
        try:
            with interruptible():
                os.kill(os.getpid(), signal.SIGUSR1)
                time.sleep(60)
        except Interrupted as stop:
            marker.touch()
            requeue(stop.signal)
        return "submitit did not requeue"

    job = executor.submit(preempted_once, tmp_path / "marker")
    assert job.result() == "resumed"


@pytest.mark.parametrize("devices, kind", [(1, LightningEnvironment), (2, SLURMEnvironment)])
def test_a_cell_of_one_device_in_a_job_of_many_tasks_is_alone(monkeypatch, devices, kind):
    assert cluster_environment(devices) == []
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_JOB_NAME", "cells")
    (found,) = cluster_environment(devices)
    assert type(found) is kind
    assert not getattr(found, "auto_requeue", False)
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert cluster_environment(devices) == []


def test_it_trains_and_saves_there_as_anywhere(split, tmp_path, monkeypatch):
    whole, _, _ = train(split, tmp_path, Budget("images", 24), "whole")
    for name, value in {"NTASKS": "4", "NTASKS_PER_NODE": "4", "PROCID": "3"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    run, _, fitted = train(split, tmp_path, Budget("images", 24), "task")
    assert fitted.clock.images_seen == 24
    assert whole.weights.read_bytes() == run.weights.read_bytes()
    assert run.checkpoint.exists()


# ---- several processes ----


def ranks(folder, *arguments):
    """Two processes that train together (``two_ranks.py``)."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", str(Path(__file__).with_name("two_ranks.py")), str(folder)]
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    answer = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=240
    )
    assert answer.returncode == 0, answer.stderr
    return sorted(line for line in answer.stdout.splitlines() if line.startswith("rank"))


def test_a_signal_to_one_rank_ends_all_at_one_step(tmp_path):
    assert ranks(tmp_path, "whole") == ["rank 0: 56 None", "rank 1: 56 None"]
    told = ranks(tmp_path, "cut", "1", "3")  # rank 1 hears it while the fourth batch is fetched
    assert told == [f"rank {rank}: 24 {int(signal.SIGUSR1)}" for rank in (0, 1)]
    assert ranks(tmp_path, "cut") == ["rank 0: 56 None", "rank 1: 56 None"]
    whole, cut = (make_run(tmp_path, name) for name in ("whole", "cut"))
    states = [kept_state(run) for run in (whole, cut)]
    for state in states:
        state["callbacks"]["BudgetClock"].pop("seconds")
    assert differences(*states) == []
    assert torch.equal(*(torch.tensor(list(r.weights.read_bytes())) for r in (whole, cut)))
    curves = [(run.path / "metrics.csv").read_text().splitlines() for run in (whole, cut)]
    assert [row.split(",")[0] for row in curves[0][1:]] == ["16", "32", "48", "56"]
    assert [row.split(",")[3:] for row in curves[0]] == [row.split(",")[3:] for row in curves[1]]
