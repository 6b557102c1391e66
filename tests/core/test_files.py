"""Files on machines as they are: permissions, locks, folders that flush nothing, foreign files."""

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from t2ibench.core import files
from t2ibench.core.errors import CheckpointError, DamagedError, RunError
from t2ibench.core.files import atomic_path, exclusive, whole_folder, write_json
from t2ibench.core.tensors import read_safetensors, write_safetensors
from t2ibench.interop.files import read_tensors
from t2ibench.training.checkpoint import read_whole

FOREIGN = {
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4\n",
    "a web page": b"\n<!DOCTYPE html>\n<html><body>log in</body></html>",
    "a server's answer in XML": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "a server's error": b'{"error":"Repository not found"}',
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".bin", ".pth"])
def test_what_is_no_checkpoint_is_named(tmp_path, what, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(FOREIGN[what])
    readers = [read_tensors, read_safetensors if suffix == ".safetensors" else read_whole]
    for read in readers:
        with pytest.raises(CheckpointError, match=f"{what} and not") as error:
            read(path)
        assert "download" in str(error.value) and "unsafe" not in str(error.value).lower()


class Call:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_never_advises_to_read_unsafely(tmp_path, zipped, capsys):
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": Call()}, path, _use_new_zipfile_serialization=zipped)
    for read in (read_tensors, read_whole):
        with pytest.raises(CheckpointError) as error:
            read(path)
        said = str(error.value)
        assert "weights_only" not in said and "trust" not in said and "Weights only" not in said
    assert "ran" not in capsys.readouterr().out


def test_weights_have_the_permissions_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "model.safetensors") as aside:
            write_safetensors({"w": torch.ones(2)}, aside)
        write_json(tmp_path / "status.json", 1)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o640}


def test_a_checksum_finds_any_changed_byte_of_the_tensors(tmp_path):
    path = tmp_path / "w.safetensors"
    write_safetensors({"w": torch.arange(8.0), "flags": torch.tensor([True, False])}, path)
    whole = path.read_bytes()
    assert torch.equal(read_safetensors(path)["w"], torch.arange(8.0))
    for position in range(len(whole) - 34, len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(DamagedError, match="its checksum is wrong|cannot be read"):
            read_safetensors(path)
    save_file({"w": torch.ones(1)}, path)  # of others, without one
    assert read_safetensors(path)["w"].tolist() == [1]


def test_a_folder_that_cannot_be_flushed_is_left_to_its_file_system(tmp_path, monkeypatch):
    fsync = os.fsync

    def only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", only_files)
    write_json(tmp_path / "status.json", 1)
    assert (tmp_path / "status.json").read_text() == "1\n"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL])
def test_one_at_a_time_without_flock(tmp_path, monkeypatch, number):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with exclusive(tmp_path / ".lock"):
        left = list(tmp_path.iterdir())
        assert left
    with exclusive(tmp_path / ".lock"):
        pass


def test_a_user_without_a_home_has_the_working_folder(monkeypatch):
    import pwd

    def nobody(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert str(files.home_folder()) == "."


def test_what_cannot_be_written_is_said_in_a_sentence(tmp_path):
    (tmp_path / "folder").mkdir()
    for path, reason in (
        (tmp_path / "folder", "a folder has that name"),
        (tmp_path / ("n" * 300), "too long"),
        (Path("/proc/nothing/scores.json"), "takes no folders"),
    ):
        with pytest.raises(RunError, match=reason):
            write_json(path, {})
    (tmp_path / "file").touch()
    for folder in ("file/new", "n" * 300):
        with pytest.raises(RunError, match="cannot be written"), whole_folder(tmp_path / folder):
            pass
