"""Checkpoints that are whole or absent: a temporary file is renamed, and the previous one kept."""

from __future__ import annotations

import logging
import pickle
import re
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import CheckpointIO
from safetensors import SafetensorError
from torch import nn
from torch.optim import Optimizer

from t2ibench.core.errors import CheckpointError, first_line
from t2ibench.core.files import atomic_path
from t2ibench.core.launch import process_rank
from t2ibench.core.ranks import barrier
from t2ibench.core.tensors import foreign_content, read_safetensors, write_safetensors
from t2ibench.runs.status import ANEW, is_clock
from t2ibench.training.preemption import DeferredSignal, install_handler
from t2ibench.training.sharding import unsharded

log = logging.getLogger(__name__)

UNREADABLE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    NotImplementedError,  # zipfile: a damaged entry names a compression that it does not know
    zlib.error,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
)
"""Exceptions that reading a damaged or foreign file raises."""


def previous(path: Path) -> Path:
    """Path of the checkpoint before the one at ``path``."""
    return path.with_name("previous.ckpt")


class WholeFiles(CheckpointIO):
    """Lightning's checkpoint files, written atomically and without a copy in memory.

    A process killed at any moment leaves a whole checkpoint at its path or at ``previous``.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Writes a temporary file, moves the earlier checkpoint to ``previous`` and the new one in.

        Raises:
            RunError: it cannot be written; the earlier ones stay as they are.
        """
        path = Path(path)
        with (
            atomic_path(path, former=previous(path)) as aside,
            system_errors(),
            open(aside, "wb") as file,
        ):
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads tensors and plain containers; executes no code of the file."""
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        """Removes the checkpoint at ``path``."""
        Path(path).unlink(missing_ok=True)


SHARE = 0.02
"""Share of the elapsed time that saving on schedule may take."""

ASSUMED_BYTES_A_SECOND = 100e6
"""Speed at which the first save is assumed to write: of a disk that many share."""


class SaveSchedule:
    """Times at which to save: at an interval, and in at most ``SHARE`` of the elapsed time.

    Args:
        every_seconds: shortest interval; 0: whenever asked.
        clock: gives the present time in seconds.
    """

    def __init__(
        self, every_seconds: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.every_seconds = every_seconds
        self.clock = clock
        self.spent = 0.0
        self._began = self._saved = clock()
        self._last: float | None = None

    def due(self, state_bytes: Callable[[], int]) -> bool:
        """True where the interval is over and another save keeps within the share of the time.

        Args:
            state_bytes: size of what is saved, from which the first save's time is estimated.
        """
        now = self.clock()
        if now - self._saved <= self.every_seconds:
            return False
        if self.every_seconds == 0:
            return True
        if self._last is None:
            self._last = state_bytes() / ASSUMED_BYTES_A_SECOND
        return self.spent + self._last <= SHARE * (now - self._began)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Context of a save, whose time is charged."""
        before = self.clock()
        yield
        self._saved = self.clock()
        self._last = self._saved - before
        self.spent += self._last


def bytes_of(module: nn.Module, optimizers: Sequence[Optimizer], averages: int = 1) -> int:
    """Size of a training's state: weights, their averages, and the optimisers' states."""
    weights = [*module.parameters(), *module.buffers()]
    states = [s for o in optimizers for state in o.state.values() for s in state.values()]
    sizes = [t.numel() * t.element_size() for t in states if isinstance(t, torch.Tensor)]
    return (1 + averages) * sum(t.numel() * t.element_size() for t in weights) + sum(sizes)


