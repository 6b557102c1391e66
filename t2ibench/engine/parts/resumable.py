"""Training of a part by a loop of its own: checkpoints, signals and seconds around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from t2ibench.engine.interrupt import Interrupted
from t2ibench.runs.folder import Run
from t2ibench.training.checkpoint import SaveSchedule, WholeFiles, newest_whole, previous
from t2ibench.training.preemption import deferred_signals

T = TypeVar("T")


def resumable(
    run: Run, names: Sequence[str], every_seconds: float, train: Callable[..., T]
) -> tuple[T, float]:
    """Result of a training loop that goes on from its last checkpoint, and its seconds in all.

    Args:
        run: the part's own run.
        names: entries of a checkpoint; ``seconds`` is among them.
        every_seconds: wait between two checkpoints.
        train: called with ``resumed``, the content of the newest whole checkpoint or None, and
            ``keep``, to be called after each step with a function that makes the state.

    Raises:
        Interrupted: a signal ended it, after its state was saved; the same command resumes it.
    """
    found = newest_whole(run.checkpoint, names)
    resumed = None if found is None else found.content
    spent = resumed["seconds"] if resumed is not None else 0.0
    began, schedule = time.perf_counter(), SaveSchedule(every_seconds)

    with deferred_signals() as stop:

        def keep(state: Callable[[], Mapping[str, Any]]) -> None:
            if stop.number is None and not schedule.due(lambda: 0):  # small: measured at once
                return
            seconds = {"seconds": spent + time.perf_counter() - began}
            with schedule.saving():
                WholeFiles().save_checkpoint({**state(), **seconds}, run.checkpoint)
            if stop.number is not None:
                stop.handled = True
                raise Interrupted(stop.number)

        result = train(resumed=resumed, keep=keep)
    return result, spent + time.perf_counter() - began


def forget_checkpoints(run: Run) -> None:
    """Removes the checkpoints of a training that is through."""
    for checkpoint in (run.checkpoint, previous(run.checkpoint)):
        checkpoint.unlink(missing_ok=True)
