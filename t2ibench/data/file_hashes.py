"""Content hashes of many files, remembered by size and time of change."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from t2ibench.core.files import write_json
from t2ibench.core.hashing import hash_file, hash_json

log = logging.getLogger(__name__)

DIGITS = 16
THREADS = 8


def file_hashes(root: Path, files: Mapping[str, Path], memory: Path) -> dict[str, str]:
    """Content hash of each file that exists, by its key; an absent one has the empty hash.

    A file whose size and time of change are those of an earlier call is not read again.

    Args:
        root: the folder that the files belong to.
        files: key -> path.
        memory: folder in which hashes are kept, a file for each root.
    """
    memo = memory / f"{hash_json(str(root.resolve()), DIGITS)}.json"
    known = _read(memo)
    stamps = {key: _stamp(path) for key, path in files.items()}
    new = {
        key: files[key]
        for key, stamp in stamps.items()
        if stamp and known.get(key, [])[:2] != stamp
    }
    if new:
        with ThreadPoolExecutor(THREADS) as pool:
            hashes = pool.map(lambda path: hash_file(path, DIGITS), new.values())
            known |= {k: [*stamps[k], h] for k, h in zip(new, hashes, strict=True)}
        write_json(memo, known)
    return {key: str(known[key][2]) if stamps[key] else "" for key in files}


def _stamp(path: Path) -> list[int]:
    """Size and time of change; empty where there is no file."""
    if not path.is_file():
        return []
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _read(memo: Path) -> dict[str, list[Any]]:
    """Hashes that earlier calls stored; empty, at the cost of time only, where none can be read."""
    if not memo.exists():
        return {}
    try:
        found = json.loads(memo.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read (%s); its files are hashed again.", memo, error)
        return {}
    return found if isinstance(found, dict) else {}
