"""Train one model or a study of many.

t2ibench train model=diffusion/ldm seed=0                         one run
t2ibench train model=diffusion/ldm,gan/gan_int_cls seed=0,1 study.name=first -m
t2ibench train …  -m --dry-run                                    what would run, and its cost
t2ibench train …  -m hydra/launcher=submitit_slurm hydra.launcher.partition=gpu
t2ibench train …  -m hydra/sweeper=optuna "seed=choice(0,1)" study.objective=clip_score
               hydra.sweeper.direction=maximize hydra.sweeper.n_trials=2   (extra: optuna)

The same command finds the same runs: finished cells are skipped, interrupted ones go on, failed
ones are tried again (study.retries times). `t2ibench status NAME` shows how far a study is.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from t2ibench.core.errors import ConfigError, RunBusyError, RunError, T2IBenchError

if TYPE_CHECKING:
    from t2ibench.cli.study import Planned, Typed
    from t2ibench.evaluation.results import RunScores
    from t2ibench.runs.ledger import Cell, Ledger

DRY_RUN = "--dry-run"
MANY = {"-m", "--multirun"}


def run(arguments: Sequence[str]) -> int:
    """Trains what the overrides say; a failed cell does not stop the others."""
    from t2ibench.cli.interrupt import Interrupted, interruptible
    from t2ibench.training.preemption import requeue

    try:
        with interruptible():  # from the first import on
            return dispatched(list(arguments))
    except Interrupted as stop:
        requeue(stop.signal)
        raise


def dispatched(words: list[str]) -> int:
    """One run, a study, or whatever Hydra itself is asked for."""
    from t2ibench.cli.compose import compose_config, run_hydra
    from t2ibench.cli.study import read_typed, without_params

    flags = {word for word in words if word.startswith("-")}
    if flags - {*MANY, DRY_RUN}:
        run_hydra(job, words)
        return 0
    overrides = [without_params(word) for word in words if word not in flags]
    typed, dry = read_typed(overrides), DRY_RUN in flags
    if (typed.many or flags & MANY) and typed.cells is None:
        if dry:
            raise ConfigError("a sweeper that chooses its cells as it goes has no dry run.")
        if typed.cfg.study.objective is None:
            raise ConfigError(
                "a sweeper that chooses its cells as it goes needs a score to go by; "
                "add study.objective=METRIC, for example clip_score."
            )
        run_hydra(job, [*overrides, "-m"])
        return 0
    assert typed.cells is not None, "a grid"
    if typed.many or flags & MANY or dry:
        return study(typed, dry)
    if len(typed.cells) > 1:
        raise ConfigError(
            f"{', '.join(typed.swept)} has several values, {len(typed.cells)} cells; add -m."
        )
    train_and_score(compose_config(overrides))
    return 0


# ---- a study ----


def study(typed: Typed, dry: bool) -> int:
    """Plans, registers and launches what is not finished; tells how far the study is then.

    Raises:
        ConfigError: a cell's configuration is impossible; nothing was launched.
        RunError: not every cell is finished.
    """
    from t2ibench.cli.status import plan_text
    from t2ibench.cli.study import estimates, plan, to_do
    from t2ibench.runs.ledger import Ledger

    cfg, root = typed.cfg, Path(typed.cfg.paths.runs)
    ledger = Ledger(root, cfg.study.name)
    planned = plan(typed, ledger)
    todo = to_do(planned, cfg.study.retries)
    if dry:
        sys.stdout.write(plan_text(planned, todo, estimates(planned, root)))
        return 0
    ledger.register([p.cell for p in planned])
    if todo:
        launch(typed, ledger, [p.cell for p in todo])
    return conclude(ledger, planned, cfg.study.retries)


QUEUED = {
    "LocalLauncher": [],
    # Nothing is lost with a timeout: the job saves, is queued again and goes on.
    "SlurmLauncher": ["hydra.launcher.max_num_timeout=1000"],
}
"""submitit's launchers, and what is set for them unless the user sets it."""


def launch(typed: Typed, ledger: Ledger, cells: Sequence[Cell]) -> None:
    """Has Hydra's launcher run jobs of ``study.cells_per_job`` cells each."""
    from t2ibench.cli.compose import run_hydra

    size = int(typed.cfg.study.cells_per_job)
    names = [f"'{cell.run}'" for cell in cells]
    packs = [names[start : start + size] for start in range(0, len(names), size)]
    chosen = ",".join(f"[{','.join(pack)}]" for pack in packs)
    words = ["-m", f"study.name={ledger.name}", f"study.cells={chosen}"]
    words += [o for o in typed.fixed if not o.startswith("study.")]
    words += ["hydra.sweeper.params=null"]  # the cells have them
    if typed.launcher in QUEUED:
        words += [f"hydra.launcher.submitit_folder={ledger.jobs}/%j", *QUEUED[typed.launcher]]
        words += [f"hydra.launcher.name={ledger.name}"]
    began = time.time()
    try:
        run_hydra(job, [*words, *typed.hydra])
    except T2IBenchError:
        raise
    except Exception as error:
        # A job that died takes the launcher with it, not the other jobs.
        sys.stderr.write(f"t2ibench train: a job died: {first_line(error)}\n")
        if typed.launcher in QUEUED:
            wait_for_jobs(ledger.jobs, typed.launcher, began)


