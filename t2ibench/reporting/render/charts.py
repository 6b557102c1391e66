"""The report's charts: fronts, accuracy by objects, costs, number of images, learning curves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from t2ibench.reporting.render.chart import Chart, Point, Series
from t2ibench.reporting.statistics.curves import (
    FrontPoint,
    ObjectsPoint,
    atomicity_curves,
    knob_front,
    size_curves,
)
from t2ibench.reporting.statistics.groups import Group
from t2ibench.reporting.statistics.knob_fronts import front_axes
from t2ibench.reporting.statistics.leaderboard import Leaderboard
from t2ibench.reporting.statistics.metrics import (
    QUALITY,
    Metric,
    first_key,
    instrument_of,
    metric_of,
)
from t2ibench.reporting.statistics.times import TIMES

CURVE_POINTS = 120
"""Points of a learning curve at most; longer ones are averaged in bins."""

COST_AXES = (
    ("sampling time", "seconds per image, best batch", "seconds_per_image_best"),
    ("sampling compute", "FLOPs per image", "sample_flops_per_image"),
    ("sampling memory", "GiB, weights included", "peak_memory_gib"),
    ("sampling energy", "joules per image", "joules_per_image"),
    ("training compute", "training FLOPs, first stage included", "train_flops"),
)
"""What quality is drawn against: in words, the axis' title, the cost."""


def colour_of(leaderboard: Leaderboard) -> dict[str, int]:
    """A colour for each group, by label so that it does not change with the ranking."""
    return {label: i for i, label in enumerate(sorted(g.label for g in leaderboard.groups))}


def all_charts(leaderboard: Leaderboard) -> list[Chart]:
    """Every chart, in the order of the page."""
    return [
        *front_charts(leaderboard),
        *atomicity_charts(leaderboard),
        *cost_charts(leaderboard),
        *size_charts(leaderboard),
        *curve_charts(leaderboard),
    ]


def front_charts(leaderboard: Leaderboard) -> list[Chart]:
    """Quality against alignment along each model's knob, one chart a pair of metrics.

    Where sampling steps were swept too, each number of steps is a line of its own.
    """
    colours = colour_of(leaderboard)
    fronts = {group.label: knob_front(group) for group in leaderboard.groups}
    drawable = {label: points for label, points in fronts.items() if len(points) > 1}
    keys = list(dict.fromkeys(key for ps in drawable.values() for p in ps for key in p.scores))
    charts = []
    for x_key, y_key in front_axes(keys):
        series = tuple(
            _front_series(group, name, points, x_key, y_key, colours[group.label])
            for group in leaderboard.groups
            if group.label in drawable
            for name, points in _by_steps(group.label, drawable[group.label])
        )
        series = tuple(s for s in series if len(s.points) > 1)
        if series:
            charts.append(_front_chart(series, x_key, y_key))
    return charts


def cost_charts(leaderboard: Leaderboard) -> list[Chart]:
    """The main quality against sampling time, FLOPs, memory and energy, and training FLOPs."""
    key = leaderboard.quality_key
    if key is None:
        return []
    metric, colours = metric_of(key), colour_of(leaderboard)
    floor = leaderboard.floor(key)
    line = None if floor is None else (floor * metric.scale, "real vs real")
    charts = []
    for title, x_title, name in COST_AXES:
        series = []
        for group in leaderboard.groups:
            score = group.score(key)
            cost = group.training_flops if name == "train_flops" else group.cost(name)
            if score is None or not cost:
                continue
            busy = name in TIMES and (time := group.time(name)) is not None and time.busy
            label = f"{group.label}, busy machine" if busy else group.label
            tip = f"{label}: {metric.title} {metric.text(score.value)}"
            y, low, high = (metric.scale * v for v in (score.value, score.low, score.high))
            point = Point(cost, y, low, high, label, True, tip)
            series.append(Series(group.label, colours[group.label], (point,)))
        if series:
            charts.append(
                Chart(
                    f"Quality against {title}",
                    x_title,
                    _y_title(key),
                    tuple(series),
                    x_log=True,
                    y_line=line,
                    description="; ".join(s.points[0].tip for s in series),
                    subtitle=f"{metric.title} in {instrument_of(key)}",
                )
            )
    return charts


def atomicity_charts(leaderboard: Leaderboard) -> list[Chart]:
    """Share of images that are right in everything by the number of objects, all models in one.

    Shares of other prompts or of another grader are no points of one chart.
    """
    curves = {group.label: atomicity_curves(group) for group in leaderboard.groups}
    colours, charts = colour_of(leaderboard), []
    for key in dict.fromkeys(key for by_key in curves.values() for key in by_key):
        metric, series = metric_of(key), []
        for label, points in ((label, by_key.get(key, [])) for label, by_key in curves.items()):
            drawn = tuple(_objects_point(label, metric, point) for point in points)
            series += [Series(label, colours[label], drawn)] if drawn else []
        if max(len(s.points) for s in series) > 1:
            ends = (
                f"{s.name}: {s.points[0].y:.3g} % at {s.points[0].x}, {s.points[-1].y:.3g} % at "
                f"{s.points[-1].x}"
                for s in series
            )
            charts.append(
                Chart(
                    "All right by number of objects",
                    "objects in the prompt",
                    f"{metric.title}, % ({metric.arrow} better)",
                    tuple(series),
                    x_whole=True,
                    subtitle=instrument_of(key),
                    description="; ".join(ends),
                )
            )
    return charts


