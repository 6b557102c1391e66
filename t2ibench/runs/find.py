"""Runs found by what a user calls them: a folder, a name, or the beginning of a hash."""

from __future__ import annotations

from pathlib import Path

from t2ibench.core.errors import ConfigError
from t2ibench.runs.folder import Run

FEWEST_DIGITS = 6
"""The shortest beginning of a hash that names a run."""


def locate(key: str, named: str, root: Path) -> Run:
    """A run by its folder, its name or the beginning of its hash.

    Args:
        key: the configuration key under which it was named, for the error.
        named: what the user typed.
        root: the folder of all runs, where runs find each other by hash.

    Raises:
        ConfigError: there is no such run, or it lies in another folder of runs.
    """
    for folder in (Path(named), root / named):
        if (folder / "status.json").exists():
            if folder.resolve().parent != root.resolve():
                raise ConfigError(
                    f"{key}={named} is not in paths.runs={root}, where runs are found by hash; "
                    "move it there or set paths.runs."
                )
            return Run.at(folder)
    if len(named) >= FEWEST_DIGITS:
        found = by_hash(root, named)
        if found is not None:
            return found
    raise ConfigError(
        f"{key}={named} is no run in paths.runs={root}; give the folder, the name or the "
        "hash of a run that `t2ibench train` made."
    )


def by_hash(root: Path, digits: str) -> Run | None:
    """The run in a folder of runs whose hash begins so, whatever its label; None without one."""
    for status in sorted(root.glob(f"*-{digits[:8]}*/status.json")):
        run = Run.at(status.parent)
        if run.identity.startswith(digits):
            return run
    return None