def wait_for_jobs(folder: Path, launcher: str, began: float) -> None:
    """Until the jobs that submitit has written into a folder since then have ended."""
    from submitit import LocalJob, SlurmJob

    kind = LocalJob if launcher == "LocalLauncher" else SlurmJob
    for path in folder.glob("*/*_submitted.pkl"):
        if path.stat().st_mtime >= began:
            kind(folder=path.parent, job_id=path.name.removesuffix("_submitted.pkl")).wait()


def conclude(ledger: Ledger, planned: Sequence[Planned], retries: int) -> int:
    """Says what became of the cells.

    Raises:
        RunError: not all are finished.
    """
    from t2ibench.cli.study import asked_progress, given_up
    from t2ibench.runs.ledger import summary

    found = [asked_progress(ledger, p.cell, p.cfg) for p in planned]
    for p, progress in zip(planned, found, strict=True):
        if progress.state == "failed":
            sys.stderr.write(f"{p.cell.label or p.cell.run}: {progress.detail}\n")
    told = f"study {ledger.name}: {summary(found)}"
    unfinished = [progress for progress in found if progress.state != "finished"]
    if unfinished:
        remedy = "the same command goes on"
        if all(given_up(progress, retries) for progress in unfinished):
            remedy = "a larger study.retries tries them again"
        raise RunError(f"{told}; `t2ibench status {ledger.name}` shows them, {remedy}.")
    sys.stderr.write(f"{told}.\n")
    return 0


# ---- a job ----


def job(cfg: DictConfig) -> float | None:
    """What a launcher runs: cells of the ledger one after the other, or the configuration itself.

    Returns:
        The score that ``study.objective`` names, for sweepers that optimise it.
    """
    from t2ibench.runs.ledger import Ledger

    if cfg.study.cells:
        ledger = Ledger(Path(cfg.paths.runs), cfg.study.name)
        for name in cfg.study.cells:
            run_cell(ledger, ledger.cell(name))
        return None
    register_this(cfg)
    scores = requeued(cfg)
    return None if cfg.study.objective is None else objective_of(scores, cfg.study.objective)


def objective_of(scores: RunScores, name: str) -> float:
    """The score of the chosen operating point that a sweeper goes by.

    Raises:
        ConfigError: there is no score of that name.
    """
    from t2ibench.evaluation.results import by_metric

    found = by_metric(scores.chosen.scores)
    if name not in found:
        raise ConfigError(f"study.objective={name} is no score; choose one of {', '.join(found)}.")
    return found[name].value


def run_cell(ledger: Ledger, cell: Cell) -> None:
    """One cell; what goes wrong is written into its run, and the next cell's turn comes."""
    from t2ibench.cli.compose import compose_config
    from t2ibench.runs.folder import Run

    run = Run(ledger.root / cell.run, cell.identity)
    before = ledger.progress(cell).failures
    try:
        requeued(compose_config(cell.overrides))
    except RunBusyError as error:
        sys.stderr.write(f"t2ibench train: {error}\n")
    except Exception as error:
        reason = str(error) if isinstance(error, T2IBenchError) else first_line(error)
        sys.stderr.write(f"t2ibench train: {cell.run}: {reason}\n")
        if ledger.progress(cell).failures == before:  # it failed before its run was made
            run.set_status("failed", reason=reason, failures=before + 1)
        if not isinstance(error, T2IBenchError):
            (run.path / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")


def requeued(cfg: DictConfig) -> RunScores:
    """``train_and_score``; a job of submitit that a signal ends is queued again."""
    from t2ibench.cli.interrupt import Interrupted
    from t2ibench.training.preemption import requeue

    try:
        return train_and_score(cfg)
    except Interrupted as stop:
        if "SUBMITIT_EXECUTOR" in os.environ:
            requeue(stop.signal)
        raise


def register_this(cfg: DictConfig) -> None:
    """Enters a cell that a sweeper has just thought of into the ledger."""
    from hydra.core.hydra_config import HydraConfig

    from t2ibench.cli.pipeline import named_run
    from t2ibench.runs.ledger import Cell, Ledger

    if HydraConfig.initialized() and "MULTIRUN" in str(HydraConfig.get().mode):
        run, typed = named_run(cfg), tuple(HydraConfig.get().overrides.task)
        cell = Cell(run.path.name, run.identity, typed, "")
        Ledger(Path(cfg.paths.runs), cfg.study.name).register([cell])


def first_line(error: BaseException) -> str:
    """``RuntimeError: what it says`` without the lines after the first."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def work_of(cfg: DictConfig) -> dict[str, str] | None:
    """What other processes of a cell are told; None where it is finished.

    Raises:
        ConfigError: the cell is impossible, before any process is started.
    """
    from t2ibench.cli.compose import to_yaml
    from t2ibench.cli.pipeline import check_run, named_run
    from t2ibench.cli.score_run import asked_of

    run = named_run(cfg)
    check_run(cfg)
    if (run.path / "status.json").exists() and run.status().get("asked") == asked_of(cfg):
        return None
    return {"train": to_yaml(cfg)}


def train_and_score(cfg: DictConfig) -> RunScores:
    """One cell: train, sample, score; each part is skipped where it is already done."""
    from t2ibench.cli.interrupt import outcome
    from t2ibench.cli.pipeline import train_run
    from t2ibench.cli.ranks import ranks_of
    from t2ibench.cli.score_run import score_run
    from t2ibench.core.launch import process_rank

    with ranks_of(cfg.trainer.devices, cfg.trainer.num_nodes, partial(work_of, cfg)):
        trained = train_run(cfg)
        with trained.run.locked(), outcome(trained.run):
            scores = score_run(trained, cfg)
    if process_rank() == 0:
        sys.stdout.write(f"{trained.run.path}\n")
    return scores
