"""Files that are whole or absent: write aside, flush, rename."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from t2ibench.core.errors import ContentError, RunError

STORAGE = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "a file may not grow so large here: raise the limit (ulimit -f)",
    errno.EROFS: "the folder is read-only: choose another (paths.runs, paths.cache)",
    errno.EACCES: "this user may not write there: choose another folder (paths.runs, paths.cache)",
    errno.EPERM: "this user may not write there: choose another folder (paths.runs, paths.cache)",
    errno.ENOTDIR: "a part of the path is a file: choose another folder (paths.runs, paths.cache)",
}
"""Meaning and remedy of each system error of storage."""

ASIDE = re.compile(r"\..+\.(?P<host>[^.]+)-(?P<pid>\d+)-[0-9a-f]{8}(\.\w+)?")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` and renames it there on success.

    The file is flushed to disk before the rename and the folder after it; on an exception it is
    removed and ``path`` keeps what it held.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{_owner()}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        flush(aside)
        os.replace(aside, path)
        flush(path.parent)
    except OSError as error:
        sentence = storage_error(error, path)
        if sentence is None:
            raise
        raise RunError(sentence) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where the file system has no links.

    Only for files that are replaced and never written in place.
    """
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` that takes its name on success and is removed otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    aside.mkdir()
    try:
        yield aside
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def flush(path: Path) -> None:
    """Makes the system write a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(error: BaseException, path: Path | None = None) -> str | None:
    """A sentence for a system's error of storage; None for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    if number not in STORAGE:
        return None
    named = path or getattr(error, "filename", None) or "a file"
    return f"{named} cannot be written, {STORAGE[number]} and type the same command again."


def remove_leftovers(folder: str | Path) -> None:
    """Removes what processes of this machine that are gone had begun to write under ``folder``."""
    host = _host()
    for aside in Path(folder).rglob(".*"):
        found = ASIDE.fullmatch(aside.name)
        if found and found["host"] == host and not _alive(int(found["pid"])):
            aside.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    return re.sub(r"[^\w-]", "_", socket.gethostname())


def _owner() -> str:
    return f"{_host()}-{os.getpid()}"


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON atomically, indented, keys in the given order."""
    with atomic_path(path) as aside:
        aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Reads JSON.

    Raises:
        ContentError: it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ContentError(f"{path} is not JSON ({error}); restore it or make it anew.") from error


def read_json_object(path: str | Path, *names: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: the file.
        names: names that it must have.

    Raises:
        ContentError: it is not JSON, no object, or lacks a name.
    """
    found = read_json(path)
    lacking = [name for name in names if not isinstance(found, dict) or name not in found]
    if not isinstance(found, dict) or lacking:
        expected = f"an object with {', '.join(names)}" if names else "an object"
        raise ContentError(f"{path} must hold {expected}; restore it or make it anew.")
    return found
