"""Train one model or a study of many.

t2ibench train model=diffusion/fast_unet seed=0                   one run
t2ibench train model=diffusion/fast_unet,gan/fast_painter seed=0,1 study.name=first -m
t2ibench train …  -m --dry-run                                    what would run, and its cost
t2ibench train …  -m hydra/launcher=submitit_slurm hydra.launcher.partition=gpu
t2ibench train …  -m hydra/sweeper=optuna "seed=choice(0,1)" study.objective=clip_score
               hydra.sweeper.direction=maximize hydra.sweeper.n_trials=2   (extra: optuna)

The same command finds the same runs: finished cells are skipped, interrupted ones go on, failed
ones are tried again (study.retries times). `t2ibench status NAME` shows a study's progress.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2ibench.core.errors import ConfigError, RunError, T2IBenchError, named_line

if TYPE_CHECKING:
    from t2ibench.cli.grid import Grid
    from t2ibench.engine.study import Planned
    from t2ibench.runs.folder import Run
    from t2ibench.runs.ledger import Cell, Ledger

DRY_RUN = "--dry-run"
MANY = {"-m", "--multirun"}

POLL_SECONDS = 0.5
"""Interval at which a cell of another process is looked at."""


def run(arguments: Sequence[str]) -> int:
    """Trains the run or study that the overrides describe; a failed cell stops no others."""
    from t2ibench.engine.interrupt import Interrupted, interruptible
    from t2ibench.training.preemption import requeue

    try:
        with interruptible():  # from the first import on
            return dispatch(list(arguments))
    except Interrupted as stop:
        requeue(stop.signal)
        raise


def dispatch(words: list[str]) -> int:
    """Runs one run, a study, or Hydra's own commands."""
    from t2ibench.cli.compose import compose_spec, run_hydra
    from t2ibench.cli.grid import read_grid, without_params

    flags = {word for word in words if word.startswith("-")}
    if flags - {*MANY, DRY_RUN}:
        run_hydra(job, words)
        return 0
    overrides = [without_params(word) for word in words if word not in flags]
    grid, dry = read_grid(overrides), DRY_RUN in flags
    if (grid.many or flags & MANY) and grid.cells is None:
        if dry:
            raise ConfigError("a sweeper that chooses its cells as it goes has no dry run.")
        if grid.study.objective is None:
            raise ConfigError(
                "a sweeper that chooses its cells as it goes needs a score to go by; "
                "add study.objective=METRIC, for example clip_score."
            )
        run_hydra(job, [*overrides, "-m"])
        return 0
    assert grid.cells is not None, "a grid"
    if grid.many or flags & MANY or dry:
        return study(grid, dry)
    if len(grid.cells) > 1:
        raise ConfigError(
            f"{', '.join(grid.swept)} has several values, {len(grid.cells)} cells; add -m."
        )
    from t2ibench.engine.study import train_and_score

    train_and_score(compose_spec(overrides))
    return 0


# ---- a study ----


def study(grid: Grid, dry: bool) -> int:
    """Plans, registers and launches unfinished cells; prints the study's progress afterwards.

    Raises:
        ConfigError: a cell's configuration is impossible; nothing was launched.
        RunError: not every cell is finished.
    """
    from t2ibench.cli.compose import compose_spec
    from t2ibench.cli.verbs.status import plan_text
    from t2ibench.engine.study import estimates, plan, to_do
    from t2ibench.runs.ledger import Ledger

    assert grid.cells is not None, "a grid"
    ledger = Ledger(Path(grid.runs), grid.study.name)
    planned = plan(grid.cells, grid.swept, compose_spec, ledger)
    todo = to_do(planned, grid.study.retries)
    if dry:
        sys.stdout.write(plan_text(planned, todo, estimates(planned, ledger.root)))
        return 0
    ledger.register([p.cell for p in planned])
    if todo:
        launch(grid, ledger, [p.cell for p in todo])
    return conclude(ledger, planned, grid.study.retries)


SUBMITIT_OPTIONS = {
    "LocalLauncher": [],
    # Nothing is lost with a timeout: the job saves, is queued again and goes on.
    "SlurmLauncher": ["hydra.launcher.max_num_timeout=1000"],
}
"""Submitit's launchers, with options that are set unless the user sets them."""


