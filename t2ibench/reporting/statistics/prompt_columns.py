"""Scores image by image, of groups that drew the same prompts with the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from t2ibench.metrics.prompt_resampling import PromptSums
from t2ibench.reporting.statistics.groups import Group


@dataclass(frozen=True, eq=False)
class PromptColumn:
    """A group's score of each image.

    Attributes:
        values: (N,) means over its training seeds; NaN where an image has none.
        drawn: N (prompt key, sampling seed) as two tuples; shared by the columns of one draw.
    """

    values: np.ndarray
    drawn: tuple[tuple[str, ...], tuple[int, ...]]


class PromptColumns:
    """The columns of a comparison, each built once."""

    def __init__(self) -> None:
        self._draws: dict[tuple[tuple[str, ...], tuple[int, ...]], tuple[tuple, tuple]] = {}
        self._columns: dict[tuple[str, str], PromptColumn | None] = {}

    def of(self, group: Group, key: str) -> PromptColumn | None:
        """The mean over all runs of a group; None where they did not draw the same."""
        name = (group.label, key)
        if name not in self._columns:
            self._columns[name] = self._built(group, key)
        return self._columns[name]

    def _built(self, group: Group, key: str) -> PromptColumn | None:
        runs = [run for run in group.runs if key in run.scores.chosen.scores]
        tables = [run.image_values for run in runs]
        known = [t for t in tables if t is not None and key in t.columns]
        if not known or len(known) < len(tables):
            return None
        draws = [self._draws.setdefault((t.keys, t.seeds), (t.keys, t.seeds)) for t in known]
        if any(drawn is not draws[0] for drawn in draws):
            return None
        values = known[0].columns[key]
        if len(known) > 1:
            values = np.stack([t.columns[key] for t in known]).mean(axis=0)
        return PromptColumn(values, draws[0])


def asked(columns: Sequence[PromptColumn | None]) -> np.ndarray | None:
    """(N,) which images every column has a value of; None where they did not draw the same."""
    known = [column for column in columns if column is not None]
    if len(known) < len(columns) or any(c.drawn is not known[0].drawn for c in known):
        return None
    held = np.logical_and.reduce([~np.isnan(column.values) for column in known])
    return held if held.any() else None


def prompt_sums(columns: Sequence[PromptColumn], held: np.ndarray) -> PromptSums:
    """Sums by prompt of columns of one draw over the images ``held``."""
    keys = columns[0].drawn[0]
    clusters = [key for key, keep in zip(keys, held, strict=True) if keep]
    return PromptSums.of([column.values[held] for column in columns], clusters)
