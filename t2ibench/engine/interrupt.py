"""Early ends of the work on a run, and their record in its status."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from t2ibench.core.errors import ContentError, RunError, T2IBenchError
from t2ibench.core.files import remove_leftovers, storage_error
from t2ibench.runs.folder import Run
from t2ibench.training.preemption import signal_handler

LASTING = ("clock", "scored", "asked")
"""Entries of a status that remain when later work on the run ends early."""


AGAIN_SECONDS = 0.05
"""Wait before a signal that was dropped is delivered again: finalisers take less."""


class Interrupted(KeyboardInterrupt):
    """Raised where a signal ended work, after what can be resumed was saved.

    Stopping on purpose is not an error.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.signal = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Raises ``Interrupted`` in its context at a signal; training defers it to a step's end.

    Files are written whole or not at all, so work may stop at any moment. After the first signal
    only SIGINT still acts. Where Python drops exceptions (in a finaliser), it is raised again.
    """
    received: list[int] = []
    dropped: list[int] = []
    timers: list[threading.Timer] = []
    told = sys.unraisablehook

    def stop(number: int) -> None:
        received.append(number)
        if len(received) == 1 or number == signal.SIGINT:
            raise Interrupted(number)

    def again(unraisable: Any) -> None:
        """Hears of exceptions that Python drops; those of ours come back in a moment."""
        if not isinstance(unraisable.exc_value, Interrupted):
            told(unraisable)
            return
        received.clear()
        dropped.append(unraisable.exc_value.signal)
        timers.append(threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), dropped[-1])))
        timers[-1].start()

    with signal_handler(stop):
        sys.unraisablehook = again
        try:
            yield
        except Exception as error:
            if received:  # a library made an error of its own of it
                raise Interrupted(received[0]) from error
            raise
        finally:
            sys.unraisablehook = told
            for timer in timers:
                timer.cancel()
        if received or dropped:
            raise Interrupted((received or dropped)[0])


@contextmanager
def outcome(run: Run) -> Iterator[None]:
    """Context of interruptible work on a run; records in its status where it ends early.

    The status becomes interrupted or failed; a finished run stays finished, as its results remain
    valid. Before the work, incomplete files of dead processes are removed.

    Raises:
        RunError: the storage failed (disk full, no permission).
    """
    remove_leftovers(run.path)
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        record_outcome(run, "interrupted")
        raise
    except BrokenPipeError:  # nobody reads the output any more: a wish to stop, no failure
        record_outcome(run, "interrupted")
        raise
    except T2IBenchError as error:
        record_outcome(run, "failed", str(error))
        raise
    except Exception as error:
        sentence = storage_error(error)
        if sentence is not None:
            record_outcome(run, "failed", sentence)
            raise RunError(sentence) from error
        record_outcome(run, "failed", f"{type(error).__name__}: {error}")
        raise


def record_outcome(run: Run, state: str, reason: str | None = None) -> None:
    """Records how work on a run ended, where it can be written; a finished run stays so."""
    try:
        status = run.status()
        if status["state"] == "finished":
            if reason is None:
                return
            state = "finished"
        extra = {name: status[name] for name in LASTING if name in status}
        if reason is not None:
            extra |= {"reason": reason, "failures": status.get("failures", 0) + 1}
        run.set_status(state, **extra)  # type: ignore[arg-type]
    except (OSError, ContentError, RunError):  # how the work ended is what is raised
        return
