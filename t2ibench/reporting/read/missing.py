"""Missing runs: asked for, but failed, interrupted, unscored or never started.

A mean over the seeds that came through says less than one over all that were asked for, so
missing runs are gathered with the scored ones, put to the rows they belong to, and said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2ibench.core.errors import printable
from t2ibench.reporting.read.runs import ScoredRun, identifying, read_content, read_precision
from t2ibench.runs.folder import Run

ABSENT = "missing"
"""State of a run that was asked for and has no folder."""

STATE_TEXTS = {
    "failed": "failed",
    "trained": "is trained but not scored",
    "created": "has not begun",
}


@dataclass(frozen=True)
class MissingRun:
    """A run without scores.

    Attributes:
        name: of its folder.
        state: ``failed``, ``interrupted``, ``running``, ``trained`` (not scored), ``created`` or
            ``missing``.
        reason: first line of its error, or empty.
        config: its ``config.yaml``; empty where there is none.
        precision: of its training; empty where it is unknown.
        content: of its data and frozen networks, by dotted key; empty where it is unknown.
    """

    name: str
    state: str
    reason: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    precision: str = ""
    content: dict[str, str] = field(default_factory=dict)

    @property
    def seed(self) -> str:
        """Its training seed; ``?`` where it is unknown."""
        return str(self.config.get("seed", "?"))

    @property
    def model(self) -> str:
        """Its model's short name, or the folder's."""
        return str((self.config.get("model") or {}).get("name", self.name)).rsplit("/", 1)[-1]

    def belongs_to(self, run: ScoredRun) -> bool:
        """Whether it differs from a scored run in nothing that is known but the seed."""
        known = {self.precision, run.precision} - {""}
        told = bool(self.content and run.content)
        own, theirs = (identifying(one.config, one.content if told else {}) for one in (self, run))
        return bool(self.config) and own == theirs and len(known) < 2

    @property
    def sentence(self) -> str:
        """``seed 2 failed: CUDA out of memory``."""
        state = STATE_TEXTS.get(self.state, f"is {self.state}")
        return f"seed {self.seed} {state}" + (f": {self.reason}" if self.reason else "")


def read_missing(path: str | Path) -> MissingRun | None:
    """Reads an unscored run's folder; None for a folder that is no run of a model.

    First stages, too, are runs; they have no prompts and are never scored.

    Raises:
        ContentError: a file of it cannot be read.
    """
    path = Path(path)
    run = Run(path, "")
    if not (path / "config.yaml").exists():
        return None
    found = run.config()
    begun = (path / "status.json").exists()
    progress: dict[str, Any] = run.status() if begun else {"state": "created"}
    if not isinstance(found.get("model"), Mapping) or "name" not in found["model"]:
        return None
    reason = str(progress.get("reason") or "").strip()
    state, reason = str(progress["state"]), printable(reason.split("\n", 1)[0])
    precision, content = read_precision(path, found), read_content(path)
    return MissingRun(path.name, state, reason, found, precision, content)
