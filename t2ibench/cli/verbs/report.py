"""One self-contained HTML page over runs.

t2ibench report runs/* out=report.html title="Three families"
t2ibench report runs/* where=family=diffusion sort=kid    some of them, in another order
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from t2ibench.cli.arguments import parse_arguments

OPTIONS = {"out": "report.html", "title": "t2ibench", "where": "", "sort": ""}


def run(arguments: Sequence[str]) -> int:
    """Writes the page and prints its path."""
    given = parse_arguments("report", arguments, OPTIONS)
    target = Path(given.options["out"])
    folders = [Path(word) for word in given.words]
    write_report(
        folders, target, given.options["title"], given.options["where"], given.options["sort"]
    )
    sys.stdout.write(f"{target}\n")
    return 0


def write_report(
    folders: Sequence[Path], target: Path, title: str, where: str = "", sort: str = ""
) -> None:
    """Writes the page over the runs that ``where`` keeps, ordered by ``sort``."""
    from t2ibench.reporting import analyse, gather, kept_runs, write_page

    runs, missing = kept_runs(*gather(folders), where)
    write_page(analyse(runs, missing, sort=sort), target, title)
