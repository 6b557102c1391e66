"""Progress line of training: share of the budget, speed and remaining time."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from t2ibench.runs.clock import Budget, Clock


def minutes_and_seconds(seconds: float) -> str:
    """Duration as ``m:ss``, rounded up."""
    whole = int(seconds + 0.999)
    return f"{whole // 60}:{whole % 60:02d}"


class BudgetProgress(pl.Callback):
    """A bar on a terminal; elsewhere (a log file) one plain line every ten seconds."""

    def __init__(self, clock: Clock, budget: Budget, label: str) -> None:
        self.clock = clock
        self.budget = budget
        self.label = label
        self._bar: Progress | None = None
        self._task: Any = None
        self._began = 0.0
        self._from_progress = 0.0
        self._from_images = 0
        self._shown = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the bar."""
        self._began = time.monotonic()
        self._from_progress = self.clock.progress(self.budget) if self.clock.images_seen else 0.0
        self._from_images = self.clock.images_seen
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[detail]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(f"train {self.label}", total=1.0, detail="")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Refreshes the bar at most twice a second, the line every ten seconds."""
        now = time.monotonic()
        interval = 0.5 if self._bar is not None else 10.0
        if now - self._shown < interval and not trainer.should_stop:
            return
        self._shown = now
        progress = self.clock.progress(self.budget)
        elapsed = max(now - self._began, 1e-6)
        rate = (progress - self._from_progress) / elapsed
        left = minutes_and_seconds((1 - progress) / rate) if rate > 0 else "?"
        speed = (self.clock.images_seen - self._from_images) / elapsed
        detail = f"{self.clock.images_seen} images, {speed:.0f}/s, {left} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=progress, detail=detail)
        else:
            sys.stderr.write(f"train {self.label}: {progress:4.0%}, {detail}\n")
            sys.stderr.flush()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
