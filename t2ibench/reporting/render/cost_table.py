"""What each model costs to train and to sample, as a neutral table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from t2ibench.reporting.render.numbers import count_text, flops_text, seconds_text
from t2ibench.reporting.render.table import WORDS_WIDTH, Cell, Column, Row, Table, number, words
from t2ibench.reporting.statistics.groups import Group, seeds_text

BRIEF = {"discriminator": "D", "generator": "G", "text_encoder": "text", "optimizer": "optim."}
"""Short names of parts."""

TIME_NOTE = (
    "± beside a time: half the spread between the quartiles of its timed calls; it says how quiet "
    "the machine was, nothing about another training."
)

TITLE = "Costs (first stage included; encoding the training set once, by frozen parts, is not)"

TIME_TITLES = {
    "seconds_per_image_batch_1": "Time/image, batch 1",
    "seconds_per_image_best": "Time/image, best",
}

cost = partial(Column, kind="cost")


def cost_table(groups: Sequence[Group]) -> Table:
    """Builds the table of costs, the first stage included."""
    parts = list(dict.fromkeys(part for group in groups for part in group.flops_by_part))
    columns = (
        cost("knob", "Knob", words=True, least_width=WORDS_WIDTH),
        cost("parameters", "Parameters"),
        cost("train_images", "Train images"),
        cost("train_flops_with_parts", "Train FLOPs"),
        cost("train_flops_shares", "of which, %", words=True, least_width=WORDS_WIDTH),
        *(cost(f"train_flops of {part}", f"FLOPs of {part}", printed=False) for part in parts),
        cost("encoding_flops", "FLOPs of encoding", printed=False),
        cost("train_seconds_with_parts", "Train time"),
        cost("parts_flops", "Parts' FLOPs", printed=False),
        cost("sample_flops_per_image", "FLOPs/image"),
        *(
            column
            for name, title in TIME_TITLES.items()
            for column in (
                cost(name, title),
                cost(f"{name}_iqr", f"{title}: spread between quartiles", printed=False),
                cost(f"{name}_busy", f"{title}: busy machine", words=True, printed=False),
            )
        ),
        cost("peak_memory_gib", "Memory, GiB", printed=False),
        cost("joules_per_image", "Joules/image", printed=False),
    )
    rows = tuple(
        Row(
            group.label,
            tuple(c if c.seeds else replace(c, seeds=group.seeds) for c in _cells(group, parts)),
        )
        for group in groups
    )
    spreads = any(cell.spread for row in rows for cell in row.cells)
    return Table(TITLE, "Model", columns, rows, (TIME_NOTE,) if spreads else ())


def _cells(group: Group, parts: Sequence[str]) -> tuple[Cell, ...]:
    """One a column."""
    by_part = group.flops_by_part
    return (
        words(_knob_text(group)),
        number(group.parameters, count_text),
        number(group.cost("train_images"), count_text),
        number(group.training_flops, flops_text),
        words(_shares_text(by_part)),
        *(number(by_part.get(part), flops_text) for part in parts),
        number(group.encoding_flops, flops_text),
        number(group.training_seconds, seconds_text),
        number(group.cost("parts_flops"), flops_text),
        number(group.cost("sample_flops_per_image"), flops_text),
        *(cell for name in TIME_TITLES for cell in _time_cells(group, name)),
        number(group.cost("peak_memory_gib"), "{:.3g}".format),
        number(group.cost("joules_per_image"), "{:.3g}".format),
    )


def _time_cells(group: Group, name: str) -> tuple[Cell, Cell, Cell]:
    """A time with its spread beside it, the spread between quartiles, why it is no quiet one."""
    time = group.time(name)
    if time is None:
        return Cell(), Cell(), Cell()
    shown = Cell(
        seconds_text(time.seconds),
        time.seconds,
        seeds=time.runs,
        spread="" if time.iqr is None else f"±\u2009{seconds_text(time.iqr / 2)}",
        partial=seeds_text(time.runs, group.planned) if time.left_out else "",
        note=time.note,
    )
    return shown, number(time.iqr, seconds_text), words(time.busy)


def _knob_text(group: Group) -> str:
    """``guidance_scale 1.5``, or the range over training seeds, and whether a sweep ended there."""
    values = sorted({v for run in group.runs if (v := run.scores.chosen.value) is not None})
    if not values:
        return ""
    name = group.runs[0].scores.knob["name"]
    edge = ", sweep’s edge" if any(run.scores.knob.get("edge") for run in group.runs) else ""
    shown = "–".join(f"{value:g}" for value in dict.fromkeys([values[0], values[-1]]))
    return f"{name} {shown}{edge}"


def _shares_text(by_part: dict[str, float]) -> str:
    """``D 62, G 32, text 6``: percents of the training FLOPs; what is under 1 is left out."""
    whole = sum(by_part.values())
    shares = [(BRIEF.get(name, name), 100 * flops / whole) for name, flops in by_part.items()]
    return ", ".join(f"{name} {share:.0f}" for name, share in shares if share >= 1)
