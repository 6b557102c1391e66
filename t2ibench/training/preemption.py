"""Signals that end work early, and the requeue of a scheduler's job afterwards.

Schedulers send a job a signal before they take its machine away: SIGUSR1 or SIGUSR2 (chosen with
``--signal``), SIGTERM (preemption without a warning, node shutdown, time limit); the keyboard sends
SIGINT. Training remembers the signal until a step ends and its state is saved.

Lightning's own handlers are not used: they save in the middle of a step, broadcast from inside a
handler under DDP, and silently do nothing where submitit has installed its own first.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from t2ibench.core.launch import process_rank

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

Handler = Callable[[int], None]


class DeferredSignal:
    """The received signal, remembered until a safe point.

    Attributes:
        number: number of the first received signal, or None.
        handled: True once the work has ended because of it; set by the one who ends it.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.handled = False

    def record(self, number: int) -> None:
        """Remembers the first signal; a second one from the keyboard stops at once."""
        if self.number is None:
            self.number = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


@contextmanager
def signal_handler(handler: Handler) -> Iterator[None]:
    """Installs ``handler`` for the signals in its context; restores the earlier handlers after.

    Nothing is installed outside the main thread, where Python allows no handlers.
    """
    with restored_handlers():
        install_handler(handler)
        yield


@contextmanager
def ignored_signals() -> Iterator[None]:
    """Ignores the signals in its context, in this process and in commands that it starts."""
    with restored_handlers():
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        yield


@contextmanager
def restored_handlers() -> Iterator[None]:
    """Restores at its end the handlers that were installed before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, earlier in before.items():
                if earlier is not None:  # None: installed by another language, out of our reach
                    signal.signal(number, earlier)


def install_handler(handler: Handler) -> None:
    """Installs a handler of all the signals.

    A forked worker inherits handlers but not the work: it ignores the signals, which a scheduler
    sends to every process of a job, and ends only when its parent terminates it.
    """
    owner = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            handler(number)
        elif number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, handle)


@contextmanager
def deferred_signals() -> Iterator[DeferredSignal]:
    """Defers signals in its context; one that nobody handled is delivered at the end."""
    stop = DeferredSignal()
    with signal_handler(stop.record):
        yield stop
    if stop.number is not None and not stop.handled:
        signal.raise_signal(stop.number)


def requeue(number: int) -> None:
    """Requeues this job at its scheduler, after its state was saved; does nothing elsewhere.

    Under submitit its own handler requeues (and leaves the process); in another SLURM job
    ``scontrol requeue`` does, unless the job was cancelled. SIGINT causes no requeue.

    Args:
        number: the signal that ended the work.
    """
    if number == signal.SIGINT or process_rank() != 0:
        return
    if "SUBMITIT_EXECUTOR" in os.environ:
        # On SIGTERM the scheduler has made up its mind; submitit itself only ignores it.
        submitit_signal = getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2"))
        if number != signal.SIGTERM and callable(signal.getsignal(submitit_signal)):
            signal.raise_signal(submitit_signal)
    elif "SLURM_JOB_ID" in os.environ:
        job = os.environ["SLURM_JOB_ID"]
        with ignored_signals():  # SLURM repeats SIGTERM to all that belongs to the job
            state = scheduler_output("scontrol", "--oneliner", "show", "job", job)
            # A job that was cancelled is COMPLETING by now, and so is one whose time is up.
            if "JobState=RUNNING" in state or "Reason=TimeLimit" in state:
                scheduler_output("scontrol", "requeue", job)


def scheduler_output(*command: str) -> str:
    """Output of a scheduler's command; its failure is a warning, not an error."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("%s failed (%s); the job is not requeued.", " ".join(command), error)
        return ""
    return answer.stdout
