"""Checkpoints that are whole or absent, and signals that end training at a step's end."""

from __future__ import annotations

import pickle
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from t2ibench.core.errors import CheckpointError
from t2ibench.core.files import atomic_path

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Checkpointer(pl.Callback):
    """Saves at intervals, at the end, and on SIGINT, SIGTERM or SIGUSR1.

    A signal only sets a flag: the step in progress ends, the state is saved, training stops
    and ``interrupted`` is True. A second signal of the keyboard stops at once.

    Attributes:
        interrupted: whether a signal, not the budget, ended training.
    """

    def __init__(self, path: Path, every_seconds: float) -> None:
        self.path = path
        self.every_seconds = every_seconds
        self.interrupted = False
        self._saved = time.monotonic()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.interrupted = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals over."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Saves when it is time, or when a signal came."""
        if self.interrupted:
            trainer.should_stop = True
        if trainer.should_stop or time.monotonic() - self._saved > self.every_seconds:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Writes last.ckpt aside and renames it."""
        with atomic_path(self.path) as aside:
            trainer.save_checkpoint(aside)
        self._saved = time.monotonic()


@contextmanager
def signals_restored() -> Iterator[None]:
    """Afterwards the handlers are those of before: Lightning leaves its own behind."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def read_clock(path: Path) -> dict[str, Any] | None:
    """The clock stored in a checkpoint, or None where there is no checkpoint.

    Raises:
        CheckpointError: the file is there and cannot be read.
    """
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({first_line(error)}); delete it to train this run from the "
            "start."
        ) from error
    return state["callbacks"]["BudgetClock"]


def first_line(error: BaseException) -> str:
    """The first sentence of a long message."""
    return str(error).strip().splitlines()[0].split(". ")[0] if str(error) else type(error).__name__


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes a module's state dict as safetensors, atomically."""
    tensors = {n: t.detach().cpu().contiguous().clone() for n, t in module.state_dict().items()}
    with atomic_path(path) as aside:
        save_file(tensors, aside)


def load_weights(module: nn.Module, path: Path) -> None:
    """Loads safetensors strictly.

    Raises:
        CheckpointError: the file is absent, or its names or shapes are not the module's.
    """
    if not path.exists():
        raise CheckpointError(f"{path} is missing; train the run first (`t2ibench train …`).")
    tensors = load_file(path)
    own = module.state_dict()
    missing, surplus = sorted(set(own) - set(tensors)), sorted(set(tensors) - set(own))
    shapes = [n for n in own if n in tensors and own[n].shape != tensors[n].shape]
    if missing or surplus or shapes:
        raise CheckpointError(
            f"{path} does not fit {type(module).__name__}: {len(missing)} missing "
            f"{missing[:3]}, {len(surplus)} surplus {surplus[:3]}, {len(shapes)} of another shape "
            f"{shapes[:3]}; use the configuration that the run was trained with."
        )
    module.load_state_dict(tensors, strict=True)
