"""Content hashes: the only identities that caches, runs and evaluators trust."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def hash_json(value: Any, length: int = 12) -> str:
    """Hex SHA-256 of a JSON-ready value, independent of key order.

    Example:
        >>> hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
        True
        >>> hash_json([1, 2, 3])
        'a615eeaee21d'
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def hash_file(path: str | Path, length: int = 64) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:length]


def hash_tensors(named: Iterable[tuple[str, Tensor]], length: int = 12) -> str:
    """Hex SHA-256 of named tensors (name, dtype, shape, bytes), in sorted name order."""
    import torch  # here alone: a run is named by its hash before anything heavy is needed

    digest = hashlib.sha256()
    for name, tensor in sorted(named, key=lambda item: item[0]):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        # Flat first: a scalar, or strides of sides of length 1, cannot be viewed as bytes.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:length]


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed that is a pure function of ``parts`` (ints, strings): no global RNG.

    Example:
        >>> derive_seed("prompt", 0) == derive_seed("prompt", 0)
        True
        >>> derive_seed("prompt", 0) == derive_seed("prompt", 1)
        False
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
