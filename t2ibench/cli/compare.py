"""Leaderboard and paired tests over runs.

t2ibench compare runs/*              terminal table, verdicts and configuration differences
t2ibench compare runs/* out=tables   also leaderboard.csv and leaderboard.md there
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from t2ibench.cli.arguments import parse_arguments
from t2ibench.core.errors import ConfigError
from t2ibench.core.files import atomic_path


def run(arguments: Sequence[str]) -> int:
    """Prints the leaderboard, then every pair's verdicts."""
    given = parse_arguments("compare", arguments, {"out": ""})
    folders = scored_folders(given.words)
    from t2ibench.report.folders import read_runs
    from t2ibench.report.tables import leaderboard

    board = leaderboard(read_runs(folders))
    show(board)
    from t2ibench.report.compare import compare_all
    from t2ibench.report.formats import comparison_text, ranking_text

    sys.stdout.write(ranking_text(board) + "\n")
    sys.stdout.write(comparison_text(compare_all(board)) + "\n")
    if given.options["out"]:
        write_tables(folders, Path(given.options["out"]))
    return 0


def show(board: object) -> None:
    """The leaderboard on the terminal."""
    from t2ibench.report.formats import terminal_text

    width = shutil.get_terminal_size((140, 24)).columns
    sys.stdout.write(terminal_text(board, width) + "\n")  # type: ignore[arg-type]


def scored_folders(words: Sequence[str]) -> list[Path]:
    """The folders among ``words`` that have scores.json; first stages are passed over.

    Raises:
        ConfigError: none has.
    """
    found = [Path(word) for word in words if (Path(word) / "scores.json").exists()]
    if not found:
        raise ConfigError(
            "no folder with scores.json among the arguments; give run folders, for example "
            "t2ibench compare runs/*."
        )
    return found


def write_tables(folders: Sequence[Path], target: Path) -> None:
    """Prints the leaderboard and writes it as CSV and Markdown."""
    from t2ibench.report.folders import read_runs
    from t2ibench.report.formats import to_csv, to_markdown
    from t2ibench.report.tables import leaderboard

    board = leaderboard(read_runs(folders))
    show(board)
    for name, text in (("leaderboard.csv", to_csv(board)), ("leaderboard.md", to_markdown(board))):
        with atomic_path(target / name) as aside:
            aside.write_text(text, encoding="utf-8")
