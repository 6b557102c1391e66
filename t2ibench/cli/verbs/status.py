"""Show the progress of a study's cells.

t2ibench status                      the names of all studies
t2ibench status NAME                 a line a cell
t2ibench status NAME json=true       machine-readable
t2ibench status NAME runs=FOLDER     studies in another folder of runs than the configured one
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from t2ibench.cli.arguments import parse_arguments
from t2ibench.core.errors import ConfigError, ContentError, printable

if TYPE_CHECKING:
    from t2ibench.engine.study import Estimate, Planned
    from t2ibench.runs.ledger import Cell, Progress

COLOURS = {
    "finished": "green",
    "running": "cyan",
    "interrupted": "yellow",
    "failed": "red",
    "missing": "dim",
}

OPTIONS = {"runs": "", "json": "false"}


def run(arguments: Sequence[str]) -> int:
    """Prints the cells of a study, or the names of all studies."""
    from t2ibench.cli.compose import compose_config
    from t2ibench.runs.ledger import Ledger, studies, summary

    given = parse_arguments("status", arguments, OPTIONS)
    if len(given.words) > 1:
        raise ConfigError(f"status takes the name of one study, got {len(given.words)}.")
    if given.options["json"] not in ("true", "false"):
        raise ConfigError(f"json={given.options['json']} must be true or false.")
    typed = given.options["runs"]
    if typed and not Path(typed).expanduser().is_dir():
        raise ConfigError(f"runs={typed} is no folder; give the folder of a study's runs.")
    root = Path(typed or compose_config([])["paths"]["runs"]).expanduser()
    if not given.words:
        names = studies(root)
        sys.stdout.writelines(f"{name}\n" for name in names)
        if not names:
            sys.stderr.write(f"{root} holds no study.\n")
        return 0
    ledger = Ledger(root, given.words[0])
    cells = ledger.cells()
    found = [ledger.progress(cell) for cell in cells]
    if given.options["json"] == "true":
        rows = [asdict(c) | asdict(p) for c, p in zip(cells, found, strict=True)]
        sys.stdout.write(json.dumps({"study": ledger.name, "cells": rows}, indent=2) + "\n")
        return 0
    shares = [
        share_of(root / cell.run, progress) for cell, progress in zip(cells, found, strict=True)
    ]
    sys.stdout.write(ledger_text(cells, found, shares))
    sys.stdout.write(f"{ledger.name}: {summary(found)}\n")
    return 0


def share_of(folder: Path, progress: Progress) -> float | None:
    """Share of the training budget that is spent; None before the first logged interval.

    Also None where the run's configuration cannot be read, as its next training writes it anew.
    """
    from t2ibench.runs.folder import Run

    if progress.spent is None:
        return None
    try:
        budget = Run(folder, "").config()["budget"]
        name = "images_seen" if budget["unit"] == "images" else budget["unit"]
        return min(1.0, progress.spent[name] / float(budget["amount"]))
    except (ContentError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def ledger_text(
    cells: Sequence[Cell], found: Sequence[Progress], shares: Sequence[float | None]
) -> str:
    """Table of a study's cells, one row each."""
    table = Table()
    for title, justify in (("State", "left"), ("Trained", "right"), ("Failed", "right"),
                           ("Cell", "left"), ("Run", "left"), ("", "left")):  # fmt: skip
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    for cell, progress, share in zip(cells, found, shares, strict=True):
        table.add_row(
            f"[{COLOURS[progress.state]}]{progress.state}[/]",
            "" if share is None else f"{share:.0%}",
            str(progress.failures or ""),
            escape(cell.label),
            cell.run,
            escape(printable(progress.detail)),
        )
    return table_text(table)


def plan_text(
    planned: Sequence[Planned], todo: Sequence[Planned], costs: Sequence[Estimate]
) -> str:
    """Table of what a launch would run: one row a cell, then the sum over those that would run."""
    from t2ibench.engine.study import SCORED_OTHERWISE

    table = Table()
    for title, justify in (("Cell", "left"), ("Run", "left"), ("State", "left"), ("", "left"),
                           ("Images", "right"), ("FLOPs", "right"), ("Time", "right")):  # fmt: skip
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    runs = {p.cell.run for p in todo}
    for p, cost in zip(planned, costs, strict=True):
        state = p.progress.state
        would = "runs" if p.cell.run in runs else "given up" if state == "failed" else "skipped"
        if p.progress.detail == SCORED_OTHERWISE:
            state, would = "finished", "is scored again"
        table.add_row(
            escape(p.cell.label),
            p.cell.run,
            f"[{COLOURS[state]}]{state}[/]",
            would,
            *(number_text(value, kind) for value, kind in figures(cost)),
        )
    chosen = [cost for p, cost in zip(planned, costs, strict=True) if p.cell.run in runs]
    table.add_section()
    totals = zip(*(figures(cost) for cost in chosen), strict=True) if chosen else []
    sums = [
        number_text(
            None if any(v is None for v, _ in column) else sum(v for v, _ in column), column[0][1]
        )
        for column in totals
    ]
    table.add_row(f"{len(chosen)} of {len(planned)} cells would run", "", "", "", *sums)
    return table_text(table) + (
        "Training alone, each stage below it counted as the budget says; – is not known before a "
        "run of that model and size was trained here.\n"
    )


def figures(cost: Estimate) -> list[tuple[float | None, str]]:
    """Numbers of an estimate with their kinds."""
    return [(cost.images, "count"), (cost.flops, "flops"), (cost.seconds, "seconds")]


def number_text(value: Any, kind: str) -> str:
    """Text of a number in the table."""
    from t2ibench.reporting import count_text, flops_text, seconds_text

    texts = {"count": count_text, "flops": flops_text, "seconds": seconds_text}
    return "–" if value is None else texts[kind](value)


def table_text(table: Table) -> str:
    """Text of a table, as wide as the terminal; in a file as wide as it needs to be."""
    buffer = io.StringIO()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 240
    colour = sys.stdout.isatty()
    Console(file=buffer, width=width, force_terminal=colour, force_jupyter=False).print(table)
    return buffer.getvalue()
