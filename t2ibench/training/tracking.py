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
    with opened(settings, run, "train", config) as session:
        session.define_metric("images_seen")
        session.define_metric("*", step_metric="images_seen")
        yield session.log


def track_scores(settings: Mapping[str, Any] | None, run: Run, scores: Mapping[str, Score]) -> None:
    """Writes the scores into the run's W&B summary under the keys of scores.json."""
    if settings is None:
        return
    with opened(settings, run, "score") as session:
        for key, score in scores.items():
            session.summary[key] = score.value
            session.summary[f"{key}/ci_low"] = score.ci_low
            session.summary[f"{key}/ci_high"] = score.ci_high


def opened(
    settings: Mapping[str, Any],
    run: Run,
    job_type: str,
    config: Mapping[str, Any] | None = None,
) -> Any:
    """The W&B run of ``run``: its id is the run's hash, its files lie in the run's folder."""
    import wandb

    return wandb.init(
        project=settings["project"],
        group=settings["group"],
        mode=settings["mode"],
        id=run.identity,
        resume="allow" if settings["mode"] == "online" else None,
        name=run.path.name,
        job_type=job_type,
        dir=str(run.path),
        config=None if config is None else dict(config),
        settings=wandb.Settings(silent=True),
    )
