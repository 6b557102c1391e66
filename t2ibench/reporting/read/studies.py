"""A study as its ledger tells it: which runs were asked for, so which of them are missing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from t2ibench.core.errors import RunError
from t2ibench.reporting.read.gather import gather
from t2ibench.reporting.read.missing import ABSENT, MissingRun, read_missing
from t2ibench.reporting.read.runs import ScoredRun
from t2ibench.runs.ledger import Ledger


@dataclass(frozen=True)
class PlannedRun:
    """A run that a study asks for.

    Attributes:
        name: its folder's.
        overrides: what was typed for it, ``seed=1`` among it.
    """

    name: str
    overrides: tuple[str, ...]

    @property
    def seed(self) -> str:
        """The training seed that was asked for; ``?`` where it was not named."""
        named = [o.removeprefix("seed=") for o in self.overrides if o.startswith("seed=")]
        return named[-1] if named else "?"

    @property
    def without_seed(self) -> frozenset[str]:
        """The overrides that the runs of one row share."""
        return frozenset(o for o in self.overrides if not o.startswith("seed="))


@dataclass(frozen=True)
class Study:
    """The runs that a study asks for.

    Attributes:
        name: of the study.
        root: folder of all runs.
        planned: as the ledger holds them.
    """

    name: str
    root: Path
    planned: tuple[PlannedRun, ...]

    def gather(self, protocol: str = "") -> tuple[list[ScoredRun], list[MissingRun]]:
        """Reads scored and missing runs, those that never became a folder among them.

        Args:
            protocol: see ``read.gather``.

        Raises:
            RunError: no run is scored, or a file cannot be read.
        """
        begun = [self.root / run.name for run in self.planned if self._begun(run)]
        if not any((path / "scores.json").exists() for path in begun):
            raise RunError(
                f"no run of study {self.name} is scored ({len(begun)} of {len(self.planned)} are "
                f"begun); see `t2ibench status {self.name}`."
            )
        scored, missing = gather(begun, protocol)
        return scored, missing + [self._absent(r) for r in self.planned if not self._begun(r)]

    def _begun(self, run: PlannedRun) -> bool:
        return (self.root / run.name / "config.yaml").exists()

    def _absent(self, run: PlannedRun) -> MissingRun:
        """A run without a folder, with the configuration of one that differs in its seed alone."""
        for other in self.planned:
            if other.without_seed == run.without_seed and self._begun(other):
                found = read_missing(self.root / other.name)
                if found is not None:
                    config = found.config | {"seed": run.seed}
                    return replace(found, name=run.name, state=ABSENT, reason="", config=config)
        return MissingRun(run.name, ABSENT)


def read_study(root: str | Path, name: str) -> Study:
    """Reads a study's ledger.

    Raises:
        RunError: there is no such study, it is empty, or a file of it cannot be read.
    """
    ledger = Ledger(Path(root), name)
    try:
        cells = ledger.cells()
    except (ValueError, KeyError) as error:
        raise RunError(
            f"{ledger.folder} holds a file that cannot be read ({error}); remove it and launch "
            "the study again."
        ) from error
    if not cells:
        raise RunError(f"{ledger.folder} names no run; launch the study again.")
    planned = tuple(PlannedRun(cell.run, cell.overrides) for cell in cells)
    return Study(name, ledger.root, planned)
