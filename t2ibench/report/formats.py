"""The comparison as CSV and Markdown, and the texts that every format shares."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from t2ibench.report.analysis import Analysis
from t2ibench.report.columns import count_text, flops_text, metric_of, seconds_text
from t2ibench.report.groups import Cell, Group, seeds_text
from t2ibench.report.pareto import pareto_table
from t2ibench.report.ranking import best_table, front_sentences, front_table
from t2ibench.report.tables import Column

BEST = "Probability of being the best"
PARETO = "Quality against cost (no other is at most as costly and better)"
AREA = "Share of the box of all fronts that a front dominates (validation prompts)"


def knob_text(group: Group) -> str:
    """``guidance_scale 1.5``, or the range over training seeds."""
    values = sorted({v for run in group.runs if (v := run.scores.chosen.value) is not None})
    if not values:
        return "–"
    name = group.runs[0].scores.knob["name"]
    return f"{name} " + "–".join(f"{value:g}" for value in dict.fromkeys([values[0], values[-1]]))


BRIEF = {"discriminator": "D", "generator": "G", "text_encoder": "text", "optimizer": "optim."}


def parts_text(group: Group) -> str:
    """``D 62, G 32, text 6``: percents of the training FLOPs; what is under 1 is left out."""
    parts = group.flops_by_part
    whole = sum(parts.values())
    shares = [(BRIEF.get(name, name), 100 * flops / whole) for name, flops in parts.items()]
    return ", ".join(f"{name} {share:.0f}" for name, share in shares if share >= 1) or "–"


COSTS: tuple[tuple[str, Callable[[Group], str]], ...] = (
    ("Knob", knob_text),
    ("Parameters", lambda g: count_text(g.parameters)),
    ("Train images", lambda g: count_text(g.cost("train_images"))),
    ("Train FLOPs", lambda g: flops_text(g.training_flops)),
    ("of which, %", parts_text),
    ("Train time", lambda g: seconds_text(g.training_seconds)),
    ("FLOPs/image", lambda g: flops_text(g.cost("sample_flops_per_image"))),
    ("Time/image, batch 1", lambda g: seconds_text(g.cost("seconds_per_image_batch_1"))),
    ("Time/image, best", lambda g: seconds_text(g.cost("seconds_per_image_best"))),
)
"""Cost columns: heading and text of a group."""


def cell_text(cell: Cell | None, column: Column) -> str:
    """``12.3 ± 0.4``; a dash where there is no score."""
    if cell is None:
        return "–"
    sd = sd_text(cell, column)
    return f"{column.text(cell.value)} {spread_text(cell, column)}" + (f" ({sd})" if sd else "")


def spread_text(cell: Cell, column: Column) -> str:
    """``± 0.4``: half the 95% interval."""
    return f"±\u2009{column.text((cell.high - cell.low) / 2)}"


def sd_text(cell: Cell, column: Column) -> str:
    """``sd 0.3``: the standard deviation over training seeds; empty with one."""
    return "" if cell.sd is None else f"sd {column.text(cell.sd)}"


def partial_text(cell: Cell, group: Group | None) -> str:
    """``1 of 3 seeds`` where a cell rests on fewer seeds than its row; else empty."""
    if group is None or cell.seeds == group.seeds:
        return ""
    return seeds_text(cell.seeds, group.planned)


def interval_text(cell: Cell, column: Column) -> str:
    """``[11.9, 12.7]``."""
    return f"[{column.text(cell.low)}, {column.text(cell.high)}]"


def heading(column: Column) -> str:
    """Title with its arrow; the instrument stands on a second line."""
    return f"{column.metric.title} {column.metric.arrow}"


def titled_tables(found: Analysis) -> list[tuple[str, list[list[str]]]]:
    """Ranks and fronts: title, then heading and rows; without those that have no rows."""
    tables = (
        (BEST, best_table(found.rankings, found.board)),
        (PARETO, pareto_table(found.pareto, found.board)),
        (AREA, front_table(found.fronts)),
    )
    return [(title, rows) for title, rows in tables if rows]


def to_csv(found: Analysis) -> str:
    """Long form: one line a row and score key, then the costs; every digit kept."""
    buffer, board = io.StringIO(), found.board
    writer = csv.DictWriter(buffer, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for group in board.groups:
        of_group: dict[str, object] = {
            "row": group.label,
            "family": group.family,
            "planned_seeds": group.planned,
        }
        for key in board.all_keys:
            writer.writerows(_csv_cells(of_group | {"kind": "score"}, key, group.cell(key)))
        for name, value in cost_values(group).items():
            if value is not None:
                cost = {"kind": "cost", "quantity": name, "value": repr(value)}
                writer.writerow(of_group | cost | {"seeds": group.seeds})
    for row in board.references:
        for key in row.scores:
            of_row: dict[str, object] = {"row": row.label, "kind": "reference"}
            writer.writerows(_csv_cells(of_row, key, row.cell(key)))
    for ranking in found.rankings:
        of_ranking = {"quantity": metric_of(ranking.key).name, "key": ranking.key}
        for label, shares in ranking.probabilities.items():
            for rank, share in enumerate(shares, 1):
                world = {"kind": f"probability of rank {rank}", "basis": ranking.basis}
                writer.writerow(of_ranking | world | {"row": label, "value": repr(share)})
    for summary in found.fronts:
        of_front = {"kind": "front", "quantity": "hypervolume share"}
        of_front["key"] = f"{summary.y_key} {summary.x_key}"
        for label, share in summary.volumes.items():
            writer.writerow(of_front | {"row": label, "value": repr(share)})
    for front in found.pareto:
        for point in front.points:
            of_point = {"row": point.label, "kind": "pareto", "quantity": front.cost}
            told = {"value": repr(point.value), "note": point.standing, "key": front.key}
            writer.writerow(of_point | told)
    return buffer.getvalue()


CSV_COLUMNS = (
    "row", "family", "kind", "quantity", "value", "ci_low", "ci_high", "sd", "seeds",
    "planned_seeds", "basis", "note", "key",
)  # fmt: skip

COMPARISON_COLUMNS = (
    "first", "second", "metric", "first_value", "second_value", "difference", "ci_low", "ci_high",
    "p_value", "p_holm", "test", "verdict", "first_seeds", "second_seeds", "key",
)  # fmt: skip


def comparisons_csv(found: Analysis) -> str:
    """One line a pair and score: the difference, its test and the verdict in words."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COMPARISON_COLUMNS)
    seeds = {group.label: group.seeds_text for group in found.board.groups}
    for pair in found.pairs:
        for row in pair.differences:
            numbers = (row.first, row.second, row.difference, row.low, row.high)
            writer.writerow(
                [pair.first, pair.second, metric_of(row.key).name]
                + [repr(float(number)) for number in (*numbers, row.p_value, row.adjusted)]
                + [row.method, row.verdict(pair.first, pair.second)]
                + [seeds[pair.first], seeds[pair.second], row.key]
            )
    return buffer.getvalue()


