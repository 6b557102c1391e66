"""Number of this process among those of its run, known before they have met; needs no torch."""

from __future__ import annotations

_rank = 0


def process_rank() -> int:
    """This process's number among those of its run, from 0: the first alone writes files.

    It is 0 wherever a run is one process, also in a job of many tasks that share an allocation.
    """
    return _rank


def stand_at(rank: int) -> None:
    """Tells this process its number, before its first work."""
    global _rank
    _rank = rank
