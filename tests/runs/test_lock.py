"""One owner at a time, whoever dies: across processes, machines, requeued jobs."""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from t2ibench.core import launch
from t2ibench.core.errors import RunBusyError, RunError
from t2ibench.runs.folder import Run
from t2ibench.runs.lock import Owner, OwnerLock, started

CONTENDER = Path(__file__).with_name("contend.py")
ROOT = Path(__file__).parents[2]
NOBODY = 65534


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "gan-seed0"
    folder.mkdir()
    return folder / ".lock"


def held_by(path, owner, age=0.0):
    """Another's lock file, last touched ``age`` seconds ago."""
    path.write_text(json.dumps(asdict(owner)), encoding="utf-8")
    os.utime(path, (time.time() - age,) * 2)
    return owner


def elsewhere(**changed):
    """A process of another machine."""
    changes = {"token": "f" * 32, "host": "node7", "space": "another boot", "pid": 41} | changed
    return replace(Owner.this(), **changes)


def takes(path, **options):
    """Whether this process gets the lock now; given back."""
    lock = OwnerLock(path, **options)
    try:
        lock.acquire()
    except RunBusyError:
        return False
    lock.release()
    return True


def dead_process():
    """Number and start of a process of this machine that is no more."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    number, when = process.pid, started(process.pid)
    process.communicate(b"\n")
    return {"pid": number, "started": when}


# ---- contention ----


@pytest.mark.parametrize("dies", [0.0, 0.1])
def test_of_eight_processes_one_holds_it_at_a_time(path, dies):
    command = [sys.executable, str(CONTENDER), str(path.parent), "3", str(dies)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    contenders = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(8)
    ]
    said = [process.communicate(timeout=60) for process in contenders]
    assert [process.returncode for process in contenders] == [0] * 8, said
    counts = [int(out) for out, _ in said]
    assert sum(counts) > 20 and sum(count > 0 for count in counts) > 1
    assert {p.name for p in path.parent.iterdir()} <= {".lock"}  # nothing is left beside it
    assert takes(path)


def test_a_held_lock_is_busy_and_a_released_one_free(path):
    first = OwnerLock(path)
    first.acquire()
    assert first.held() and not takes(path)
    first.release()
    assert not path.exists() and not first.held() and takes(path)


def test_the_sentence_names_the_run_its_owner_and_the_remedy(path):
    held_by(path, elsewhere(job="1234"))
    with pytest.raises(RunBusyError) as busy:
        OwnerLock(path).acquire()
    assert str(busy.value) == (
        "gan-seed0 is being worked on by node7 (pid 41, job 1234); wait for it or stop it."
    )


def test_release_leaves_the_lock_of_another(path):
    mine = OwnerLock(path)
    mine.acquire()
    other = held_by(path, elsewhere())
    mine.release()
    assert OwnerLock(path).holder() == other


def test_a_lock_never_taken_is_released_in_vain(path):
    other = held_by(path, elsewhere())
    OwnerLock(path).release()
    assert OwnerLock(path).holder() == other


# ---- succession ----


def test_a_dead_process_of_this_machine_is_succeeded_at_once(path):
    held_by(path, replace(Owner.this(), token="d" * 32, **dead_process()))
    assert not OwnerLock(path).held() and takes(path)


def test_a_number_given_to_another_process_since_is_not_its_owner(path):
    me = Owner.this()
    held_by(path, replace(me, token="d" * 32, started=me.started - 1))
    assert takes(path)


def test_a_living_process_is_not_succeeded(path):
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        living = {"pid": sleeper.pid, "started": started(sleeper.pid)}
        held_by(path, replace(Owner.this(), token="d" * 32, **living))
        assert OwnerLock(path).held() and not takes(path)
    finally:
        sleeper.communicate(b"\n")


def test_another_machine_is_believed_until_its_heartbeat_stops(path):
    held_by(path, elsewhere(), age=50)
    assert not takes(path, stale_seconds=60)
    assert takes(path, stale_seconds=40)


def test_its_heartbeat_keeps_a_lock(path, monkeypatch):
    monkeypatch.setattr("t2ibench.runs.lock.HEARTBEAT_SECONDS", 0.02)
    lock = OwnerLock(path)
    lock.acquire()
    os.utime(path, (0, 0))
    until = time.monotonic() + 10
    while path.stat().st_mtime == 0 and time.monotonic() < until:
        time.sleep(0.01)
    assert path.stat().st_mtime > time.time() - 60
    lock.release()
    time.sleep(0.1)
    assert not path.exists()  # no beat after the release brings it back


@pytest.mark.parametrize(("mine", "free"), [("2", True), ("1", False), ("0", False)])
def test_an_earlier_start_of_the_same_job_is_succeeded_at_once(path, monkeypatch, mine, free):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", mine)
    held_by(path, elsewhere(job="77", restart=1))
    assert takes(path) == free


def test_another_job_is_not_succeeded(path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "5")
    held_by(path, elsewhere(job="77", restart=0))
    assert not takes(path)


@pytest.mark.parametrize("content", ["", '{"host": "node7"', '{"host": "node7"}', "[]"])
def test_a_file_that_does_not_say_whose_it_is_is_judged_by_its_age(path, content):
    path.write_text(content)
    assert OwnerLock(path).held() and not takes(path)
    with pytest.raises(RunBusyError, match="worked on by someone"):
        OwnerLock(path).acquire()
    os.utime(path, (time.time() - 3600,) * 2)
    assert not OwnerLock(path).held() and takes(path)


def test_a_successor_that_died_is_succeeded_too(path):
    gone = held_by(path, replace(Owner.this(), token="d" * 32, **dead_process()))
    claim = path.with_name(f".lock.after-{gone.token[:8]}")
    held_by(claim, replace(gone, token="e" * 32))
    assert takes(path) and not claim.exists()


# ---- waiting ----


def test_wait_tells_of_each_owner_once(path):
    first = held_by(path, elsewhere(token="1" * 32))
    second = elsewhere(token="2" * 32, host="node8")
    told = []

    def tell(owner):
        told.append(owner)
        if len(told) == 1:
            threading.Timer(0.2, held_by, [path, second]).start()
        else:
            threading.Timer(0.2, path.unlink).start()

    lock = OwnerLock(path)
    lock.wait(tell, poll_seconds=0.01)
    assert told == [first, second] and lock.held()
    lock.release()


# ---- a run's ----


def test_other_ranks_take_no_lock(tmp_path, monkeypatch):
    run = Run(tmp_path / "run", "0" * 16)
    run.set_status("created")
    with run.locked():
        monkeypatch.setattr(launch, "_rank", 1)
        with run.locked():  # by the first of its job, for all
            pass
        monkeypatch.setattr(launch, "_rank", 0)
        with pytest.raises(RunBusyError), run.locked():
            pass
    assert not run.lock.held()


def test_a_task_of_its_own_takes_it(tmp_path, monkeypatch):
    run = Run(tmp_path / "run", "0" * 16)
    run.set_status("created")
    monkeypatch.setenv("SLURM_PROCID", "3")  # cells that share an allocation
    with run.locked():
        assert run.lock.holder().pid == os.getpid()


def test_a_read_only_folder_is_said_in_a_sentence(path):
    path.parent.chmod(0o500)
    me = os.geteuid()
    if me == 0:  # who may write anywhere
        os.seteuid(NOBODY)
    try:
        with pytest.raises(RunError, match=re.escape(str(path)) + " cannot be written, .*choose"):
            OwnerLock(path).acquire()
    finally:
        os.seteuid(me)
        path.parent.chmod(0o700)


def test_a_file_in_the_folders_place_is_said_in_a_sentence(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="a part of the path is a file"):
        OwnerLock(tmp_path / "run" / ".lock").acquire()


def test_a_folder_that_may_only_be_read_is_looked_at_all_the_same():
    with tempfile.TemporaryDirectory() as folder:
        lock = OwnerLock(Path(folder) / ".lock")
        lock.acquire()
        os.chmod(folder, 0o555)
        me = os.geteuid()
        if me == 0:  # who may write anywhere
            os.seteuid(NOBODY)
        try:
            assert OwnerLock(lock.path).held()
            assert 0 <= OwnerLock(lock.path)._age(lock.path) < 60
        finally:
            os.seteuid(me)
            os.chmod(folder, 0o700)
            lock.release()
