"""A study: its cells, how far they are, what running them will take, and running one of them."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import yaml

from t2ibench.core.errors import ConfigError, RunBusyError, T2IBenchError
from t2ibench.core.files import read_json
from t2ibench.core.launch import process_rank
from t2ibench.engine.context import Context
from t2ibench.engine.identity import named_run, sampling_key
from t2ibench.engine.interrupt import Interrupted, outcome
from t2ibench.engine.ranks import ranks_of
from t2ibench.engine.score import score_run
from t2ibench.engine.spec import RunSpec
from t2ibench.engine.train import check, train
from t2ibench.evaluation.results import RunScores, by_metric
from t2ibench.runs.folder import Run
from t2ibench.runs.ledger import Cell, Ledger, Progress
from t2ibench.training.preemption import requeue

Compose = Callable[[Sequence[str]], RunSpec]
"""Overrides of a command line to a specification."""


@dataclass(frozen=True)
class Planned:
    """A cell, its specification and how far it is with all that is asked for now."""

    cell: Cell
    spec: RunSpec
    progress: Progress


def plan(
    cells: Sequence[Sequence[str]], swept: Sequence[str], compose: Compose, ledger: Ledger
) -> list[Planned]:
    """Every cell, checked, each run once; nothing is written.

    Args:
        cells: complete overrides of each.
        swept: the keys in which they differ.
        compose: makes a cell's specification.
        ledger: of the study.

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
        except T2IBenchError as error:
            raise ConfigError(f"cell {label}: {error}" if label else str(error)) from error
        cell = Cell(run.path.name, run.identity, tuple(overrides), label)
        if cell.run in found and found[cell.run].cell.label != label:
            raise ConfigError(
                f"the cells {found[cell.run].cell.label} and {label} are one run: they differ in "
                "nothing that changes training; sweep such keys with `t2ibench score`."
            )
        found[cell.run] = Planned(cell, spec, asked_progress(ledger, cell, spec))
    return list(found.values())


def asked_progress(ledger: Ledger, cell: Cell, spec: RunSpec) -> Progress:
    """How far a cell is; one that is scored under another protocol is not through."""
    progress = ledger.progress(cell)
    if progress.state != "finished":
        return progress
    status = Run(ledger.root / cell.run, cell.identity).status()
    if status.get("asked") == sampling_key(spec):
        return progress
    if "reason" in status:
        return replace(progress, state="failed", detail=status["reason"])
    return replace(progress, state="interrupted", detail="scored under another protocol")


def to_do(planned: Iterable[Planned], retries: int) -> list[Planned]:
    """The cells that are neither finished nor given up."""
    return [
        p for p in planned if p.progress.state != "finished" and not given_up(p.progress, retries)
    ]


def given_up(progress: Progress, retries: int) -> bool:
    """Whether a cell failed more often than it is retried."""
    return progress.state == "failed" and progress.failures > retries


# ---- running a cell ----


def train_and_score(spec: RunSpec) -> RunScores:
    """One cell: train, sample, score; each part is skipped where it is already done."""
    trainer = spec.trainer
    with ranks_of(trainer.devices, trainer.num_nodes, partial(work_of, spec)):
        loaded = train(Context.of(spec))
        with loaded.run.locked(), outcome(loaded.run):
            scores = score_run(loaded)
    if process_rank() == 0:
        sys.stdout.write(f"{loaded.run.path}\n")
    return scores


def work_of(spec: RunSpec) -> dict[str, object] | None:
    """What other processes of a cell are told; None where it is finished.

    Raises:
        ConfigError: the cell is impossible, before any process is started.
    """
    context = Context.of(spec)
    run = named_run(context)
    check(context)
    if (run.path / "status.json").exists() and run.status().get("asked") == sampling_key(spec):
        return None
    return {"train": spec.config()}


def run_cell(ledger: Ledger, cell: Cell, compose: Compose) -> None:
    """One cell; what goes wrong is written into its run, and the next cell's turn comes."""
    run = Run(ledger.root / cell.run, cell.identity)
    before = ledger.progress(cell).failures
    try:
        requeued(compose(cell.overrides))
    except RunBusyError as error:
        sys.stderr.write(f"t2ibench train: {error}\n")
    except Exception as error:
        reason = str(error) if isinstance(error, T2IBenchError) else first_line(error)
        sys.stderr.write(f"t2ibench train: {cell.run}: {reason}\n")
        if ledger.progress(cell).failures == before:  # it failed before its run was made
            run.set_status("failed", reason=reason, failures=before + 1)
        if not isinstance(error, T2IBenchError):
            (run.path / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")


def requeued(spec: RunSpec) -> RunScores:
    """``train_and_score``; a job of submitit that a signal ends is queued again."""
    try:
        return train_and_score(spec)
    except Interrupted as stop:
        if "SUBMITIT_EXECUTOR" in os.environ:
            requeue(stop.signal)
        raise


def register(spec: RunSpec, overrides: Sequence[str]) -> None:
    """Enters a cell that a sweeper has just thought of into the study's ledger."""
    run = named_run(Context.of(spec))
    cell = Cell(run.path.name, run.identity, tuple(overrides), "")
    Ledger(spec.paths.runs_folder, spec.study.name).register([cell])


def objective_of(scores: RunScores, name: str) -> float:
    """The score of the chosen operating point that a sweeper goes by.

    Raises:
        ConfigError: there is no score of that name.
    """
    found = by_metric(scores.chosen.scores)
    if name not in found:
        raise ConfigError(f"study.objective={name} is no score; choose one of {', '.join(found)}.")
    return found[name].value


def first_line(error: BaseException) -> str:
    """``RuntimeError: what it says`` without the lines after the first."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


# ---- what it will take ----


@dataclass(frozen=True)
class Estimate:
    """What a cell's training takes, first stage and scoring not included.

    Attributes:
        images: None where it is not known.
        flops: likewise.
        seconds: likewise, from finished runs.
    """

    images: float | None
    flops: float | None
    seconds: float | None


def estimates(planned: Sequence[Planned], root: Path) -> list[Estimate]:
    """From the budgets, and from the finished runs of the same model and size in ``root``."""
    rates = measured_rates(root)
    return [estimate(p.spec, rates.get((p.spec.model.name, p.spec.size), {})) for p in planned]


def estimate(spec: RunSpec, rates: dict[str, float]) -> Estimate:
    """One cell's, with what is known of its model."""
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
    """(model, size) -> FLOPs an image and images a second of the latest trained run there."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for path in sorted(root.glob("*/status.json"), key=lambda p: p.stat().st_mtime):
        clock = read_json(path).get("clock")
        if not clock or not clock["images_seen"] or not clock["seconds"]:
            continue
        config = yaml.safe_load((path.parent / "config.yaml").read_text(encoding="utf-8"))
        if isinstance(config, dict) and "model" in config:
            found[config["model"]["name"], config["size"]] = {
                "flops_per_image": clock["flops_per_image"],
                "images_per_second": clock["images_seen"] / clock["seconds"],
            }
    return found
