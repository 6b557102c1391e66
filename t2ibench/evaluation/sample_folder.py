"""A folder of written samples: whole, and without images of another call.

Beside the images stands a hidden record of them, ``.t2ibench-samples.json``, which evaluators do
not read. A later call into the same folder replaces what the record names and nothing else: files
of others, or files that were changed, are told and never removed.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from t2ibench.core.errors import ConfigError, RunError
from t2ibench.core.files import read_json_object, storage_error, write_json
from t2ibench.core.hashing import hash_file
from t2ibench.data.folder_files import visible_files

RECORD = ".t2ibench-samples.json"
"""File in the folder: path -> content hash of each file that sampling wrote."""

DIGITS = 16

move = os.replace


def remove(path: Path) -> None:
    """Removes a file that may be gone already."""
    path.unlink(missing_ok=True)


def check_free(folder: Path) -> dict[str, str]:
    """Checks that a folder holds nothing but earlier samples; returns the record of these.

    Raises:
        ConfigError: it is a file, or holds files that no sampling wrote or that were changed since.
    """
    if not folder.exists():
        return {}
    if not folder.is_dir():
        raise ConfigError(f"out={folder} is a file; choose a folder.")
    known = _record(folder)
    found = {path.relative_to(folder).as_posix(): path for path in visible_files(folder)}
    # A prompt can begin with a dot: what the record names is looked at, hidden or not.
    found |= {name: path for name in known if (path := folder / name).is_file()}
    others = [name for name, path in found.items() if known.get(name) != hash_file(path, DIGITS)]
    if others:
        more = ", …" if len(others) > 3 else ""
        raise ConfigError(
            f"out={folder} holds {len(others)} files that no sampling wrote, or that have changed "
            f"since ({', '.join(others[:3])}{more}); choose another folder, or empty it."
        )
    return known


@contextmanager
def written_samples(folder: Path) -> Iterator[Path]:
    """Yields a folder beside ``folder`` to write into; its files then replace earlier samples.

    Raises:
        ConfigError: see ``check_free``.
        RunError: the disk is full, or the folder cannot be written.
    """
    old = check_free(folder)
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        aside.mkdir(parents=True)
        yield aside
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        new = {path.relative_to(aside).as_posix(): hash_file(path, DIGITS) for path in files}
        folder.mkdir(parents=True, exist_ok=True)
        # At each moment the record knows every file that is there, whatever interrupts.
        for name in old:
            remove(folder / name)
        write_json(folder / RECORD, new)
        for name in new:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            move(aside / name, folder / name)
        _remove_empty(folder)
    except OSError as error:
        sentence = storage_error(error, folder)
        if sentence is None:
            raise
        raise RunError(sentence) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _record(folder: Path) -> dict[str, str]:
    """The folder's record; names that lead out of it, as a folder of others may hold, are none.

    Links lead out, too: no sampling made any.
    """
    if not (folder / RECORD).is_file():
        return {}
    found = read_json_object(folder / RECORD)
    root = folder.resolve()
    return {
        name: str(content)
        for name, content in found.items()
        if (root / name).resolve() == root / name and root in (root / name).parents
    }


def _remove_empty(folder: Path) -> None:
    """Removes sub-folders that earlier samples left empty."""
    for inner, _, _ in os.walk(folder, topdown=False):
        if inner != str(folder) and not os.listdir(inner):
            os.rmdir(inner)
