"""Progress of sampling, and notices of runs that are waited for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from t2ibench.runs.folder import Run
from t2ibench.runs.lock import Owner


@contextmanager
def progress_bar(label: str, total: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Shows progress; yields a function of the number done. A bar on a terminal, else one line."""
    if not shown:
        yield lambda done: None
        return
    if sys.stderr.isatty():
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        ) as bar:
            task = bar.add_task(label, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    began = time.monotonic()
    yield lambda done: None
    sys.stderr.write(f"{label}: {total} images in {time.monotonic() - began:.1f} s\n")


def wait_reporter(run: Run) -> Callable[[Owner], None]:
    """Makes a function that prints a line for each process that holds a shared part's lock."""

    def report(owner: Owner) -> None:
        sys.stderr.write(f"waiting for {run.path.name}, which {owner} works on\n")

    return report
