"""A study: its cells, their progress, their estimated cost, and running one of them."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from t2ibench.core.errors import (
    ConfigError,
    ContentError,
    RunBusyError,
    T2IBenchError,
    named_line,
)
from t2ibench.core.launch import process_rank
from t2ibench.engine.context import Context
from t2ibench.engine.device import chosen_device
from t2ibench.engine.feasibility import check_scoring
from t2ibench.engine.identity import named_run, sampling_key
from t2ibench.engine.interrupt import Interrupted
from t2ibench.engine.load import LoadedRun
from t2ibench.engine.ranks import rank_processes
from t2ibench.engine.score import score_run
from t2ibench.engine.spec import RunSpec
from t2ibench.engine.train import check, held_run, train_run
from t2ibench.evaluation.results import RunScores, by_metric
from t2ibench.runs.folder import Run
from t2ibench.runs.ledger import Cell, Ledger, Progress
from t2ibench.training.preemption import requeue

Compose = Callable[[Sequence[str]], RunSpec]
"""Function from overrides of a command line to a specification."""


@dataclass(frozen=True)
class Planned:
    """A cell, its specification and its progress under the present configuration."""

    cell: Cell
    spec: RunSpec
    progress: Progress


def plan(
    cells: Sequence[Sequence[str]], swept: Sequence[str], compose: Compose, ledger: Ledger
) -> list[Planned]:
    """Plans a study: every cell checked, each run once; nothing is written.

    Args:
        cells: complete overrides of each cell.
        swept: keys in which they differ.
        compose: makes a cell's specification.
        ledger: ledger of the study.

    Raises:
        ConfigError: a cell's configuration is impossible, or two cells are one run.
    """
    found: dict[str, Planned] = {}
    for overrides in cells:
        label = " ".join(o for o in overrides if o.split("=", 1)[0] in swept)
        try:
            spec = compose(overrides)
            context = Context.of(spec)
            run = named_run(context)
            check(context)
            check_scoring(context)
        except T2IBenchError as error:
            raise ConfigError(f"cell {label}: {error}" if label else str(error)) from error
        cell = Cell(run.path.name, run.identity, tuple(overrides), label)
        if cell.run in found and found[cell.run].cell.label != label:
            raise ConfigError(
                f"the cells {found[cell.run].cell.label} and {label} are one run: they differ in "
                "nothing that changes training; sweep such keys with `t2ibench score`."
            )
        found[cell.run] = Planned(cell, spec, requested_progress(ledger, cell, spec))
    return list(found.values())


SCORED_OTHERWISE = "scored under another protocol"
"""Detail of a cell that is trained, and scored in another way than is asked for now."""


def requested_progress(ledger: Ledger, cell: Cell, spec: RunSpec) -> Progress:
    """Progress of a cell; one that is scored under another protocol is not finished."""
    progress = ledger.progress(cell)
    if progress.state != "finished":
        return progress
    status = Run(ledger.root / cell.run, cell.identity).status()
    if status.get("asked") == sampling_key(spec):
        return progress
    if "reason" in status:
        return replace(progress, state="failed", detail=status["reason"])
    return replace(progress, state="interrupted", detail=SCORED_OTHERWISE)


def to_do(planned: Iterable[Planned], retries: int) -> list[Planned]:
    """Cells that are neither finished nor given up."""
    return [
        p for p in planned if p.progress.state != "finished" and not given_up(p.progress, retries)
    ]


def given_up(progress: Progress, retries: int) -> bool:
    """True where a cell failed more often than it is retried."""
    return progress.state == "failed" and progress.failures > retries


# ---- running a cell ----


def train_and_score(spec: RunSpec) -> RunScores:
    """Trains, samples and scores one cell; steps that are done already are skipped."""
    loaded, scores = scored_cell(spec)
    if process_rank() == 0:
        sys.stdout.write(f"{loaded.run.path}\n")
    return scores


def scored_cell(spec: RunSpec) -> tuple[LoadedRun, RunScores]:
    """Run of one cell, trained and scored, with its scores.

    Raises:
        T2IBenchError: the cell is impossible, before any process is started, or has failed.
        Interrupted: a signal ended it; the same command resumes it.
    """
    trainer, context = spec.trainer, Context.of(spec)
    if process_rank() == 0:
        check(context)
        check_scoring(context)
    with rank_processes(trainer.devices, trainer.num_nodes, partial(worker_message, context)):
        context.device = chosen_device(trainer.accelerator, trainer.devices)  # this rank's
        with held_run(context) as run:
            loaded = train_run(context, run)
            return loaded, score_run(loaded)


def worker_message(context: Context) -> dict[str, object] | None:
    """Message with a cell's work for other processes; None where the cell is finished.

    A run whose status is damaged is not: training finds its state anew.
    """
    run = named_run(context)
    work: dict[str, object] = {"train": context.spec.config()}
    if not (run.path / "status.json").exists():
        return work
    try:
        return None if run.status().get("asked") == sampling_key(context.spec) else work
    except ContentError:
        return work


def run_cell(ledger: Ledger, cell: Cell, compose: Compose) -> None:
    """Runs one cell; an error is recorded in its run, so that the next cell can run."""
    run = Run(ledger.root / cell.run, cell.identity)
    before = ledger.progress(cell).failures
    try:
        train_or_requeue(compose(cell.overrides))
    except RunBusyError as error:
        sys.stderr.write(f"t2ibench train: {error}\n")
    except Exception as error:
        reason = str(error) if isinstance(error, T2IBenchError) else named_line(error)
        sys.stderr.write(f"t2ibench train: {cell.run}: {reason}\n")
        if ledger.progress(cell).failures == before:  # it failed before its run was made
            run.set_status("failed", reason=reason, failures=before + 1)
        if not isinstance(error, T2IBenchError):
            (run.path / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")


def train_or_requeue(spec: RunSpec) -> RunScores:
    """Trains and scores a cell; a submitit job that a signal ends is queued again."""
    try:
        return train_and_score(spec)
    except Interrupted as stop:
        if "SUBMITIT_EXECUTOR" in os.environ:
            requeue(stop.signal)
        raise


def register(spec: RunSpec, overrides: Sequence[str]) -> None:
    """Enters a cell that a sweeper has chosen into the study's ledger."""
    run = named_run(Context.of(spec))
    cell = Cell(run.path.name, run.identity, tuple(overrides), "")
    Ledger(spec.paths.runs_folder, spec.study.name).register([cell])