def _objects_point(label: str, metric: Metric, point: ObjectsPoint) -> Point:
    y, low, high = (
        metric.scale * v for v in (point.score.value, point.score.low, point.score.high)
    )
    tip = f"{label}, {point.objects} objects: {y:.1f} % of {point.n} images"
    return Point(point.objects, y, low, high, tip=tip)


def size_charts(leaderboard: Leaderboard) -> list[Chart]:
    """The main distance of subsets against 1/N: where the lines cross, N decides who is first."""
    curves = [(group, size_curves(group)) for group in leaderboard.groups]
    key = first_key([key for _, by_key in curves for key in by_key], QUALITY)
    if key is None:
        return []
    metric, colours, series = metric_of(key), colour_of(leaderboard), []
    for group, by_key in curves:
        points = [
            Point(
                1000 / p.n,
                metric.scale * p.value,
                metric.scale * (p.value - p.sd),
                metric.scale * (p.value + p.sd),
                tip=f"{group.label}, {p.n:.0f} images: {metric.text(p.value)}",
            )
            for p in by_key.get(key, [])
        ]
        if points:
            series.append(Series(group.label, colours[group.label], tuple(points)))
    ends = (
        f"{s.name}: {s.points[0].y:.3g} at fewest, {s.points[-1].y:.3g} at all images"
        for s in series
    )
    return [
        Chart(
            f"{metric.title} by number of images",
            "1000 / number of images",
            _y_title(key),
            tuple(series),
            subtitle=instrument_of(key),
            description="; ".join(ends),
        )
    ]


def curve_charts(leaderboard: Leaderboard) -> list[Chart]:
    """Training loss over images seen, one chart a model: losses of families do not compare."""
    charts, colours = [], colour_of(leaderboard)
    for group in leaderboard.groups:
        series = []
        for run in group.runs:
            images, losses = run.curves.get("images_seen", []), run.curves.get("loss", [])
            points = binned(images, losses, CURVE_POINTS)
            if len(points) > 1:
                name = f"seed {run.scores.model['seed']}"
                series.append(Series(name, colours[group.label], tuple(points), markers=False))
        if series:
            last = series[0].points[-1]
            charts.append(
                Chart(
                    group.label,
                    "images seen",
                    "training loss",
                    tuple(series),
                    description=f"The loss ends at {last.y:.3g} after {last.x:.0f} images.",
                )
            )
    return charts


def binned(xs: Sequence[float], ys: Sequence[float], most: int) -> list[Point]:
    """Means of consecutive finite values in at most ``most`` bins."""
    pairs = [(x, y) for x, y in zip(xs, ys, strict=False) if math.isfinite(x) and math.isfinite(y)]
    size = max(1, -(-len(pairs) // most))
    bins = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    return [Point(b[-1][0], sum(y for _, y in b) / len(b)) for b in bins]


def _by_steps(label: str, points: Sequence[FrontPoint]) -> list[tuple[str, list[FrontPoint]]]:
    """A front's points by their number of sampling steps, with the name of each line."""
    lines: dict[float | None, list[FrontPoint]] = {}
    for point in points:
        lines.setdefault(point.knobs.get("num_steps"), []).append(point)
    if len(lines) == 1:
        return [(label, list(points))]
    return [(f"{label}, {steps:g} steps", line) for steps, line in lines.items()]


def _front_series(
    group: Group, name: str, points: Sequence[FrontPoint], x_key: str, y_key: str, colour: int
) -> Series:
    knob = group.runs[0].scores.knob
    operating = [run.scores.chosen for run in group.runs]
    chosen = {(point.value, point.knobs.get("num_steps")) for point in operating}
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
                tip=_front_tip(f"{name}, {knob.get('name', 'knob')}", point, x_key, y_key),
            )
        )
    return Series(name, colour, tuple(drawn))


def _front_tip(knob: str, point: FrontPoint, x_key: str, y_key: str) -> str:
    x, y = (
        f"{metric_of(key).title} {metric_of(key).text(point.scores[key].value)}"
        for key in (x_key, y_key)
    )
    return f"{knob} = {point.value:g}: {x}, {y}"


def _front_chart(series: tuple[Series, ...], x_key: str, y_key: str) -> Chart:
    x, y = metric_of(x_key), metric_of(y_key)
    ends = (
        f"{s.name}: from ({s.points[0].x:.3g}, {s.points[0].y:.3g}) "
        f"to ({s.points[-1].x:.3g}, {s.points[-1].y:.3g})"
        for s in series
    )
    return Chart(
        f"{y.title} against {x.title}",
        f"{x.title} ({x.arrow} better)",
        _y_title(y_key),
        series,
        description="; ".join(ends),
        subtitle=", ".join(dict.fromkeys([instrument_of(y_key), instrument_of(x_key)])),
    )


def _y_title(key: str) -> str:
    metric = metric_of(key)
    return f"{metric.title} ({metric.arrow} better)"
