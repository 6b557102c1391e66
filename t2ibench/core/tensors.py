"""Tensors in files: whole by their checksum, and read without running what a file holds.

A safetensors file of this project carries the CRC-32 of its tensors in its header, as a zip file
does of its entries, so that a flipped bit is found and not sampled from.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from t2ibench.core.errors import DamagedError
from t2ibench.core.files import RESTORE

CHECKSUM = "crc32"
"""Name of the checksum in a file's metadata."""

LFS_POINTER = b"version https://git-lfs"
"""Beginning of what Git keeps of a large file that was not fetched."""

FOREIGN = {
    LFS_POINTER: "is a Git LFS pointer and not the file itself: run `git lfs pull` "
    "where it comes from, or download the file",
    b"<!doctype html": "is a web page and not a file of weights: download the file itself (a page "
    "in its place often asks for a log-in)",
    b"<html": "is a web page and not a file of weights: download the file itself (a page in its "
    "place often asks for a log-in)",
    b"<?xml": "is a server's answer in XML and not a file of weights: download the file again",
    b'{"error': "is a server's error and not a file of weights: download the file again",
}
"""Beginnings of what stands in the place of a file that was not downloaded, with the remedy."""


def foreign_content(path: Path) -> str | None:
    """A sentence on a file that is no file of weights at all; None for any other."""
    try:
        with open(path, "rb") as file:
            head = file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    except OSError:
        return None
    for beginning, sentence in FOREIGN.items():
        if head.startswith(beginning):
            return f"{path} {sentence}."
    return None


def write_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors with their checksum; the same tensors give the same bytes.

    Args:
        tensors: the tensors by name.
        path: the file; callers write aside and rename (``core.files.atomic_path``).
    """
    ready = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    # One entry alone: the format writes several in an order of chance.
    save_file(ready, path, metadata={CHECKSUM: checksum(ready.items())})


def read_safetensors(path: str | Path, remedy: str = RESTORE) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, mapped from disk; checked where it has a checksum.

    Args:
        path: the file.
        remedy: what the user can do where it cannot be read.

    Raises:
        DamagedError: there is no such file, it is not of that format, or has changed since it
            was written.
    """
    path = Path(path)
    if not path.exists():
        raise DamagedError(f"{path} is missing; {remedy}.", path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get(CHECKSUM)
    # Names and shapes of a damaged header may be anything.
    except (OSError, SafetensorError, ValueError, RuntimeError, OverflowError) as error:
        sentence = f"{path} cannot be read as safetensors ({error}); {remedy}."
        raise DamagedError(foreign_content(path) or sentence, path) from error
    if expected is not None and checksum(tensors.items()) != expected:
        raise DamagedError(
            f"{path} has changed since it was written (its checksum is wrong); {remedy}.", path
        )
    return tensors


def checksum(named: Iterable[tuple[str, Tensor]]) -> str:
    """CRC-32 of named tensors (name, dtype, shape, bytes), in sorted name order, 8 hex digits."""
    value = 0
    for name, tensor in sorted(named, key=lambda item: item[0]):
        value = zlib.crc32(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode(), value)
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        value = zlib.crc32(flat.numpy().data, value)
    return f"{value:08x}"
