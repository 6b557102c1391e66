"""Process of a further rank, started by ``engine/ranks.py``: performs one piece of work and ends.

{"train": configuration}                     a cell
{"score": run folder, "config": …}           a trained run
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from t2ibench.core.errors import T2IBenchError
from t2ibench.engine import ranks
from t2ibench.engine.rescore import score_trained
from t2ibench.engine.spec import RunSpec
from t2ibench.engine.study import train_and_score
from t2ibench.runs.folder import Run


def main() -> int:
    """Performs the work that rank 0 sends, until it is done or rank 0 has ended."""
    work: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=exit_with_first_rank, daemon=True).start()
    try:
        if "train" in work:
            train_and_score(RunSpec.read(work["train"]))
        else:
            score_trained(Run.at(Path(work["score"])), RunSpec.read(work["config"]))
    except T2IBenchError as error:
        if ranks.launched_group is None or ranks.launched_group.first_rank_error() != str(error):
            sys.stderr.write(f"t2ibench: rank {os.environ['RANK']}: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def exit_with_first_rank() -> None:
    """Ends this process when rank 0 has closed its input, by its end or by its death."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
