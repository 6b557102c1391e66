"""What the program that started this process says of its place; needs no torch."""

from __future__ import annotations

import os


def process_rank() -> int:
    """This process's number among those of its run, from 0: the first alone writes files.

    It is known before the processes have met (``core/ranks.py``): torchrun, SLURM and
    ``cli/ranks.py`` tell each of those that they start.
    """
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0
