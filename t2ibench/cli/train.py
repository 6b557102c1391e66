"""Train one model or a sweep.

t2ibench train model=diffusion/ldm text=word_transformer data=shapes budget=demo seed=0,1 -m

The same command finds the same run: finished cells are skipped, interrupted ones resumed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from t2ibench.core.errors import T2IBenchError


def run(arguments: Sequence[str]) -> int:
    """Hydra's command line over ``train_and_score``; a failed cell does not stop the others."""
    from t2ibench.cli.interrupt import interruptible

    failures: list[str] = []

    def cell(cfg: DictConfig) -> None:
        try:
            train_and_score(cfg)
        except T2IBenchError as error:
            failures.append(str(error))
            sys.stderr.write(f"t2ibench train: {error}\n")

    with interruptible():  # from the first import on
        from t2ibench.cli.compose import run_hydra

        run_hydra(cell, arguments)
    return 2 if failures else 0


def train_and_score(cfg: DictConfig) -> None:
    """One cell: train, sample, score; each part is skipped where it is already done."""
    from t2ibench.cli.interrupt import outcome
    from t2ibench.cli.pipeline import train_run
    from t2ibench.cli.score_run import score_run

    trained = train_run(cfg)
    with outcome(trained.run):
        score_run(trained, cfg)
    sys.stdout.write(f"{trained.run.path}\n")
