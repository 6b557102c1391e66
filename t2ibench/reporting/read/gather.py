"""All runs under the folders that a user names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from t2ibench.core.errors import RunError
from t2ibench.evaluation.results import RunScores
from t2ibench.reporting.read.missing import MissingRun, read_missing
from t2ibench.reporting.read.runs import OF_SCORING, ScoredRun, read_run

FINISHED = "finished"
"""State of a run that is scored under its own protocol."""


def gather(
    paths: Iterable[str | Path], protocol: str = ""
) -> tuple[list[ScoredRun], list[MissingRun]]:
    """Reads scored and missing runs among run folders, and folders of run folders.

    Args:
        paths: the folders.
        protocol: name or label of the scoring that is read in each; empty: each run's own.

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
        if protocol and (file := chosen_scores(folder, protocol)) is not None:
            scored.append(read_run(folder, file))
        elif not protocol and (folder / "scores.json").exists():
            scored.append(read_run(folder))
        elif (run := read_missing(folder)) is not None:
            missing.append(under(protocol, run) if protocol else run)
    if not scored and protocol:
        raise RunError(
            f"none of {len(folders)} folders is scored under protocol={protocol}; "
            f"`t2ibench score RUN protocol={protocol}` scores it so."
        )
    if not scored:
        states = Counter(run.state for run in missing)
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        named = f" ({len(missing)} unscored: {counts})" if missing else ""
        raise RunError(
            f"no folder with scores.json among the arguments{named}; give scored run folders, "
            "for example t2ibench compare runs/*."
        )
    return scored, missing


def under(protocol: str, run: MissingRun) -> MissingRun:
    """A run that is not scored under a protocol."""
    state = f"not scored under {protocol}" if run.state == FINISHED else run.state
    config = {name: value for name, value in run.config.items() if name not in OF_SCORING}
    return replace(run, state=state, config=config)


def chosen_scores(folder: Path, protocol: str) -> Path | None:
    """The scores file of a protocol in a folder; None where it is not scored so.

    Args:
        folder: the run's.
        protocol: a label (``dev-1a2b3c4d``), or the protocol's name, then the run's own scores
            come first.

    Raises:
        RunError: several scorings have that name.
    """
    own = folder / "scores.json"
    label = RunScores.read(own).scoring if own.exists() else ""
    others = sorted((folder / "scores").glob("*.json"))
    exact = [path for path in others if path.stem == protocol]
    if exact or protocol == label:
        return exact[0] if exact else own
    if label.rsplit("-", 1)[0] == protocol:
        return own
    named = [path for path in others if path.stem.rsplit("-", 1)[0] == protocol]
    if len(named) > 1:
        raise RunError(
            f"{folder} is scored under {protocol} in {len(named)} ways; choose one: "
            f"{', '.join(f'protocol={path.stem}' for path in named)}."
        )
    return named[0] if named else None
