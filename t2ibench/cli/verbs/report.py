"""One self-contained HTML page over runs.

t2ibench report runs/* out=report.html title="Three families"
t2ibench report runs/* protocol=dev        their scores under that protocol, not each run's own
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from t2ibench.cli.arguments import parse_arguments

OPTIONS = {"out": "report.html", "title": "t2ibench", "protocol": ""}


def run(arguments: Sequence[str]) -> int:
    """Writes the page and prints its path."""
    given = parse_arguments("report", arguments, OPTIONS)
    target = Path(given.options["out"])
    folders = [Path(word) for word in given.words]
    write_report(folders, target, given.options["title"], given.options["protocol"])
    sys.stdout.write(f"{target}\n")
    return 0


def write_report(folders: Sequence[Path], target: Path, title: str, protocol: str = "") -> None:
    """Writes the page over runs, each under its own protocol or under the one that is named."""
    from t2ibench.reporting import analyse, gather, write_page

    write_page(analyse(*gather(folders, protocol)), target, title)
