"""Disks that are full, folders that cannot be written, checkpoints that are torn."""

import errno
import os
import resource
import subprocess
import zipfile
from contextlib import contextmanager
from dataclasses import replace

import pytest
from training.painter import OPTIONS, make_split, train

from t2ibench.core.errors import CheckpointError, RunError
from t2ibench.core.files import ASIDE, atomic_path, remove_leftovers, write_json
from t2ibench.runs.clock import Budget
from t2ibench.training.checkpoint import newest_whole, previous

EACH_STEP = replace(OPTIONS, checkpoint_every_seconds=0.0)
BUDGET = Budget("images", 64)


@pytest.fixture
def split():
    return make_split()


@contextmanager
def no_file_above(size):
    """Inside, the system lets no file of this process grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may mount no file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def stopped_after(batches, when):
    """The first ``when`` batches and an ending as of a killed process."""
    for i, batch in enumerate(batches):
        if i == when:
            raise ProcessLookupError("killed")
        yield batch


def broken_off(split, root, name, when=4):
    with pytest.raises(ProcessLookupError):
        train(
            split,
            root,
            BUDGET,
            name,
            options=EACH_STEP,
            each_batch=lambda b: stopped_after(b, when),
        )


@pytest.fixture
def expected(split, tmp_path):
    """The weights of a run that nothing disturbed."""
    return train(split, tmp_path, BUDGET, "whole")[0].weights.read_bytes()


def test_both_checkpoints_are_whole_and_one_step_apart(split, tmp_path, expected):
    broken_off(split, tmp_path, "cut", when=4)
    (folder,) = tmp_path.glob("cut-*")
    kept = [folder / "checkpoints" / f"{name}.ckpt" for name in ("previous", "last")]
    before, after = (newest_whole(path).clock["images_seen"] for path in kept)
    assert after - before == 8
    run, _, _ = train(split, tmp_path, BUDGET, "cut")
    assert run.weights.read_bytes() == expected
    assert not kept[0].exists(), "it is of no use to a trained run"


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "absent"])
def test_a_torn_checkpoint_falls_back_to_the_one_before(split, tmp_path, expected, damage, caplog):
    broken_off(split, tmp_path, "torn")
    (folder,) = tmp_path.glob("torn-*")
    last = folder / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    if damage == "cut":
        last.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        last.write_bytes(b"")
    elif damage == "absent":  # killed between two renames
        last.unlink()
    else:
        with zipfile.ZipFile(last) as archive:
            largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        content[largest.header_offset + largest.file_size // 2] ^= 0xFF
        last.write_bytes(content)
    run, _, fitted = train(split, tmp_path, BUDGET, "torn")
    assert fitted.clock.images_seen == 64
    assert run.weights.read_bytes() == expected
    assert ("goes on from previous.ckpt" in caplog.text) == (damage != "absent")


def test_two_torn_checkpoints_are_one_sentence(split, tmp_path):
    broken_off(split, tmp_path, "torn")
    (folder,) = tmp_path.glob("torn-*")
    last = folder / "checkpoints" / "last.ckpt"
    for path in (last, previous(last)):
        path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="last.ckpt cannot be read .* delete it"):
        newest_whole(last)
    assert last.exists()


def test_a_full_disk_is_one_sentence_and_keeps_the_checkpoint(
    split, small_disk, tmp_path, expected
):
    broken_off(split, small_disk, "full")
    (folder,) = small_disk.glob("full-*")
    kept = newest_whole(folder / "checkpoints" / "last.ckpt").clock["images_seen"]
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - 32768)  # room for a few small files
    with pytest.raises(RunError, match="last.ckpt cannot be written, the disk is full: free"):
        train(split, small_disk, BUDGET, "full", options=EACH_STEP)
    found = newest_whole(folder / "checkpoints" / "last.ckpt")
    assert found.clock["images_seen"] == kept
    filler.unlink()
    run, _, _ = train(split, small_disk, BUDGET, "full")
    assert run.weights.read_bytes() == expected


def test_a_limit_of_file_sizes_is_one_sentence_and_keeps_the_checkpoint(split, tmp_path, expected):
    broken_off(split, tmp_path, "limited")
    (folder,) = tmp_path.glob("limited-*")
    last = folder / "checkpoints" / "last.ckpt"
    content = last.read_bytes()
    with no_file_above(20_000), pytest.raises(RunError, match="last.ckpt cannot .*may not grow"):
        train(split, tmp_path, BUDGET, "limited", options=EACH_STEP)
    assert last.read_bytes() == content
    assert [p for p in last.parent.iterdir() if ASIDE.fullmatch(p.name)] == []
    run, _, _ = train(split, tmp_path, BUDGET, "limited")
    assert run.weights.read_bytes() == expected


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_what_the_system_refuses_is_said_with_a_remedy(tmp_path, number):
    path = tmp_path / "scores.json"
    write_json(path, 1)
    said = pytest.raises(RunError, match=r"scores.json cannot be written, .*: (free|choose)")
    with said, atomic_path(path) as aside:
        aside.write_text("half")
        raise OSError(number, os.strerror(number))
    assert path.read_text() == "1\n" and list(tmp_path.iterdir()) == [path]


def test_other_errors_stay_themselves(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        (tmp_path / "absent").read_text()


def test_a_path_below_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="a part of the path is a file"):
        write_json(tmp_path / "file" / "runs" / "status.json", 1)


def test_leftovers_of_dead_processes_alone_are_removed(tmp_path):
    child = os.fork()
    if not child:
        with atomic_path(tmp_path / "deep" / "last.ckpt") as aside:
            aside.write_text("half")
            os._exit(0)  # as with SIGKILL, nothing is cleaned up
    os.waitpid(child, 0)
    (dead,) = (tmp_path / "deep").iterdir()
    other = tmp_path / ".notes"
    other.touch()
    with atomic_path(tmp_path / "mine.json") as aside:
        aside.write_text("1")
        remove_leftovers(tmp_path)
        assert aside.exists() and not dead.exists() and other.exists()
