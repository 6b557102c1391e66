"""Cells of a study and the progress of each.

A study is a named set of cells, each a run. Its ledger is a folder with a small file a cell,
written before the cell is launched; how far a cell is stands in its run folder alone.

    studies/NAME/CELL.json    run folder, identity, overrides
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from t2ibench.core.errors import ContentError, RunError
from t2ibench.core.files import read_json_object, write_json
from t2ibench.runs.curves import read_curves
from t2ibench.runs.folder import Run

log = logging.getLogger(__name__)

FOLDER = "studies"

CellState = Literal["finished", "running", "interrupted", "failed", "missing"]


@dataclass(frozen=True)
class Cell:
    """A run of a study.

    Attributes:
        run: name of its folder, beside the folder of studies.
        identity: the run's.
        overrides: what makes its configuration, complete.
        label: those in which the study's cells differ; empty where only the ledger can tell.
    """

    run: str
    identity: str
    overrides: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Progress:
    """Progress of a cell.

    Attributes:
        state: ``running`` if a living process holds its run; ``interrupted`` if it was begun and
            nobody holds it; ``missing`` if it was never begun.
        failures: how often it failed.
        detail: the first line of the last failure's reason, or who works on it.
        spent: of its training: ``images_seen``, ``flops`` and ``seconds``, as far as logged.
    """

    state: CellState
    failures: int = 0
    detail: str = ""
    spent: Mapping[str, float] | None = None


def progress_of(run: Run) -> Progress:
    """Progress of a run, read from its folder; a damaged status is that of an interrupted run.

    The same command goes on with such a run.
    """
    if not (run.path / "status.json").exists():
        return Progress("missing")
    spent = spent_by(run.path)
    try:
        status = run.status()
    except ContentError as error:
        return Progress("interrupted", 0, str(error), spent)
    failures = int(status.get("failures", 0))
    if run.lock.held():
        owner = run.lock.holder() or "another machine"
        return Progress("running", failures, f"on {owner}", spent)
    if status["state"] == "finished":
        return Progress("finished", failures, "", spent)
    if status["state"] == "failed":
        reason = str(status.get("reason", "")).strip() or "no reason told"
        return Progress("failed", failures, reason.splitlines()[0], spent)
    if status["state"] == "created":
        return Progress("missing", failures)
    return Progress("interrupted", failures, "", spent)


def spent_by(folder: Path) -> dict[str, float] | None:
    """The last whole row of the learning curves; None before the first."""
    rows = read_curves(folder / "metrics.csv").numbers()
    names = ("images_seen", "flops", "seconds")
    if not rows or not rows[-1].keys() >= set(names):
        return None
    return {name: rows[-1][name] for name in names}


@dataclass(frozen=True)
class Ledger:
    """The cells of one study.

    Attributes:
        root: the folder of runs.
        name: the study's.
    """

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return self.root / FOLDER / self.name

    @property
    def jobs(self) -> Path:
        """Folder in which launchers keep logs and scripts of jobs."""
        return self.folder / "jobs"

    def register(self, cells: Sequence[Cell]) -> None:
        """Adds cells; of those that are there already, what was asked for last counts.

        A run's identity leaves open how it is scored and on which devices it is trained.
        """
        for cell in cells:
            path = self.folder / f"{cell.run}.json"
            known = self._known(path)
            facts = asdict(cell) | {"overrides": list(cell.overrides)}
            facts["label"] = cell.label or known.get("label", "")
            if known != known | facts:
                write_json(path, known | facts)

    def _known(self, path: Path) -> dict[str, Any]:
        """The entry of a cell, or a new one."""
        try:
            if path.exists():
                return read_json_object(path)
        except ContentError as error:
            log.warning("%s It is registered anew.", error)
        return {"registered": time.time()}

    def cells(self) -> list[Cell]:
        """All cells, in the order of their names, each with a label.

        Raises:
            RunError: there is no such study.
            ContentError: the file of a cell holds none.
        """
        if not self.folder.is_dir():
            known = ", ".join(studies(self.root)) or "none"
            raise RunError(
                f"{self.root} has no study {self.name} (it has: {known}); "
                "`t2ibench train … -m study.name=NAME` makes one."
            )
        return labelled([self.cell(path.stem) for path in sorted(self.folder.glob("*.json"))])

    def cell(self, run: str) -> Cell:
        """One cell by the name of its run."""
        path = self.folder / f"{run}.json"
        names = ("run", "identity", "overrides", "label")
        remedy = "the command that launched the study, typed again, writes it anew"
        facts = read_json_object(path, *names, remedy=remedy)
        typed = facts["overrides"]
        texts = [facts["run"], facts["identity"], facts["label"]]
        texts += typed if isinstance(typed, list) else [None]
        if not all(isinstance(text, str) for text in texts) or facts["run"] != run:
            raise ContentError(f"{path} does not name the run {run} and its overrides; {remedy}.")
        return Cell(run, facts["identity"], tuple(typed), facts["label"])

    def progress(self, cell: Cell) -> Progress:
        """Progress of a cell."""
        return progress_of(Run(self.root / cell.run, cell.identity))


def labelled(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, those without a label under what not every cell has."""
    shared = set.intersection(*(set(cell.overrides) for cell in cells)) if cells else set()
    return [
        replace(cell, label=cell.label or " ".join(o for o in cell.overrides if o not in shared))
        for cell in cells
    ]


def studies(root: Path) -> list[str]:
    """The names of all studies in a folder of runs."""
    return sorted(path.name for path in (root / FOLDER).glob("*") if path.is_dir())


def summary(found: Sequence[Progress]) -> str:
    """Counts of states in words: ``6 finished, 1 failed``."""
    counts = Counter(progress.state for progress in found)
    states = get_args(CellState)
    return ", ".join(f"{counts[state]} {state}" for state in states if counts[state]) or "no cells"
