"""What a comparison lacks: runs that are failed, interrupted, unscored or were never started.

A mean over the seeds that came through says less than one over all that were asked for, so
holes are gathered with the runs, put to the rows they belong to, and said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from t2ibench.core.errors import RunError
from t2ibench.core.files import read_json
from t2ibench.report.folders import ReportRun, configuration_key, read_run

MISSING = "missing"
"""State of a cell that was asked for and has no run folder."""


@dataclass(frozen=True)
class Hole:
    """A run that has no scores.

    Attributes:
        name: of its folder.
        state: ``failed``, ``interrupted``, ``running``, ``trained`` (not scored), ``created`` or
            ``missing``.
        reason: first line of its error, or empty.
        config: its ``config.yaml``; empty where there is none.
    """

    name: str
    state: str
    reason: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> str:
        """Its training seed; ``?`` where it is unknown."""
        return str(self.config.get("seed", "?"))

    @property
    def model(self) -> str:
        """Its model's short name, or the folder's."""
        return str((self.config.get("model") or {}).get("name", self.name)).rsplit("/", 1)[-1]

    def belongs_to(self, run: ReportRun) -> bool:
        """Whether it differs from a scored run in nothing but the seed."""
        return bool(self.config) and configuration_key(self.config) == run.configuration_key

    @property
    def sentence(self) -> str:
        """``seed 2 failed: CUDA out of memory``."""
        said = {"trained": "is trained but not scored", "created": "has not begun"}
        state = said.get(self.state, f"is {self.state}" if self.state != "failed" else "failed")
        return f"seed {self.seed} {state}" + (f": {self.reason}" if self.reason else "")


def read_hole(path: str | Path) -> Hole | None:
    """An unscored run's folder as a hole; None for a folder that is no run of a model.

    First stages, too, are runs; they have no prompts and are never scored.

    Raises:
        RunError: a file of it cannot be read.
    """
    path = Path(path)
    config, status = path / "config.yaml", path / "status.json"
    if not config.exists():
        return None
    try:
        found = yaml.safe_load(config.read_text("utf-8"))
        told = read_json(status) if status.exists() else {"state": "created"}
    except (ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path} holds a file that cannot be read: {error}") from error
    if not isinstance(found, dict) or "name" not in (found.get("model") or {}):
        return None
    reason = str(told.get("reason") or "").strip()
    return Hole(path.name, told["state"], reason.split("\n", 1)[0], found)


def gather(paths: Iterable[str | Path]) -> tuple[list[ReportRun], list[Hole]]:
    """Scored runs and holes among run folders, and folders of run folders.

    Raises:
        RunError: a path does not exist, none is scored, or a file cannot be read.
    """
    folders: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise RunError(f"{path} does not exist; give run folders with scores.json.")
        inside = sorted(child for child in path.glob("*") if (child / "status.json").exists())
        inside += sorted(file.parent for file in path.glob("*/scores.json"))
        alone = (path / "scores.json").exists() or (path / "status.json").exists()
        for folder in [path] if alone else inside:
            folders[folder.resolve()] = folder
    runs = [read_run(folder) for folder in folders.values() if (folder / "scores.json").exists()]
    holes = [
        hole
        for folder in folders.values()
        if not (folder / "scores.json").exists() and (hole := read_hole(folder)) is not None
    ]
    if not runs:
        named = f" ({len(holes)} unscored: {_states(holes)})" if holes else ""
        raise RunError(
            f"no folder with scores.json among the arguments{named}; give scored run folders, "
            "for example t2ibench compare runs/*."
        )
    return runs, holes


def _states(holes: Sequence[Hole]) -> str:
    counts = {hole.state: 0 for hole in holes}
    for hole in holes:
        counts[hole.state] += 1
    return ", ".join(f"{count} {state}" for state, count in counts.items())
