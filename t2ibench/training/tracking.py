"""Weights & Biases as a view of run folders: one W&B run a cell, the same keys as its files.

The run's own files are authoritative. Online, rows of the learning curves are sent as they are
logged, with ``images_seen`` as the step, so that the server drops what a resumed run repeats.
Offline, a session writes its rows from ``metrics.csv`` when it ends, together with everything
else, so that a killed session leaves nothing half-written, an undisturbed cell one complete
folder, and an interrupted one folders of the same id that share no row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from t2ibench.core.errors import ContentError
from t2ibench.core.files import read_json_object, write_json
from t2ibench.core.hashing import hash_json
from t2ibench.core.launch import process_rank
from t2ibench.evaluation.results import RunScores
from t2ibench.evaluation.samples import SampleSet, load_values
from t2ibench.runs.curves import warned_curves
from t2ibench.runs.folder import Run
from t2ibench.training.wandb_session import is_online, mode_of, open_session, warn

Track = Callable[[dict[str, float]], None]

MOST_SAMPLES = 32
"""Greatest number of images in a run's table of samples."""

CURVES = ("metrics.csv", "validation.csv")

PROGRESS_FILE = "wandb.json"
"""File in a run's folder: the last image whose curves are in W&B's folders."""


@contextmanager
def track_run(
    settings: Mapping[str, Any] | None, run: Run, config: Mapping[str, Any]
) -> Iterator[Track | None]:
    """Tracks a training; a resumed run goes on under the same id.

    Args:
        settings: ``logger.wandb``: project, group, mode; None logs nothing.
        run: the run that is trained.
        config: its resolved configuration.

    Yields:
        A function that takes each row of the learning curves, or None where rows are not sent as
        they are logged: offline, disabled, or not the first rank.

    Raises:
        ConfigError: an unknown mode.
    """
    mode = _mode_here(settings)
    if settings is None or mode is None:
        yield None
        return
    if mode == "online":
        with _cell_session(settings, mode, run, config) as session:
            live = is_online(session)
            try:
                yield _sender(session) if live else None
            finally:
                if not live:
                    _log_curves(session, run)
        _set_last_logged(run, _last_image(run))
        return
    try:
        yield None
    finally:
        # Trained to the end, the cell is scored next and `track_scores` writes it whole.
        if not run.weights.exists():
            _publish(settings, mode, run, config, lambda session: _log_curves(session, run))


def track_scores(settings: Mapping[str, Any] | None, run: Run) -> None:
    """Updates a scored run's W&B run from its folder: curves, scores, samples and cost.

    Args:
        settings: ``logger.wandb``, or None.
        run: a run with ``config.yaml`` and ``scores.json``.

    Raises:
        ConfigError: an unknown mode.
    """
    mode = _mode_here(settings)
    if settings is None or mode is None:
        return
    config = run.config()
    scores = RunScores.read(run.scores)

    def log(session: Any) -> None:
        _log_curves(session, run)
        last = joined_curves(run)[-1:] or [{}]
        session.summary.update(last[0] | score_summary(scores) | cost_summary(scores.cost))
        table = samples_table(run, scores)
        if table is not None:
            session.log({"images_seen": last[0].get("images_seen", 0), "samples": table})

    _publish(settings, mode, run, config, log)


@dataclass(frozen=True)
class ComparisonView:
    """Content of a comparison's W&B run.

    Attributes:
        name: name of the W&B run.
        group: name of the study, or None.
        runs: names of the compared run folders; they determine the id.
        tables: name -> rows, the first of them the heading.
        charts: name -> self-contained HTML.
        files: written results that become one artifact.
    """

    name: str
    group: str | None
    runs: tuple[str, ...]
    tables: Mapping[str, Sequence[Sequence[Any]]]
    charts: Mapping[str, str]
    files: tuple[Path, ...]


def track_comparison(settings: Mapping[str, Any], view: ComparisonView, folder: Path) -> None:
    """Writes a comparison as a W&B run; comparing the same runs again continues it.

    Args:
        settings: project and mode.
        view: content of the W&B run.
        folder: folder of W&B's own files.

    Raises:
        ConfigError: an unknown mode.
    """
    mode = _mode_here(settings)
    if mode is None:
        return
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    identity = hash_json(["compare", view.group, sorted(view.runs)], length=16)
    shown: dict[str, Any] = {}
    for name, (heading, *rows) in view.tables.items():
        shown[name] = wandb.Table(columns=list(heading), data=[list(row) for row in rows])
    for name, html in view.charts.items():
        shown[name] = wandb.Html(html, inject=False)
    with open_session(
        settings, mode, folder, identity=identity, name=view.name, group=view.group,
        job_type="compare", config={"runs": list(view.runs)},
    ) as session:  # fmt: skip
        session.log(shown)
        artifact = wandb.Artifact(f"comparison-{identity}", type="comparison")
        for file in view.files:
            artifact.add_file(str(file))
        session.log_artifact(artifact)


