"""Weights & Biases, offline-safe, with the same keys as the run's own files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from t2ibench.core.types import Score
from t2ibench.runs.folder import Run

Track = Callable[[dict[str, float]], None]


@contextmanager
def track_run(
    settings: Mapping[str, Any] | None, run: Run, config: Mapping[str, Any]
) -> Iterator[Track | None]:
    """Opens a W&B run whose id is the run's hash, so that a resumed run goes on.

    Args:
        settings: ``logger.wandb``: project, group, mode; None logs nothing.
        run: the run.
        config: its resolved configuration.

    Yields:
        A function that logs a row of the learning curves against ``images_seen``, or None.
    """
    if settings is None:
        yield None
        return
    import wandb

    with wandb.init(
        project=settings["project"],
        group=settings["group"],
        mode=settings["mode"],
        id=run.identity,
        resume="allow" if settings["mode"] == "online" else None,
        name=run.path.name,
        job_type="train",
        dir=str(run.path),
        config=dict(config),
        settings=wandb.Settings(silent=True),
    ) as session:
        session.define_metric("images_seen")
        session.define_metric("*", step_metric="images_seen")
        yield session.log


def track_scores(settings: Mapping[str, Any] | None, run: Run, scores: Mapping[str, Score]) -> None:
    """Writes the scores into the run's W&B summary under the keys of scores.json."""
    if settings is None:
        return
    import wandb

    with wandb.init(
        project=settings["project"],
        group=settings["group"],
        mode=settings["mode"],
        id=run.identity,
        resume="allow" if settings["mode"] == "online" else None,
        name=run.path.name,
        job_type="score",
        dir=str(run.path),
        settings=wandb.Settings(silent=True),
    ) as session:
        for key, score in scores.items():
            session.summary[key] = score.value
            session.summary[f"{key}/ci_low"] = score.ci_low
            session.summary[f"{key}/ci_high"] = score.ci_high
