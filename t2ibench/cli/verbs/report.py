"""One self-contained HTML page over runs.

t2ibench report runs/* out=report.html title="Three families"
t2ibench report runs/* protocol=dev        their scores under that protocol, not each run's own
t2ibench report runs/* where=family=diffusion sort=kid    some of them, in another order
t2ibench report runs/* by=conditioning     rows in sections by a fact or setting of the runs
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from t2ibench.cli.arguments import parse_arguments

OPTIONS = {"out": "report.html", "title": "t2ibench", "protocol": ""}
OPTIONS |= {"where": "", "sort": "", "by": ""}


def run(arguments: Sequence[str]) -> int:
    """Writes the page and prints its path."""
    given = parse_arguments("report", arguments, OPTIONS)
    target = Path(given.options["out"]).expanduser()
    folders = [Path(word) for word in given.words]
    names = ("title", "protocol", "where", "sort", "by")
    write_report(folders, target, *(given.options[name] for name in names))
    sys.stdout.write(f"{target}\n")
    return 0


def write_report(
    folders: Sequence[Path],
    target: Path,
    title: str,
    protocol: str = "",
    where: str = "",
    sort: str = "",
    by: str = "",
) -> None:
    """Writes the page over runs.

    Args:
        folders: of the runs.
        target: the page.
        title: of the page.
        protocol: the scoring that is shown; empty: each run's own.
        where: facts or settings of the runs to keep; empty: all.
        sort: score or cost that orders the rows; empty: the first score.
        by: fact or setting whose values become sections of the rows; empty: no sections.
    """
    from t2ibench.reporting import analyse, gather, kept_runs, write_page

    runs, missing = kept_runs(*gather(folders, protocol), where)
    write_page(analyse(runs, missing, sort=sort, by=by), target, title)
