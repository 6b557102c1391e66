"""The report's charts: fronts, quality against cost, learning curves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from t2ibench.core.types import Score
from t2ibench.evaluation.results import OperatingPoint, metrics_of
from t2ibench.report.columns import instrument_of, metric_of
from t2ibench.report.groups import Group
from t2ibench.report.svg import Chart, Point, Series
from t2ibench.report.tables import Column, Leaderboard

ALIGNMENT = ("clip_score", "grader_exact", "r_precision")
QUALITY = ("fid", "fd", "cmmd", "cmmd-style", "kid")
CURVE_POINTS = 120
"""Points of a learning curve at most; longer ones are averaged in bins."""


def colour_of(board: Leaderboard) -> dict[str, int]:
    """A colour for each group, by label so that it does not change with the ranking."""
    return {label: i for i, label in enumerate(sorted(g.label for g in board.groups))}


def front_charts(board: Leaderboard) -> list[Chart]:
    """Quality against alignment along each model's knob, one chart a pair of metrics.

    Where sampling steps were swept too, each number of steps is a line of its own.
    """
    fronts = {g.label: g.runs[0].scores.front for g in board.groups}
    drawable = {label: points for label, points in fronts.items() if len(points) > 1}
    keys = metrics_of(point.scores for points in drawable.values() for point in points)
    charts = []
    for x_key, y_key in front_axes(keys):
        series = tuple(
            _front_series(group, name, points, x_key, y_key, colour_of(board))
            for group in board.groups
            if group.label in drawable
            for name, points in _by_steps(group.label, drawable[group.label])
        )
        series = tuple(s for s in series if len(s.points) > 1)
        if series:
            charts.append(_front_chart(series, x_key, y_key))
    return charts


def quality_column(board: Leaderboard) -> Column | None:
    """The main distance; the first column where there is none, None where there is no column."""
    distances = [column for column in board.columns if column.metric.name in QUALITY]
    return next(iter([*distances, *board.columns]), None)


def cost_charts(board: Leaderboard) -> list[Chart]:
    """The main quality against sampling time, FLOPs, memory and energy, and training FLOPs."""
    column = quality_column(board)
    if column is None:
        return []
    key = column.key
    axes = (
        (
            "Quality against sampling time",
            "seconds per image, best batch",
            "seconds_per_image_best",
        ),
        ("Quality against sampling compute", "FLOPs per image", "sample_flops_per_image"),
        ("Quality against sampling memory", "GiB, weights included", "peak_memory_gib"),
        ("Quality against sampling energy", "joules per image", "joules_per_image"),
        ("Quality against training compute", "training FLOPs, first stage included", ""),
    )
    floor = next((r.scores[key].value for r in board.references if key in r.scores), None)
    charts = []
    for title, x_title, name in axes:
        series = []
        for group in board.groups:
            cell = group.cell(key)
            cost = group.cost(name) if name else group.training_flops
            if cell is None or not cost:
                continue
            metric = metric_of(key)
            tip = f"{group.label}: {metric.title} {metric.text(cell.value)}"
            scaled = [metric.scale * v for v in (cell.value, cell.low, cell.high)]
            point = Point(cost, scaled[0], scaled[1], scaled[2], group.label, True, tip)
            series.append(Series(group.label, colour_of(board)[group.label], (point,)))
        if series:
            line = None if floor is None else (floor * metric_of(key).scale, "real vs real")
            charts.append(
                Chart(title, x_title, _y_title(key), tuple(series), x_log=True, y_line=line,
                      description="; ".join(s.points[0].tip for s in series),
                      subtitle=f"{metric_of(key).title} in {instrument_of(key)}")
            )  # fmt: skip
    return charts


def size_charts(board: Leaderboard) -> list[Chart]:
    """The main distance of subsets against 1/N: where the lines cross, N decides who is first.

    The line's value at 0 is that of unlimited images, by least squares.
    """
    key = next((k for name in QUALITY for g in board.groups for k in g.runs[0].scores.size_curves
                if k.split("[", 1)[0] == name), None)  # fmt: skip
    if key is None:
        return []
    metric, series = metric_of(key), []
    for group in board.groups:
        curve = group.runs[0].scores.size_curves.get(key, [])
        points = [
            Point(1000 / p["n"], metric.scale * p["value"],
                  metric.scale * (p["value"] - p["sd"]), metric.scale * (p["value"] + p["sd"]),
                  tip=f"{group.label}, {p['n']:.0f} images: {metric.text(p['value'])}")
            for p in curve
        ]  # fmt: skip
        if points:
            series.append(Series(group.label, colour_of(board)[group.label], tuple(points)))
    return [
        Chart(f"{metric.title} by number of images", "1000 / number of images", _y_title(key),
              tuple(series), subtitle=instrument_of(key),
              description="; ".join(f"{s.name}: {s.points[0].y:.3g} at fewest, "
                                    f"{s.points[-1].y:.3g} at all images" for s in series))
    ]  # fmt: skip


def curve_charts(board: Leaderboard) -> list[Chart]:
    """Training loss over images seen, one chart a model: losses of families do not compare."""
    charts = []
    for group in board.groups:
        series = []
        for run in group.runs:
            images, losses = run.curves.get("images_seen", []), run.curves.get("loss", [])
            points = binned(images, losses, CURVE_POINTS)
            if len(points) > 1:
                name = f"seed {run.scores.model['seed']}"
                colour = colour_of(board)[group.label]
                series.append(Series(name, colour, tuple(points), markers=False))
        if series:
            last = series[0].points[-1]
            charts.append(
                Chart(group.label, "images seen", "training loss", tuple(series),
                      description=f"The loss ends at {last.y:.3g} after {last.x:.0f} images.")
            )  # fmt: skip
    return charts


def binned(xs: Sequence[float], ys: Sequence[float], most: int) -> list[Point]:
    """Means of consecutive finite values in at most ``most`` bins."""
    pairs = [(x, y) for x, y in zip(xs, ys, strict=False) if math.isfinite(x) and math.isfinite(y)]
    size = max(1, -(-len(pairs) // most))
    bins = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return [Point(b[-1][0], sum(y for _, y in b) / len(b)) for b in bins]


def _by_steps(
    label: str, points: Sequence[OperatingPoint]
) -> list[tuple[str, list[OperatingPoint]]]:
    """A front's points by their number of sampling steps, with the name of each line."""
    lines: dict[float | None, list[OperatingPoint]] = {}
    for point in points:
        lines.setdefault(point.knobs.get("num_steps"), []).append(point)
    if len(lines) == 1:
        return [(label, list(points))]
    return [(f"{label}, {steps:g} steps", line) for steps, line in lines.items()]


