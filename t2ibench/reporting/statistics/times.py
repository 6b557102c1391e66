"""Sampling times of a row: median, spread, and whether the machine had time for them.

A time that was taken on a busy machine is shown with a mark; nothing is ranked by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TIMES = {"seconds_per_image_batch_1": "latency", "seconds_per_image_best": "throughput"}
"""Times of ``cost`` -> the part of it that holds their spread and their mark."""


@dataclass(frozen=True)
class Time:
    """Seconds an image of a row.

    Attributes:
        seconds: the median over calls, its mean over runs; of quiet runs, where there is one.
        iqr: spread between the quartiles of the calls, its mean over the same runs; None where
            no run says.
        runs: how many runs it rests on.
        busy: why it is not the time of a quiet machine; empty where nothing says so.
        left_out: how many runs were timed on a busy machine beside quiet ones.
    """

    seconds: float
    iqr: float | None
    runs: int
    busy: str = ""
    left_out: int = 0

    @property
    def note(self) -> str:
        """What a reader must know, the same for every such row; empty for nothing."""
        if self.busy:
            return "the machine was busy, so nothing is ranked by this time"
        if self.left_out:
            return "runs that were timed on a busy machine are left out of this time"
        return ""


def time_of(costs: Sequence[Mapping[str, Any]], name: str) -> Time | None:
    """A time of several runs; None where none has it.

    Args:
        costs: ``cost`` of each run.
        name: of ``TIMES``.
    """
    found = [Time(float(cost[name]), _iqr(cost, name), 1, _busy(cost, name)) for cost in costs
             if isinstance(cost.get(name), (int, float))]  # fmt: skip
    if not found:
        return None
    kept = [time for time in found if not time.busy] or found
    spreads = [time.iqr for time in kept if time.iqr is not None]
    return Time(
        float(np.mean([time.seconds for time in kept])),
        float(np.mean(spreads)) if spreads else None,
        len(kept),
        "; ".join(dict.fromkeys(time.busy for time in kept if time.busy)),
        len(found) - len(kept),
    )


def _measured(cost: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = cost.get(TIMES[name])
    return part if isinstance(part, Mapping) else {}


def _iqr(cost: Mapping[str, Any], name: str) -> float | None:
    iqr = _measured(cost, name).get("iqr")
    return float(iqr) if isinstance(iqr, (int, float)) else None


def _busy(cost: Mapping[str, Any], name: str) -> str:
    """The time's own mark, or that of the whole measurement where it has none."""
    return str(_measured(cost, name).get("busy", cost.get("busy")) or "")