def tags_of(config: Mapping[str, Any]) -> list[str]:
    """Tags of a run: family, model, text encoder, conditioning, size and data, each once."""
    named = [(config["model"], "family"), (config["model"], "name")]
    named += [(config[part], "name") for part in ("text", "size", "data")]
    tags = [part[name] for part, name in named] + [config["conditioning"]]
    return list(dict.fromkeys(str(tag) for tag in tags if tag))


def study_of(config: Mapping[str, Any]) -> str | None:
    """The study that a cell belongs to; None where its configuration names none."""
    study = config.get("study")
    return study.get("name") if isinstance(study, Mapping) else None


def joined_curves(run: Run) -> list[dict[str, float]]:
    """Rows of the learning curves by images seen, training and validation losses joined."""
    rows: dict[int, dict[str, float]] = {}
    for name in CURVES:
        for row in warned_curves(run.path / name).numbers():
            rows.setdefault(int(row["images_seen"]), {}).update(row)
    return [rows[images] for images in sorted(rows)]


def score_summary(scores: RunScores) -> dict[str, float]:
    """Scores by their keys in scores.json, each with its interval and N."""
    summary: dict[str, float] = {}
    for key, score in scores.chosen.scores.items():
        summary |= {
            key: score.value,
            f"{key}/ci_low": score.ci_low,
            f"{key}/ci_high": score.ci_high,
            f"{key}/n": score.n,
        }
    return summary


def cost_summary(cost: Mapping[str, Any], prefix: str = "cost") -> dict[str, Any]:
    """Parameters, FLOPs, seconds and memory under ``cost/``."""
    summary: dict[str, Any] = {}
    for name, value in cost.items():
        key = f"{prefix}/{name}"
        if isinstance(value, Mapping):
            summary |= cost_summary(value, key)
        elif isinstance(value, (int, float, str)):
            summary[key] = value
    return summary


def samples_table(run: Run, scores: RunScores) -> Any:
    """Table of the first images of the scored set: prompt, seed, image and the grader's values."""
    import wandb

    folder = run.path / scores.chosen.samples
    if not scores.chosen.samples or not (folder / "set.json").exists():
        return None
    samples, values = SampleSet.load(folder).take(MOST_SAMPLES), load_values(folder)
    columns = {} if values is None else values.columns
    table = wandb.Table(columns=["caption", "seed", "image", *columns])
    for row, pixels in enumerate(samples.pixels.numpy()):
        graded = [float(column[row]) for column in columns.values()]
        image = wandb.Image(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        table.add_data(
            samples.captions[row],
            samples.seeds[row],
            image,
            *(None if np.isnan(value) else value for value in graded),
        )
    return table


def _mode_here(settings: Mapping[str, Any] | None) -> str | None:
    """W&B's mode in this process; None without a logger, when disabled, and on later ranks."""
    if settings is None or process_rank() != 0:
        return None
    mode = mode_of(settings)
    return None if mode == "disabled" else mode


@contextmanager
def _cell_session(
    settings: Mapping[str, Any], mode: str, run: Run, config: Mapping[str, Any]
) -> Iterator[Any]:
    """Opens the W&B run of a cell: id = the run's hash, group = the study."""
    with open_session(
        settings,
        mode,
        run.path,
        identity=run.identity,
        name=run.path.name,
        group=settings["group"] or study_of(config),
        job_type="train",
        tags=tags_of(config),
        config=config,
    ) as session:
        session.define_metric("images_seen")
        session.define_metric("*", step_metric="images_seen")
        yield session


def _publish(
    settings: Mapping[str, Any],
    mode: str,
    run: Run,
    config: Mapping[str, Any],
    log: Callable[[Any], None],
) -> None:
    """Logs in a session of its own; an error of W&B is a warning and stops nothing."""
    import wandb

    try:
        with _cell_session(settings, mode, run, config) as session:
            log(session)
    except wandb.errors.Error as error:
        warn(f"and lacks part of {run.path.name} ({error})")
    else:
        _set_last_logged(run, _last_image(run))


def _sender(session: Any) -> Track:
    """Function that sends rows as they are logged; their step is the image, to drop repeats."""
    return lambda row: session.log(row, step=int(row["images_seen"]))


def _log_curves(session: Any, run: Run) -> None:
    """Logs the rows that W&B does not have yet."""
    last = _last_logged(run)
    for row in joined_curves(run):
        if row["images_seen"] > last:
            session.log(row, step=int(row["images_seen"]))


def _last_image(run: Run) -> int:
    rows = joined_curves(run)
    return int(rows[-1]["images_seen"]) if rows else -1


def _last_logged(run: Run) -> int:
    """The image up to which the curves are in W&B's folders; -1 where none are."""
    path = run.path / PROGRESS_FILE
    if not path.exists():
        return -1
    try:
        found = read_json_object(path, "images_seen")["images_seen"]
        return found if isinstance(found, int) else -1
    except ContentError:  # what is sent twice, the server drops by its step
        return -1


def _set_last_logged(run: Run, images_seen: int) -> None:
    if images_seen > _last_logged(run):
        write_json(run.path / PROGRESS_FILE, {"images_seen": images_seen})
