"""The neutral chart: what is drawn, whoever draws it (inline SVG, PDF)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """A point of a series.

    Attributes:
        x: position.
        y: position.
        low: lower end of an error bar, or None.
        high: upper end, or None.
        label: drawn beside it; empty for none.
        strong: drawn larger (the chosen operating point).
        tip: text shown on hover.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""
    strong: bool = False
    tip: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one model.

    Attributes:
        name: its name in the legend.
        colour: index of its colour and marker.
        points: in drawing order.
        line: whether they are joined.
        markers: whether each is drawn.
    """

    name: str
    colour: int
    points: tuple[Point, ...]
    line: bool = True
    markers: bool = True


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Attributes:
        title: heading, and the start of the accessible name.
        x_title: axis title with unit.
        y_title: axis title with unit and direction.
        series: one a model.
        x_log: logarithmic x axis.
        x_whole: whether x counts things, so that only whole numbers are ticks.
        y_line: (value, label) of a dashed horizontal line, such as a floor.
        description: accessible text that says what the chart shows.
        subtitle: smaller, below the title: what measured the axes.
    """

    title: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    x_log: bool = False
    x_whole: bool = False
    y_line: tuple[float, str] | None = None
    description: str = ""
    subtitle: str = ""

    def widths(self) -> Iterator[float]:
        """Every x that must be seen."""
        return (point.x for series in self.series for point in series.points)

    def heights(self) -> Iterator[float]:
        """Every y that must be seen: points, ends of error bars, the line."""
        for series in self.series:
            for point in series.points:
                yield from (y for y in (point.y, point.low, point.high) if y is not None)
        if self.y_line is not None:
            yield self.y_line[0]
