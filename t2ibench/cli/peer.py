"""Another rank of a run on several devices, started by ``cli/ranks.py``: one cell, then the end."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from omegaconf import OmegaConf

from t2ibench.cli import ranks
from t2ibench.cli.train import train_and_score
from t2ibench.core.errors import T2IBenchError


def main() -> int:
    """A peer: the cell that rank 0 sends, until it is done or rank 0 is gone."""
    cfg: Any = OmegaConf.create(json.loads(sys.stdin.readline()))
    threading.Thread(target=leave_with_first, daemon=True).start()
    try:
        train_and_score(cfg)
    except T2IBenchError as error:
        if ranks.meeting is None or ranks.meeting.said_by_first() != str(error):
            sys.stderr.write(f"t2ibench train: rank {os.environ['RANK']}: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def leave_with_first() -> None:
    """Ends this process when rank 0 has closed its input, by its end or by its death."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