def to_markdown(found: Analysis) -> str:
    """Two Markdown tables, ranks and fronts, verdicts, and the keys as footnotes."""
    board = found.board
    titles = [
        f"{heading(c)}<br>{c.instrument}<sup>{i}</sup>" for i, c in enumerate(board.columns, 1)
    ]
    lines = [
        _line(["Model", "Family", "Seeds", *titles]),
        "|---|---|---|" + "---:|" * len(titles),
    ]
    for group in board.groups:
        cells = []
        for column in board.columns:
            cell = group.cell(column.key)
            text = cell_text(cell, column)
            partial = partial_text(cell, group) if cell is not None else ""
            text = f"**{text}**" if found.leads(group, column) else text
            cells.append(f"{text} ({partial})" if partial else text)
        seeds = group.seeds_text.removesuffix("s").removesuffix(" seed")
        lines.append(_line([group.label, group.family, seeds, *cells]))
    for reference in board.references:
        cells = [cell_text(reference.cell(c.key), c) for c in board.columns]
        lines.append(_line([f"*{reference.label}*", "", "", *cells]))
    lines += ["", _line(["Model", *(title for title, _ in COSTS)])]
    lines.append("|---|" + "---:|" * len(COSTS))
    lines += [_line([g.label, *(text(g) for _, text in COSTS)]) for g in board.groups]
    for title, rows in titled_tables(found):
        lines += ["", f"{title}:", "", _line(rows[0])]
        lines.append("|---|" + "---:|" * (len(rows[0]) - 1))
        lines += [_line(row) for row in rows[1:]]
    lines += ["", *front_sentences(found.fronts)] if found.fronts else []
    lines += ["", caption(found), ""]
    lines += [f"{i}. `{column.key}`" for i, column in enumerate(board.columns, 1)]
    cautions = found.cautions()
    lines += ["", *cautions] if cautions else []
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    """A row of a Markdown table; a bar in a cell would end it."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def caption(found: Analysis) -> str:
    """What the intervals and the bold type mean."""
    board = found.board
    basis = {cell.basis for g in board.groups for c in board.columns if (cell := g.cell(c.key))}
    said = "±: half the 95% interval"
    if basis == {"training seeds"}:
        said += " over training seeds (Student's t), sd: their standard deviation"
    elif basis == {"samples"}:
        said += " over samples of one training seed; it does not cover another training"
    else:
        said += " over training seeds (sd: their standard deviation), or over samples where a row "
        said += "has 1 seed"
    bold = "Bold: the best and those not distinguishable from it." if found.pairs else ""
    return " ".join(part for part in (f"{said}.", bold, found.family) if part)


def cost_values(group: Group) -> dict[str, float | None]:
    """Parameters, training and sampling costs of a group, None where unknown."""
    return {
        "parameters": group.parameters,
        "train_images": group.cost("train_images"),
        "train_flops_with_parts": group.training_flops,
        **{f"train_flops of {name}": flops for name, flops in group.flops_by_part.items()},
        "train_seconds_with_parts": group.training_seconds,
        "parts_flops": group.cost("parts_flops"),
        "sample_flops_per_image": group.cost("sample_flops_per_image"),
        "seconds_per_image_batch_1": group.cost("seconds_per_image_batch_1"),
        "seconds_per_image_best": group.cost("seconds_per_image_best"),
        "peak_memory_gib": group.cost("peak_memory_gib"),
        "joules_per_image": group.cost("joules_per_image"),
    }


def _csv_cells(of_row: dict[str, object], key: str, cell: Cell | None) -> list[dict[str, object]]:
    """A line for a cell, none where there is no score."""
    if cell is None:
        return []
    return [
        of_row
        | {
            "quantity": metric_of(key).name,
            "value": repr(cell.value),
            "ci_low": repr(cell.low),
            "ci_high": repr(cell.high),
            "sd": "" if cell.sd is None else repr(cell.sd),
            "seeds": cell.seeds,
            "basis": cell.basis,
            "note": cell.note,
            "key": key,
        }
    ]
