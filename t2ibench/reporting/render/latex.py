r"""The comparison as a LaTeX table: ``\input{leaderboard.tex}``, with booktabs and graphicx."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby

from t2ibench.reporting.render.content import Content
from t2ibench.reporting.render.table import Cell, Column, Row, Table

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

LONG_WORDS = 28
"""Words of more characters break into lines, where their column allows it."""


def to_latex(content: Content) -> str:
    """A ``table`` of scores, costs below; bold: the best and those not distinguishable from it.

    The key of each column stands in the notes, without which a number says little.
    """
    keys = [
        rf"$^{{{column.footnote}}}$ \texttt{{{_breakable(column.key)}}}\quad"
        for column in content.scores.columns
        if column.footnote
    ]
    return "\n".join(
        [
            r"% Written by `t2ibench compare`; "
            r"needs \usepackage{booktabs} and \usepackage{graphicx}.",
            r"\begin{table}",
            r"\centering\footnotesize",
            rf"\caption{{{escape(content.caption())}}}",
            latex_table(content.scores),
            "",
            r"\medskip",
            latex_table(_costs(content)),
            "",
            r"\smallskip\raggedright\scriptsize",
            *keys,
            *(
                rf"\par {escape(sentence)}"
                for sentence in (*content.costs.notes, *content.cautions)
            ),
            r"\end{table}",
            "",
        ]
    )


def escape(text: str) -> str:
    r"""Text that LaTeX prints as it is: ``a_b & 5%`` as ``a\_b \& 5\%``."""
    return re.sub("|".join(map(re.escape, SPECIAL)), lambda match: SPECIAL[match[0]], text)


def latex_table(table: Table) -> str:
    """A neutral table as a ``tabular`` as wide as the text."""
    shown = table.printed
    body = shown.unfolded
    alignment = "".join("l" if column.words else "r" for column in body.columns)
    lines = [
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{alignment}}}",
        r"\toprule",
        *_headings(body),
        r"\midrule",
    ]
    references = False
    for row, whole in zip(body.rows, shown.rows, strict=True):
        if row.reference and not references:
            lines.append(r"\midrule")
            references = True
        if row.heading:
            span = (
                rf"\multicolumn{{{len(body.columns) + 1}}}{{l}}{{\textit{{{escape(row.label)}}}}}"
            )
            lines += [r"\midrule"] * (lines[-1] != r"\midrule") + [_row([span])]
            continue
        cells = map(_cell, body.columns, row.cells)
        lines.append(_row([_label(row, shown.folded(whole)), *cells]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}"])


def _costs(content: Content) -> Table:
    """Costs, and where each model stands in quality against them."""
    fronts = tuple(replace(c, title=f"{c.title}: front") for c in content.pareto.columns)
    standings = {row.label: row.cells for row in content.pareto.rows}
    rows = tuple(replace(row, cells=row.cells + standings[row.label]) for row in content.costs.rows)
    return replace(content.costs, columns=content.costs.columns + fronts, rows=rows)


def _headings(table: Table) -> list[str]:
    """Groups of columns over their instrument, rules below, then the columns."""
    spans = [
        (name, instrument, len(list(members)))
        for (name, instrument), members in groupby(
            table.columns, key=lambda column: (column.group, column.instrument)
        )
    ]
    names, instruments, rules, at = [""], [""], "", 2
    for name, instrument, width in spans:
        names.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(name)}}}")
        instruments.append(rf"\multicolumn{{{width}}}{{c}}{{\scriptsize {escape(instrument)}}}")
        rules += rf"\cmidrule(lr){{{at}-{at + width - 1}}}" if name else ""
        at += width
    titles = _row([escape(table.corner), *map(_heading, table.columns)])
    return [_row(names), _row(instruments), rules, titles] if rules else [titles]


def _heading(column: Column) -> str:
    number = rf"$^{{{column.footnote}}}$" if column.footnote else ""
    return escape(column.heading) + number


def _label(row: Row, below: str) -> str:
    """A reference in italics; under a model's name its family and seeds."""
    if row.reference:
        return rf"\textit{{{escape(row.label)}}}"
    return escape(row.label) + (rf" {{\tiny {escape(below)}}}" if below else "")


def _cell(column: Column, cell: Cell) -> str:
    """The value with its interval, bold where it leads, and on how few seeds it rests."""
    text = escape(cell.text)
    if column.least_width and len(cell.text) > LONG_WORDS:
        return rf"\parbox[t]{{3.2cm}}{{\raggedright {text}\strut}}"
    shown = rf"\textbf{{{text}}}" if cell.lead else text
    shown += "$^*$" if cell.note else ""
    if cell.spread:
        deviation = f" ({cell.deviation})" if cell.deviation else ""
        shown += rf" {{\tiny {escape(cell.spread + deviation)}}}"
    return f"{shown} ({escape(cell.partial)})" if cell.partial else shown


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _breakable(key: str) -> str:
    """A key that may break after its bars."""
    return escape(key).replace(r"\textbar{}", r"\textbar{}\allowbreak{}")
