"""An owner that was stopped for a while and succeeded: it writes nothing more, and says so."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2ibench.core.errors import RunBusyError, RunLostError
from t2ibench.core.files import read_json, write_json
from t2ibench.runs.folder import Run
from t2ibench.runs.lock import OwnerLock

OWNER = Path(__file__).with_name("stopped_owner.py")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("successor", ["works", "has ended"])
def test_a_stopped_owner_writes_nothing_after_its_successor(tmp_path, successor):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    owner = subprocess.Popen(
        [sys.executable, str(OWNER), str(tmp_path)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert owner.stdout.readline() == "begun\n"
        owner.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        mine = OwnerLock(tmp_path / ".lock", stale_seconds=0.3)
        mine.acquire()
        write_json(tmp_path / "count.json", "the successor's")
        if successor == "has ended":
            mine.release()
        owner.send_signal(signal.SIGCONT)
        said, errors = owner.communicate(timeout=60)
    finally:
        owner.kill()
    assert owner.returncode == 0 and "Traceback" not in errors, errors
    expected = "took it over" if successor == "works" else "its lock was taken away"
    assert expected in said and "nothing more is written" in said
    assert read_json(tmp_path / "count.json") == "the successor's"
    if successor == "works":
        assert mine.held()
        mine.release()


def test_what_lies_elsewhere_is_written_all_the_same(tmp_path):
    run = Run(tmp_path / "run", "0" * 16)
    run.set_status("created")
    with run.locked():
        run.lock.path.unlink()
        with pytest.raises(RunLostError, match="run: this process was stopped"):
            run.set_status("running")
        write_json(tmp_path / "other.json", 1)
    assert run.state == "created"
    run.set_status("running")  # released: whoever has the folder's name writes


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_hard_links_has_locks(tmp_path, monkeypatch, number):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / ".lock"
    one, two = OwnerLock(path), OwnerLock(path, stale_seconds=0.0)
    one.acquire()
    with pytest.raises(RunBusyError):
        OwnerLock(path).acquire()
    os.utime(path, (0, 0))
    two.acquire()
    with pytest.raises(RunLostError):
        one.check()
    two.release()
    one.release()
    assert list(tmp_path.iterdir()) == []
