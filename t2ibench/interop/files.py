"""Tensors of a file on disk, read without running any code that the file holds.

``.safetensors`` holds tensors alone. ``.ckpt`` and ``.bin`` are pickles: they are read by
torch's restricted unpickler, which builds tensors and plain containers and calls nothing else.
Checkpoints of a training run also carry objects of the training framework (real Stable Diffusion
v1 files carry a ``ModelCheckpoint``); each becomes an inert placeholder, and its class is neither
imported nor called. Any other object is refused.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2ibench.core.errors import CheckpointError, first_line
from t2ibench.core.tensors import foreign_content, read_safetensors

LEFTOVERS = ("pytorch_lightning.", "lightning.", "lightning_fabric.")
"""Modules whose objects training frameworks leave in checkpoints; none is needed."""

PICKLES = (".ckpt", ".bin", ".pt", ".pth")


class Placeholder:
    """Stands where a checkpoint has an object that is not a tensor; keeps and does nothing."""

    def __new__(cls, *arguments: Any, **options: Any) -> Placeholder:
        """Takes whatever its model took."""
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Keeps nothing."""

    def __setstate__(self, state: Any) -> None:
        """Keeps nothing."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors``, ``.ckpt`` or ``.bin`` file, mapped from disk.

    Raises:
        CheckpointError: there is no such file, it is damaged, of another kind, or its pickle
            holds more than tensors, containers and what training frameworks leave.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; give a .safetensors or .ckpt file.")
    if path.suffix == ".safetensors":
        return read_safetensors(path, "it is damaged or not whole: download it again")
    if path.suffix == ".pkl":
        raise CheckpointError(
            f"{path} is a pickled network (StyleGAN-T's format), which runs code when it is read, "
            "and was not read; give its weights as .safetensors or as a .pth of tensors."
        )
    if path.suffix not in PICKLES:
        raise CheckpointError(
            f"{path.name} is of a kind that is not read; give .safetensors or .ckpt."
        )
    content = read_pickle(path)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    tensors = {n: t for n, t in (state or {}).items() if isinstance(t, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} has no tensors in it; give a checkpoint with weights.")
    return tensors


def read_pickle(path: Path) -> Any:
    """A pickle's containers and tensors; leftovers of training are placeholders.

    Raises:
        CheckpointError: see ``read_tensors``.
    """
    sentence = foreign_content(path)
    if sentence is not None:
        raise CheckpointError(sentence)
    zipped = zipfile.is_zipfile(path)
    try:
        objects = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
        leftovers = {n for n in objects if n.startswith(LEFTOVERS)}
        if refused := sorted(set(objects) - leftovers):
            raise not_only_tensors(path, refused[0])
        placeholders: list[Any] = [(type("Leftover", (Placeholder,), {}), n) for n in leftovers]
        with torch.serialization.safe_globals(placeholders):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise not_only_tensors(path, object_in(error)) from error
        raise damaged(path, error) from error
    except CheckpointError:
        raise
    except Exception as error:  # what a damaged pickle raises is anything
        raise damaged(path, error) from error


def object_in(error: Exception) -> str:
    """Name of the object that torch's message refuses."""
    words = str(error).replace("`", " ").split("GLOBAL ")
    return words[1].split()[0] if len(words) > 1 else "an unknown object"


def not_only_tensors(path: Path, name: str) -> CheckpointError:
    """The error for a pickle that could run code."""
    return CheckpointError(
        f"{path} holds {name} besides tensors, which could run code when it is read, and was not "
        "read; get the same weights as .safetensors."
    )


def damaged(path: Path, error: Exception) -> CheckpointError:
    """The error for a file that ends early or has another content than its suffix."""
    return CheckpointError(
        f"{path} cannot be read ({first_line(error).rstrip('.')}); it is damaged or not whole: "
        "download it again."
    )