def objective_of(scores: RunScores, name: str) -> float:
    """Score of the chosen operating point that a sweeper optimises.

    Raises:
        ConfigError: no score has that name.
    """
    found = by_metric(scores.chosen.scores)
    if name not in found:
        raise ConfigError(f"study.objective={name} is no score; choose one of {', '.join(found)}.")
    return found[name].value


# ---- estimated cost ----


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a cell's training, without first stage and scoring.

    Attributes:
        images: images seen; None where unknown.
        flops: FLOPs; None where unknown.
        seconds: seconds, from finished runs; None where unknown.
    """

    images: float | None
    flops: float | None
    seconds: float | None


def estimates(planned: Sequence[Planned], root: Path) -> list[Estimate]:
    """Estimates from the budgets and from finished runs of the same model and size in ``root``.

    A run that is only to be scored again trains nothing.
    """
    rates = measured_rates(root)
    return [
        Estimate(0, 0, 0)
        if p.progress.detail == SCORED_OTHERWISE
        else estimate(p.spec, rates.get((p.spec.model.name, p.spec.size), {}))
        for p in planned
    ]


def estimate(spec: RunSpec, rates: dict[str, float]) -> Estimate:
    """Estimate of one cell, from the measured rates of its model."""
    unit, amount = spec.budget.unit, spec.budget.amount
    per_image, per_second = rates.get("flops_per_image"), rates.get("images_per_second")
    if unit == "seconds":
        images = amount * per_second if per_second else None
        return Estimate(images, images * per_image if images and per_image else None, amount)
    if unit == "flops":
        images = amount / per_image if per_image else None
    else:
        images = amount
    flops = images * per_image if images and per_image else None
    return Estimate(
        images,
        amount if unit == "flops" else flops,
        images / per_second if images and per_second else None,
    )


def measured_rates(root: Path) -> dict[tuple[str, str], dict[str, float]]:
    """Rates (FLOPs an image, images a second) of the latest trained run of each (model, size)."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for path in sorted(root.glob("*/status.json"), key=lambda p: p.stat().st_mtime):
        run = Run(path.parent, "")
        try:
            clock, config = run.status().get("clock", {}), run.config()
        except ContentError:  # an estimate does without it
            continue
        if not clock.get("images_seen") or not clock.get("seconds"):
            continue
        name = config["model"].get("name") if isinstance(config.get("model"), dict) else None
        if isinstance(name, str):
            found[name, str(config.get("size"))] = {
                "flops_per_image": clock["flops_per_image"],
                "images_per_second": clock["images_seen"] / clock["seconds"],
            }
    return found
