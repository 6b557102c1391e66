"""One self-contained HTML page over runs.

t2ibench report runs/* out=report.html title="Three families"
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from t2ibench.cli.arguments import parse_arguments

OPTIONS = {"out": "report.html", "title": "t2ibench"}


def run(arguments: Sequence[str]) -> int:
    """Writes the page and prints its path."""
    given = parse_arguments("report", arguments, OPTIONS)
    target = Path(given.options["out"])
    write_report([Path(word) for word in given.words], target, given.options["title"])
    sys.stdout.write(f"{target}\n")
    return 0


def write_report(folders: Sequence[Path], target: Path, title: str) -> None:
    """Writes the page over runs."""
    from t2ibench.reporting import analyse, gather, write_page

    write_page(analyse(*gather(folders)), target, title)
