r"""The comparison as a LaTeX table: ``\input{leaderboard.tex}``, with booktabs and graphicx."""

from __future__ import annotations

import re
from itertools import groupby

from t2ibench.report.analysis import Analysis
from t2ibench.report.columns import count_text, flops_text, seconds_text
from t2ibench.report.formats import caption, knob_text, partial_text
from t2ibench.report.groups import Cell, Group
from t2ibench.report.pareto import COSTS as COST_TITLES
from t2ibench.report.tables import Column, Leaderboard

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': "''",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "∞": r"$_\infty$",
    "³": r"$^3$",
    "–": "--",
    "≤": r"$\leq$",
    "\u2009": r"\,",
}
"""Characters that LaTeX reads as commands or that its Latin fonts lack."""

COSTS = (
    ("Parameters", lambda group: count_text(group.parameters)),
    ("Train FLOPs", lambda group: flops_text(group.training_flops)),
    ("Time/image", lambda group: seconds_text(group.cost("seconds_per_image_best"))),
    ("Knob", knob_text),
)


def escape(text: str) -> str:
    r"""Text that LaTeX prints as it is: ``a_b & 5%`` as ``a\_b \& 5\%``."""
    return re.sub("|".join(map(re.escape, SPECIAL)), lambda match: SPECIAL[match[0]], text)


def to_latex(found: Analysis) -> str:
    """A ``table`` of scores, costs below; bold: the best and those not distinguishable from it.

    The key of each column stands in the notes, without which a number says little.
    """
    board = found.board
    lines = [
        r"% Written by `t2ibench compare`; needs \usepackage{booktabs} and \usepackage{graphicx}.",
        r"\begin{table}",
        r"\centering\footnotesize",
        rf"\caption{{{escape(caption(found))}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * len(board.columns)}}}",
        r"\toprule",
        *_heads(board),
        r"\midrule",
        *(_model(found, group) for group in board.groups),
    ]
    if board.references:
        lines.append(r"\midrule")
    for reference in board.references:
        cells = [_cell(reference.cell(column.key), column, False) for column in board.columns]
        lines.append(_row([rf"\textit{{{escape(reference.label)}}}", *cells]))
    lines += [r"\bottomrule", r"\end{tabular}}", "", r"\medskip", *_costs(found)]
    lines += ["", r"\smallskip\raggedright\scriptsize"]
    lines += [
        rf"$^{{{i}}}$ \texttt{{{_breakable(column.key)}}}\quad"
        for i, column in enumerate(board.columns, 1)
    ]
    lines += [rf"\par {escape(sentence)}" for sentence in found.cautions()]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _heads(board: Leaderboard) -> list[str]:
    """Groups of metrics over their instrument, rules below, then the metrics."""
    spans = [
        (name, instrument, len(list(members)))
        for (name, instrument), members in groupby(
            board.columns, key=lambda column: (column.metric.group, column.instrument)
        )
    ]
    names, instruments, rules, at = [""], [""], "", 2
    for name, instrument, width in spans:
        names.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(name)}}}")
        instruments.append(rf"\multicolumn{{{width}}}{{c}}{{\scriptsize {escape(instrument)}}}")
        rules += rf"\cmidrule(lr){{{at}-{at + width - 1}}}"
        at += width
    titles = [
        f"{escape(c.metric.title)} {escape(c.metric.arrow)}$^{{{i}}}$"
        for i, c in enumerate(board.columns, 1)
    ]
    return [_row(names), _row(instruments), rules, _row(["Model", *titles])]


def _costs(found: Analysis) -> list[str]:
    """Costs, and where each model stands in quality against them."""
    fronts = [f"{COST_TITLES[front.cost]}: front" for front in found.pareto]
    titles = [*(title for title, _ in COSTS), *fronts]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(COSTS)}{'l' * len(fronts)}}}",
        r"\toprule",
        _row(["Model", *map(escape, titles)]),
        r"\midrule",
    ]
    for group in found.board.groups:
        texts = [text(group) for _, text in COSTS]
        texts += [front.standing(group.label) for front in found.pareto]
        lines.append(_row([escape(group.label), *map(escape, texts)]))
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _model(found: Analysis, group: Group) -> str:
    """A model's row; its seeds are named where it has fewer than planned."""
    label = escape(group.label)
    if group.seeds < group.planned:
        label += f" ({escape(group.seeds_text)})"
    cells = []
    for column in found.board.columns:
        cell = group.cell(column.key)
        partial = "" if cell is None else partial_text(cell, group)
        text = _cell(cell, column, found.leads(group, column))
        cells.append(f"{text} ({partial})" if partial else text)
    return _row([label, *cells])


def _cell(cell: Cell | None, column: Column, leads: bool) -> str:
    if cell is None:
        return "--"
    value = column.text(cell.value)
    shown = rf"\textbf{{{value}}}" if leads else value
    half = column.text((cell.high - cell.low) / 2)
    sd = "" if cell.sd is None else f" (sd {column.text(cell.sd)})"
    return rf"{shown} {{\tiny$\pm${half}{sd}}}"


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _breakable(key: str) -> str:
    """A key that may break after its bars."""
    return escape(key).replace(r"\textbar{}", r"\textbar{}\allowbreak{}")
