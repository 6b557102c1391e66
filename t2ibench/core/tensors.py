"""Tensors in files: read without running anything that a file holds."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from t2ibench.core.errors import CheckpointError


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, mapped from disk.

    Raises:
        CheckpointError: there is no such file, or it is not of that format.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({error}); restore it or make it anew."
        ) from error
