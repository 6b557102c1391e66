"""Another rank of a run on several devices, started by ``cli/ranks.py``: one work, then the end.

{"train": configuration as YAML}                    a cell
{"score": run folder, "overrides": [K=V, …]}        a trained run
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from t2ibench.cli import ranks
from t2ibench.cli.score import score_trained
from t2ibench.cli.train import train_and_score
from t2ibench.core.errors import T2IBenchError


def main() -> int:
    """A peer: the work that rank 0 sends, until it is done or rank 0 is gone."""
    work: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=leave_with_first, daemon=True).start()
    try:
        if "train" in work:
            cfg: Any = OmegaConf.create(work["train"])
            train_and_score(cfg)
        else:
            score_trained(Path(work["score"]), work["overrides"])
    except T2IBenchError as error:
        if ranks.meeting is None or ranks.meeting.said_by_first() != str(error):
            sys.stderr.write(f"t2ibench: rank {os.environ['RANK']}: {error}\n")
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