def _front_series(
    group: Group,
    name: str,
    points: Sequence[OperatingPoint],
    x_key: str,
    y_key: str,
    colours: dict[str, int],
) -> Series:
    knob = group.runs[0].scores.knob
    told = [run.scores.chosen for run in group.runs]
    chosen = {(point.value, point.knobs.get("num_steps")) for point in told}
    both = [p for p in points if x_key in p.scores and y_key in p.scores]
    both.sort(key=lambda point: point.value or 0.0)
    drawn = []
    for position, point in enumerate(both):
        x, y = point.scores[x_key], point.scores[y_key]
        ends = position in (0, len(both) - 1)
        drawn.append(
            Point(
                metric_of(x_key).scale * x.value,
                metric_of(y_key).scale * y.value,
                label=f"{point.value:g}" if ends and point.value is not None else "",
                strong=(point.value, point.knobs.get("num_steps")) in chosen,
                tip=_front_tip(name, knob.get("name", "knob"), point, x, y),
            )
        )
    return Series(name, colours[group.label], tuple(drawn))


def _front_tip(label: str, knob: str, point: OperatingPoint, x: Score, y: Score) -> str:
    first, second = metric_of(x.key), metric_of(y.key)
    return (
        f"{label}, {knob} = {point.value:g}: {first.title} {first.text(x.value)}, "
        f"{second.title} {second.text(y.value)}"
    )


def _front_chart(series: tuple[Series, ...], x_key: str, y_key: str) -> Chart:
    x, y = metric_of(x_key), metric_of(y_key)
    said = "; ".join(
        f"{s.name}: from ({s.points[0].x:.3g}, {s.points[0].y:.3g}) "
        f"to ({s.points[-1].x:.3g}, {s.points[-1].y:.3g})"
        for s in series
    )
    return Chart(
        f"{y.title} against {x.title}",
        f"{x.title} ({x.arrow} better)",
        _y_title(y_key),
        series,
        description=said,
        subtitle=", ".join(dict.fromkeys([instrument_of(y_key), instrument_of(x_key)])),
    )


def _y_title(key: str) -> str:
    metric = metric_of(key)
    return f"{metric.title} ({metric.arrow} better)"


def front_axes(keys: Sequence[str]) -> list[tuple[str, str]]:
    """The main distance against two alignments, then precision against recall."""
    quality = _first(keys, QUALITY)
    alignments = [found for name in ALIGNMENT if (found := _first(keys, (name,))) is not None]
    axes = [(key, quality) for key in alignments[:2] if quality is not None]
    recall, precision = _first(keys, ("recall",)), _first(keys, ("precision",))
    return axes + ([(recall, precision)] if recall is not None and precision is not None else [])


def _first(keys: Sequence[str], names: Sequence[str]) -> str | None:
    """The first key of the first metric in ``names`` that is there."""
    return next((k for name in names for k in keys if k.split("[", 1)[0] == name), None)
