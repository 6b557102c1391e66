"""Seconds an image: median and spread over calls, with a mark where the machine was busy.

A time is only worth comparing where the machine did nothing else. Two signs tell: calls that take
unequally long, and threads that were ready to run and waited for a processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

SampleCall = Callable[[int], Any]
"""Function that draws a batch of the given size, captions in, images out."""

FEWEST_CALLS, MOST_CALLS = 5, 25
"""Timed calls: fewer give no spread to speak of, more change no median."""

BUSY_SPREAD = 0.25
"""Spread between quartiles, as a share of the median, that a quiet machine does not show."""

BUSY_WAIT = 0.1
"""Share of its running time that a thread waits for a processor only beside other work."""

THREADS = Path("/proc/self/task")
"""Linux's folder of this process's threads."""


@dataclass(frozen=True)
class Call:
    """One timed call.

    Attributes:
        seconds: from start to end, synchronised.
        waited: seconds that threads of this process were ready and waited for a processor, as a
            share of the seconds that they ran or waited; None where the system does not tell.
    """

    seconds: float
    waited: float | None


@dataclass(frozen=True)
class Latency:
    """Seconds an image at one batch size.

    Attributes:
        batch_size: images a call.
        median: seconds an image, median over calls.
        iqr: spread between the quartiles, seconds an image.
        calls: how many timed calls, after the warm-up.
        busy: why the time is not that of a quiet machine; empty where nothing says so.
    """

    batch_size: int
    median: float
    iqr: float
    calls: int
    busy: str = ""

    @staticmethod
    def of(batch_size: int, calls: Sequence[Call]) -> Latency:
        """Summary of timed calls at one batch size."""
        each = np.array([call.seconds for call in calls]) / batch_size
        low, median, high = (float(value) for value in np.quantile(each, [0.25, 0.5, 0.75]))
        signs = []
        waits = [call.waited for call in calls if call.waited is not None]
        if waits and np.median(waits) > BUSY_WAIT:
            signs.append(f"threads waited for a processor {np.median(waits):.0%} of their time")
        if high - low > BUSY_SPREAD * median:
            signs.append(f"the spread is {(high - low) / median:.0%} of the median")
        busy = f"the machine was busy: {' and '.join(signs)}" if signs else ""
        return Latency(batch_size, median, high - low, len(calls), busy)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return asdict(self)


def time_sampling(
    sample: SampleCall,
    batch_size: int,
    device: torch.device | str = "cpu",
    *,
    warmup_calls: int = 1,
    seconds: float = 10.0,
) -> Latency:
    """Median and spread of seconds an image, after a warm-up, synchronised.

    Args:
        sample: draws a batch.
        batch_size: images a call.
        device: what to wait for.
        warmup_calls: calls that are not timed.
        seconds: after the fewest calls, more are timed up to this many seconds.
    """
    for _ in range(warmup_calls):
        sample(batch_size)
    calls: list[Call] = []
    while len(calls) < FEWEST_CALLS or (
        len(calls) < MOST_CALLS and sum(call.seconds for call in calls) < seconds
    ):
        with timed_call(calls, device):
            sample(batch_size)
    return Latency.of(batch_size, calls)


@contextmanager
def timed_call(calls: list[Call], device: torch.device | str = "cpu") -> Iterator[None]:
    """Appends the duration of the block, synchronised with the device, to ``calls``."""
    synchronise(device)
    ran, waited = scheduled()
    start = time.perf_counter()
    yield
    synchronise(device)
    took = time.perf_counter() - start
    ran_after, waited_after = scheduled()
    ran, waited = ran_after - ran, waited_after - waited
    calls.append(Call(took, waited / (ran + waited) if ran + waited > 0 else None))


def scheduled() -> tuple[float, float]:
    """Seconds that this process's threads have run, and waited for a processor; zeros if unknown.

    Source: Linux, Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat".
    """
    ran = waited = 0
    for thread in THREADS.glob("*/schedstat"):
        try:
            found = thread.read_text().split()
        except OSError:  # the thread has ended
            continue
        ran, waited = ran + int(found[0]), waited + int(found[1])
    return ran / 1e9, waited / 1e9


def synchronise(device: torch.device | str) -> None:
    """Waits for the work of a CUDA device."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
