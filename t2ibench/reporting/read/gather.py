"""All runs under the folders that a user names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from t2ibench.core.errors import RunError
from t2ibench.reporting.read.missing import MissingRun, read_missing
from t2ibench.reporting.read.runs import ScoredRun, read_run


def gather(paths: Iterable[str | Path]) -> tuple[list[ScoredRun], list[MissingRun]]:
    """Reads scored and missing runs among run folders, and folders of run folders.

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
    scored, missing = [], []
    for folder in folders.values():
        if (folder / "scores.json").exists():
            scored.append(read_run(folder))
        elif (run := read_missing(folder)) is not None:
            missing.append(run)
    if not scored:
        states = Counter(run.state for run in missing)
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        named = f" ({len(missing)} unscored: {counts})" if missing else ""
        raise RunError(
            f"no folder with scores.json among the arguments{named}; give scored run folders, "
            "for example t2ibench compare runs/*."
        )
    return scored, missing
