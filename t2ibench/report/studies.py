"""A study as its ledger tells it: which cells were asked for, so which of them are lacking.

The ledger is ``<paths.runs>/studies/<name>/``, one JSON file a cell with the name of its run
folder (``run``) and the overrides that make it (``overrides``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2ibench.core.errors import RunError
from t2ibench.core.files import read_json
from t2ibench.report.folders import ReportRun
from t2ibench.report.holes import MISSING, Hole, gather, read_hole


@dataclass(frozen=True)
class Cell:
    """One cell of a study.

    Attributes:
        run: its folder's name; empty where it has none yet.
        overrides: what was typed for it, ``seed=1`` among it.
    """

    run: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A study's cells.

    Attributes:
        name: of the study.
        root: folder of all runs.
        cells: as the ledger holds them.
    """

    name: str
    root: Path
    cells: tuple[Cell, ...]

    def gather(self) -> tuple[list[ReportRun], list[Hole]]:
        """Scored runs and holes, cells that never became a run among them.

        Raises:
            RunError: no cell is scored, or a file cannot be read.
        """
        made = [self.root / cell.run for cell in self.cells if self._exists(cell)]
        if not any((path / "scores.json").exists() for path in made):
            raise RunError(
                f"no cell of study {self.name} is scored ({len(made)} of {len(self.cells)} are "
                f"begun); see `t2ibench status {self.name}`."
            )
        runs, holes = gather(made)
        return runs, holes + [self._missing(c) for c in self.cells if not self._exists(c)]

    def _exists(self, cell: Cell) -> bool:
        return bool(cell.run) and (self.root / cell.run / "config.yaml").exists()

    def _missing(self, cell: Cell) -> Hole:
        """A cell without a run, with the configuration of one that differs in its seed alone."""
        name = cell.run or " ".join(cell.overrides)
        for twin in self.cells:
            alike = cell.overrides and _without_seed(twin) == _without_seed(cell)
            found = read_hole(self.root / twin.run) if alike and self._exists(twin) else None
            if found is not None:
                config = found.config | {"seed": _seed(cell)}
                return replace(found, name=name, state=MISSING, reason="", config=config)
        return Hole(name, MISSING)


def read_study(root: str | Path, name: str) -> Study:
    """Reads a study's ledger.

    Raises:
        RunError: there is no such study, or a cell's file cannot be read.
    """
    root = Path(root)
    folder = root / "studies" / name
    files = sorted(folder.glob("*.json"))
    cells = [cell for file in files if (cell := _read_cell(file)) is not None]
    if not cells:
        known = sorted(p.name for p in (root / "studies").glob("*") if p.is_dir())
        raise RunError(
            f"there is no study {name} in {root} (its ledger {folder} has no cells); "
            + (f"the studies are {', '.join(known)}." if known else "no study was run there.")
        )
    return Study(name, root, tuple(cells))


def sweep_definition(study: Study, project: str) -> dict[str, Any] | None:
    """The study as a W&B sweep (``wandb sweep sweep.yaml``, then ``wandb agent``).

    A grid over the overrides that differ between cells; each agent types ``t2ibench train`` with
    one combination, so its run is the cell's run: finished ones are skipped. ``logger=wandb`` is
    added, without which the sweep would see nothing.

    Returns:
        None where the cells are no full grid, which W&B's sweeps cannot list.
    """
    told = [dict(_parted(o) for o in cell.overrides) for cell in study.cells]
    names = list(dict.fromkeys(name for cell in told for name in cell))
    values = {n: list(dict.fromkeys(cell[n] for cell in told if n in cell)) for n in names}
    complete = all(set(cell) == set(names) for cell in told)
    combinations = {tuple(cell.get(name) for name in names) for cell in told}
    count = 1
    for name in names:
        count *= len(values[name])
    if not names or not complete or len(combinations) != count:
        return None
    fixed = {name: values[name][0] for name in names if len(values[name]) == 1}
    fixed.setdefault("logger", "wandb")
    return {
        "name": study.name,
        "project": project,
        "method": "grid",
        "program": "t2ibench",
        "command": [
            "t2ibench",
            "train",
            *(f"{name}={value}" for name, value in fixed.items()),
            "${args_no_hyphens}",
        ],
        "parameters": {name: {"values": values[name]} for name in names if name not in fixed},
    }


def _read_cell(file: Path) -> Cell | None:
    try:
        told = read_json(file)
    except ValueError as error:
        raise RunError(
            f"{file} is not JSON ({error}); remove it and run the study again."
        ) from None
    if not isinstance(told, dict) or "run" not in told:
        return None
    return Cell(str(told["run"] or ""), tuple(map(str, told.get("overrides") or ())))


def _seed(cell: Cell) -> str:
    """The seed a cell was asked for; ``?`` where it was not named."""
    told = [o.removeprefix("seed=") for o in cell.overrides if o.startswith("seed=")]
    return told[-1] if told else "?"


def _without_seed(cell: Cell) -> frozenset[str]:
    """Equal for the cells of one row."""
    return frozenset(o for o in cell.overrides if not o.startswith("seed="))


def _parted(override: str) -> tuple[str, str]:
    name, _, value = override.partition("=")
    return name, value