class Checkpointer(pl.Callback):
    """Saves checkpoints at intervals, at the end of training, and after a signal.

    After a signal to any process the current step ends, the state is saved and training stops
    on all of them. This must be the last callback, so that the state includes what the others
    did in this step.

    Args:
        path: where the newest checkpoint is written.
        every_seconds: shortest interval in seconds; see ``SaveSchedule``.
        stop: the received signal, if any.
    """

    def __init__(self, path: Path, every_seconds: float, stop: DeferredSignal) -> None:
        self.path = path
        self.schedule = SaveSchedule(every_seconds)
        self.stop = stop

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes SIGTERM back from Lightning, which has just replaced our handler."""
        install_handler(self.stop.record)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Saves at an interval's end, after a signal and when the budget is spent."""
        due = self.schedule.due(lambda: bytes_of(pl_module, trainer.optimizers))
        if trainer.world_size > 1:
            due = self._agree(trainer, due)
        if self.stop.number is not None and not trainer.should_stop:
            self.stop.handled = trainer.should_stop = True
        if trainer.should_stop or due:
            with self.schedule.saving():
                trainer.save_checkpoint(self.path)

    def _agree(self, trainer: pl.Trainer, due: bool) -> bool:
        """Shares a signal of any process, and the time to save, with all processes."""
        heard = torch.tensor([self.stop.number or 0, due], device=trainer.strategy.root_device)
        agreed: Any = trainer.strategy.reduce(heard, reduce_op="max")
        number, due = agreed.tolist()
        if number and self.stop.number is None:
            self.stop.record(number)
        return bool(due)


TRAINING = ("state_dict", "optimizer_states", "callbacks")
"""Names in a checkpoint of a training by Lightning."""


@dataclass(frozen=True)
class WholeCheckpoint:
    """A checkpoint whose bytes were all verified, once.

    Attributes:
        path: the file.
        content: what it holds; tensors are read when they are used.
    """

    path: Path
    content: dict[str, Any]

    @property
    def clock(self) -> dict[str, Any]:
        """State of the clock of a training."""
        return self.content["callbacks"]["BudgetClock"]


def newest_whole(path: Path, names: Sequence[str] = TRAINING) -> WholeCheckpoint | None:
    """The checkpoint to resume from: the one at ``path``, or the previous one if it is damaged.

    Args:
        path: where the newest was written.
        names: what it must hold.

    Returns:
        It, read and verified once; None where none was written yet.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    broken: Exception | None = None
    for candidate in (path, previous(path)):
        if not candidate.exists():
            continue
        try:
            found = WholeCheckpoint(candidate, read_whole(candidate, names))
        except CheckpointError as error:
            broken = broken or error
            continue
        if broken is not None:
            log.warning("%s The run goes on from %s.", broken, candidate.name)
            path.unlink(missing_ok=True)
        return found
    if broken is not None:
        raise broken
    return None


def read_whole(path: Path, names: Sequence[str] = TRAINING) -> dict[str, Any]:
    """A checkpoint whose bytes are all verified; its tensors are read when they are used.

    Raises:
        CheckpointError: the file cannot be read whole, or lacks one of the names.
    """
    remedy = "delete it to train this run from the start"
    try:
        with zipfile.ZipFile(path) as archive:
            torn = archive.testzip()
        if torn is not None:
            raise ValueError(f"the checksum of {torn} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UNREADABLE as error:
        reason = foreign_content(path) or f"{path} cannot be read ({first_line(error)}); {remedy}."
        raise CheckpointError(reason) from error
    of_training = isinstance(content, dict) and content.keys() >= set(names)
    if of_training and "callbacks" in names:
        callbacks = content["callbacks"]
        of_training = isinstance(callbacks, dict) and is_clock(callbacks.get("BudgetClock"))
    if not of_training:
        raise CheckpointError(f"{path} is no checkpoint of this training; {remedy}.")
    return content


@contextmanager
def system_errors() -> Iterator[None]:
    """Re-raises the system's ``OSError`` where torch or safetensors hide it."""
    try:
        yield
    except RuntimeError as error:  # torch's, in the course of handling the system's
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number:
            raise OSError(int(number[1]), str(error)) from None
        raise


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes a module's state dict as safetensors, atomically; all ranks call, the first writes.

    Raises:
        RunError: it cannot be written.
    """
    whole = unsharded(module.state_dict())
    if process_rank() == 0:
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in whole.items()}
        with atomic_path(path) as aside, system_errors():
            write_safetensors(tensors, aside)
    barrier()


def load_weights(module: nn.Module, path: Path) -> None:
    """Loads safetensors strictly.

    Raises:
        CheckpointError: the file is absent or damaged, or its names or shapes are not the module's.
    """
    untrained = "train the run first (`t2ibench train …`)"
    tensors = read_safetensors(path, ANEW if path.exists() else untrained)
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