def launch(grid: Grid, ledger: Ledger, cells: Sequence[Cell]) -> None:
    """Runs Hydra's launcher with jobs of ``study.cells_per_job`` cells each."""
    from t2ibench.cli.compose import run_hydra
    from t2ibench.cli.overrides import quoted

    size = grid.study.cells_per_job
    names = [f"'{cell.run}'" for cell in cells]
    packs = [names[start : start + size] for start in range(0, len(names), size)]
    chosen = ",".join(f"[{','.join(pack)}]" for pack in packs)
    words = ["-m", f"study.name={quoted(ledger.name)}", f"study.cells={chosen}"]
    words += [o for o in grid.fixed if not o.startswith("study.")]
    words += ["hydra.sweeper.params=null"]  # the cells have them
    if grid.launcher in SUBMITIT_OPTIONS:
        words += [
            f"hydra.launcher.submitit_folder={quoted(f'{ledger.jobs}/%j')}",
            *SUBMITIT_OPTIONS[grid.launcher],
        ]
        words += [f"hydra.launcher.name={quoted(ledger.name)}"]
    began = time.time()
    try:
        run_hydra(job, [*words, *grid.hydra])
    except T2IBenchError:
        raise
    except Exception as error:
        # A job that died takes the launcher with it, not the other jobs.
        sys.stderr.write(f"t2ibench train: a job died: {named_line(error)}\n")
        if grid.launcher in SUBMITIT_OPTIONS:
            wait_for_jobs(ledger.jobs, grid.launcher, began)


def wait_for_jobs(folder: Path, launcher: str, began: float) -> None:
    """Waits for the jobs that submitit has written into a folder since ``began``."""
    from submitit import LocalJob, SlurmJob

    kind = LocalJob if launcher == "LocalLauncher" else SlurmJob
    for path in folder.glob("*/*_submitted.pkl"):
        if path.stat().st_mtime >= began:
            kind(folder=path.parent, job_id=path.name.removesuffix("_submitted.pkl")).wait()


def conclude(ledger: Ledger, planned: Sequence[Planned], retries: int) -> int:
    """Prints the outcome of the cells, once those that another process works on are through.

    Raises:
        RunError: not all cells are finished.
    """
    from t2ibench.engine.study import given_up, requested_progress
    from t2ibench.runs.folder import Run
    from t2ibench.runs.ledger import summary

    for p in planned:
        wait_for_owner(Run(ledger.root / p.cell.run, p.cell.identity))
    found = [requested_progress(ledger, p.cell, p.spec) for p in planned]
    for p, progress in zip(planned, found, strict=True):
        if progress.state == "failed":
            sys.stderr.write(f"{p.cell.label or p.cell.run}: {progress.detail}\n")
    text = f"study {ledger.name}: {summary(found)}"
    unfinished = [progress for progress in found if progress.state != "finished"]
    if unfinished:
        remedy = "the same command goes on"
        if all(given_up(progress, retries) for progress in unfinished):
            remedy = "a larger study.retries tries them again"
        raise RunError(f"{text}; `t2ibench status {ledger.name}` shows them, {remedy}.")
    sys.stderr.write(f"{text}.\n")
    return 0


pause = time.sleep
"""Wait between two looks at a cell of another process."""


def wait_for_owner(run: Run) -> None:
    """Waits for a process that was started besides this one and works on a cell."""
    if run.lock.held():
        holder = run.lock.holder() or "another process"
        sys.stderr.write(f"waiting for {run.path.name}, which {holder} works on\n")
        while run.lock.held():
            pause(POLL_SECONDS)


# ---- a job ----


def job(config: Mapping[str, Any]) -> float | None:
    """Runs a launcher's job: cells of the ledger one after the other, or the configuration itself.

    Returns:
        The score that ``study.objective`` names, for sweepers that optimise it.
    """
    from hydra.core.hydra_config import HydraConfig

    from t2ibench.cli.compose import compose_spec
    from t2ibench.engine.spec import PathsSpec, RunSpec, StudySpec, checked
    from t2ibench.engine.study import objective_of, register, run_cell, train_or_requeue
    from t2ibench.runs.ledger import Ledger

    words = checked(StudySpec, config["study"], "study")
    if words.cells:
        ledger = Ledger(checked(PathsSpec, config["paths"], "paths").runs_folder, words.name)
        for name in words.cells:
            run_cell(ledger, ledger.cell(name), compose_spec)
        return None
    spec = RunSpec.read(config)
    if HydraConfig.initialized() and "MULTIRUN" in str(HydraConfig.get().mode):
        register(spec, HydraConfig.get().overrides.task)
    scores = train_or_requeue(spec)
    return None if words.objective is None else objective_of(scores, words.objective)
