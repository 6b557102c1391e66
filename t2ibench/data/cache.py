"""A content-addressed cache of arrays: built once, verified, shared by processes.

Latents, codes, frozen text features and reference features never change for a given key, so
the key names everything that they depend on (data fingerprint, network fingerprint, recipe).
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from t2ibench.core.errors import DataError
from t2ibench.core.files import exclusive, read_json
from t2ibench.core.hashing import hash_file, hash_json

log = logging.getLogger(__name__)

_INDEX = "index.json"
_ARRAY_NAME = re.compile(r"[A-Za-z0-9_.-]+")


class ArrayCache:
    """Named arrays under string keys, each entry whole or absent.

    An entry is a folder of ``NAME.npy`` files and an ``index.json`` with the key and the
    SHA-256 of each file. It is built aside and renamed; a second process that wants the same
    key waits for the first. An entry whose bytes do not match its index is built again.

    Args:
        root: the cache's folder; made when needed.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def path(self, key: str) -> Path:
        """The folder of ``key``: a readable prefix and the key's hash."""
        readable = re.sub(r"[^A-Za-z0-9.-]+", "_", key)[:48].strip("_.")
        return self.root / f"{readable}-{hash_json(key, 16)}"

    def get(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays of ``key`` as read-only memory maps, or None where absent or damaged."""
        entry = self.path(key)
        if not (entry / _INDEX).exists():
            return None
        try:
            index = read_json(entry / _INDEX)
            for name, digest in index["arrays"].items():
                if hash_file(entry / f"{name}.npy") != digest:
                    log.warning("%s/%s.npy does not match its hash; building again", entry, name)
                    return None
            return {
                name: np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                for name in index["arrays"]
            }
        except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
            log.warning("cache entry %s cannot be read (%s); building again", entry, error)
            return None

    def get_or_build(
        self, key: str, build: Callable[[], Mapping[str, np.ndarray | Tensor]]
    ) -> dict[str, np.ndarray]:
        """The arrays of ``key``, built by ``build`` when they are not there.

        Args:
            key: names everything that the arrays depend on.
            build: makes the arrays; called at most once over all processes.

        Returns:
            Name -> read-only memory-mapped array. bfloat16 tensors come back as float32.

        Raises:
            DataError: ``build`` made no arrays, or an array that cannot be stored.
        """
        found = self.get(key)
        if found is not None:
            return found
        self.root.mkdir(parents=True, exist_ok=True)
        entry = self.path(key)
        with exclusive(self.root / f".{entry.name}.lock"):
            found = self.get(key)
            if found is None:
                for leftover in self.root.glob(f".{entry.name}.{'?' * 8}"):  # of a killed process
                    shutil.rmtree(leftover, ignore_errors=True)
                self._write(key, entry, build())
                found = self.get(key)
        if found is None:
            raise DataError(f"the cache entry {entry} was written but cannot be read back.")
        return found

    def _write(self, key: str, entry: Path, arrays: Mapping[str, np.ndarray | Tensor]) -> None:
        if not arrays:
            raise DataError(f"nothing to cache under {key!r}: its builder made no arrays.")
        aside = self.root / f".{entry.name}.{uuid.uuid4().hex[:8]}"
        aside.mkdir()
        try:
            digests = {}
            for name, array in arrays.items():
                if not _ARRAY_NAME.fullmatch(name) or name.startswith("."):
                    raise DataError(f"cached array name {name!r} must be letters, digits, _ . -")
                with open(aside / f"{name}.npy", "wb") as file:
                    np.save(file, _to_numpy(name, array), allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
                digests[name] = hash_file(aside / f"{name}.npy")
            with open(aside / _INDEX, "w", encoding="utf-8") as file:
                json.dump({"key": key, "arrays": digests}, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            if entry.exists():
                shutil.rmtree(entry)
            os.rename(aside, entry)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _to_numpy(name: str, array: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    if array.dtype.hasobject:
        raise DataError(f"cached array {name!r} holds Python objects; give numbers.")
    return np.ascontiguousarray(array)
