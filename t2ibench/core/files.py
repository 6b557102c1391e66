"""Files that are whole or absent: write aside, flush, rename; one that cannot be read is named."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import yaml
from filelock import FileLock, SoftFileLock

from t2ibench.core.errors import ContentError, RunError

STORAGE = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "a file may not grow so large here: raise the limit (ulimit -f)",
    errno.EROFS: "the folder is read-only: choose another (paths.runs, paths.cache)",
    errno.EACCES: "this user may not write there: choose another folder (paths.runs, paths.cache)",
    errno.EPERM: "this user may not write there: choose another folder (paths.runs, paths.cache)",
    errno.ENOTDIR: "a part of the path is a file: choose another folder (paths.runs, paths.cache)",
    errno.EISDIR: "a folder has that name: choose another name",
    errno.ENAMETOOLONG: "a name in the path is too long: choose a shorter one",
}
"""Meaning and remedy of each system error of storage."""

UNSUPPORTED = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EMLINK}
)
"""System errors by which a file system says that it lacks an operation (FUSE, FAT, SMB)."""

ASIDE = re.compile(r"\..+\.(?P<host>[^.]+)-(?P<pid>\d+)-[0-9a-f]{8}(\.\w+)?")


RESTORE = "restore it or make it anew"
"""Remedy for a file that cannot be read, where its reader knows no better one."""

_guards: dict[Path, Callable[[], None]] = {}


@contextmanager
def guarded(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """Context in which ``check`` is called before a file below ``folder`` takes its name.

    It raises where this process may no longer write there.
    """
    folder = folder.absolute()
    _guards[folder] = check
    try:
        yield
    finally:
        _guards.pop(folder, None)


def check_guards(path: Path) -> None:
    """Calls the checks of the folders above a path that is about to be changed."""
    above = path.absolute().parents
    for folder, check in list(_guards.items()):
        if folder in above:
            check()


@contextmanager
def atomic_path(path: str | Path, former: Path | None = None) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` and renames it there on success.

    The file is flushed to disk before the rename and the folder after it; on an exception it is
    removed and ``path`` keeps what it held. Its permissions are those of any new file here,
    whatever its writer chose.

    Args:
        path: the name that the file takes.
        former: where the file that had the name goes; None: it is replaced.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{_owner()}-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        make_folder_of(path)
        aside.touch()
        mode = stat.S_IMODE(aside.stat().st_mode)
        yield aside
        if stat.S_IMODE(aside.stat().st_mode) != mode:
            with suppress(PermissionError):  # a file system without permissions
                aside.chmod(mode)
        flush(aside)
        check_guards(path)
        if former is not None and path.exists():
            os.replace(path, former)
        os.replace(aside, path)
        flush(path.parent)
    except OSError as error:
        raise_named(error, path)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def make_folder_of(path: Path) -> None:
    """Makes the folder of a file that is about to be written, and those above it.

    Raises:
        RunError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # a system's folder (/proc) makes none
        raise RunError(
            f"{path} cannot be written, its place takes no folders: choose another folder "
            "(paths.runs, paths.cache) and type the same command again."
        ) from error
    except FileExistsError as error:  # the folder is a file
        raise_named(NotADirectoryError(errno.ENOTDIR, str(error)), path)
    except OSError as error:
        raise_named(error, path)


def raise_named(error: OSError, path: Path) -> NoReturn:
    """Raises a system's error of storage as a sentence, any other as it is.

    Raises:
        RunError: the disk is full, or the path cannot be written.
    """
    sentence = storage_error(error, path)
    if sentence is None:
        raise error
    raise RunError(sentence) from error


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
    """A folder beside ``folder`` that takes its name on success and is removed otherwise.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    make_folder_of(folder)
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        aside.mkdir()
        yield aside
        os.replace(aside, folder)
    except OSError as error:
        raise_named(error, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def flush(path: Path) -> None:
    """Makes the system write a file or a folder's entries to the disk.

    File systems that flush no folders (FUSE, SMB) are left to themselves.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def storage_error(error: BaseException, path: Path | None = None) -> str | None:
    """A sentence for a system's error of storage; None for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    if number not in STORAGE:
        return None
    named = path or getattr(error, "filename", None) or "a file"
    return f"{named} cannot be written, {STORAGE[number]} and type the same command again."


def home_folder() -> Path:
    """The user's home folder; the working folder for a user without one, as in conf/paths."""
    try:
        return Path.home()
    except RuntimeError:  # neither HOME nor an entry in the system's list of users
        return Path()


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Context for one process at a time, which makes something that all of them use.

    By a lock of the operating system; where the file system has none, by a file that exists as
    long as its owner does.

    Raises:
        RunError: the lock's folder cannot be written.
    """
    lock: FileLock | SoftFileLock = FileLock(path)
    try:
        try:
            lock.acquire()
        except OSError as error:
            if error.errno not in UNSUPPORTED | {errno.ENOLCK} or error.errno == errno.EPERM:
                raise
            lock = SoftFileLock(path.with_name(f"{path.name}.owner"))
            lock.acquire()
    except OSError as error:
        raise_named(error, path)
    try:
        yield
    finally:
        lock.release()


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


def read_text(path: str | Path, remedy: str = RESTORE) -> str:
    """Reads a text in UTF-8; ends of lines stay what they are.

    Args:
        path: the file.
        remedy: what the user can do where it cannot be read.

    Raises:
        ContentError: it is not there, cannot be read, or is no text.
    """
    try:
        return Path(path).read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ContentError(f"{path} is missing; {remedy}.") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ContentError(f"{path} cannot be read ({reason}); {remedy}.") from error
    except UnicodeDecodeError as error:
        raise ContentError(
            f"{path} is not text (byte {error.start} is no UTF-8); {remedy}."
        ) from error


def read_json(path: str | Path, remedy: str = RESTORE) -> Any:
    """Reads JSON.

    Args:
        path: the file.
        remedy: what the user can do where it cannot be read.

    Raises:
        ContentError: it is not there, or not JSON.
    """
    try:
        return json.loads(read_text(path, remedy))
    except ContentError:
        raise
    except (ValueError, RecursionError) as error:
        raise ContentError(f"{path} is not JSON ({error}); {remedy}.") from error


def read_json_object(path: str | Path, *names: str, remedy: str = RESTORE) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: the file.
        names: names that it must have.
        remedy: what the user can do where it cannot be read.

    Raises:
        ContentError: it is not there, not JSON, no object, or lacks a name.
    """
    found = read_json(path, remedy)
    lacking = [name for name in names if not isinstance(found, dict) or name not in found]
    if not isinstance(found, dict) or lacking:
        expected = f"an object with {', '.join(names)}" if names else "an object"
        raise ContentError(f"{path} must hold {expected}; {remedy}.")
    return found


def read_yaml_object(path: str | Path, remedy: str = RESTORE) -> dict[str, Any]:
    """Reads a YAML mapping of plain values.

    Raises:
        ContentError: it is not there, not YAML, or no mapping of words.
    """
    try:
        found = yaml.load(read_text(path, remedy), _YamlLoader)
    except ContentError:
        raise
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ContentError(f"{path} is not YAML ({where}{reason}); {remedy}.") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ContentError(f"{path} must hold a mapping of words; {remedy}.")
    return found


_YamlLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
