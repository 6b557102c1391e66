"""Pieces of the page's HTML: tables, figures, sheets. Every text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from t2ibench.report.analysis import Analysis
from t2ibench.report.columns import metric_of, titles_of
from t2ibench.report.compare import NO_DIFFERENCE, Comparison
from t2ibench.report.formats import (
    COSTS,
    heading,
    interval_text,
    partial_text,
    sd_text,
    spread_text,
)
from t2ibench.report.groups import Cell, Group, seeds_text
from t2ibench.report.sheets import Sheet
from t2ibench.report.svg import Chart, draw, marker
from t2ibench.report.tables import Column, Leaderboard


def section(title: str, lead: str, *parts: str) -> str:
    """A titled section, or nothing where it has no content."""
    content = "\n".join(part for part in parts if part)
    if not content:
        return ""
    said = f"<p>{escape(lead)}</p>" if lead else ""
    return f"<section><h2>{escape(title)}</h2>{said}\n{content}</section>"


def scroll(label: str, table: str) -> str:
    """A box in which a wide table scrolls; reachable by keyboard."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{table}</div>'
    )


def score_table(found: Analysis) -> str:
    """The leaderboard with floor and ceilings."""
    board = found.board
    heads, edges = [], set()
    for (name, instrument), members in groupby(
        enumerate(board.columns), key=lambda item: (item[1].metric.group, item[1].instrument)
    ):
        positions = [position for position, _ in members]
        edges.add(positions[0])
        heads.append(
            f'<th scope="colgroup" colspan="{len(positions)}">{escape(name)}'
            f"<small>{escape(instrument)}</small></th>"
        )
    titles = [
        f'<th scope="col"{_edge(i, edges)}>{escape(heading(column))}'
        f'<sup><a href="#key{i + 1}">{i + 1}</a></sup></th>'
        for i, column in enumerate(board.columns)
    ]
    rows = []
    for group in board.groups:
        cells = [
            _cell(group.cell(c.key), c, found.leads(group, c), _edge(i, edges, "lead"), group)
            for i, c in enumerate(board.columns)
        ]
        sub = f"{escape(group.family)}, {group.seeds_text}"
        head = f'{escape(group.label)}<small class="sub">{sub}</small>'
        rows.append(f'<tr><th scope="row">{head}</th>{"".join(cells)}</tr>')
    for reference in board.references:
        cells = [
            _cell(reference.cell(c.key), c, False, _edge(i, edges))
            for i, c in enumerate(board.columns)
        ]
        rows.append(
            f'<tr class="reference"><th scope="row">{escape(reference.label)}</th>'
            f"{''.join(cells)}</tr>"
        )
    return scroll(
        "Leaderboard",
        f'<table class="scores"><thead><tr class="groups"><th></th>{"".join(heads)}</tr>'
        f'<tr><th scope="col">Model</th>{"".join(titles)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>",
    )


def _edge(position: int, edges: set[int], lead: str = "") -> str:
    return (
        ' class="edge"'
        if position in edges and not lead
        else (" edge" if position in edges else "")
    )


def _cell(
    cell: Cell | None, column: Column, leads: bool, edge: str, group: Group | None = None
) -> str:
    classes = " ".join(name for name, on in (("lead", leads), ("edge", "edge" in edge)) if on)
    attribute = f' class="{classes}"' if classes else ""
    if cell is None:
        return f"<td{attribute}>–</td>"
    flag = f'<abbr title="{escape(cell.note, quote=True)}">*</abbr>' if cell.note else ""
    below = [spread_text(cell, column), sd_text(cell, column), partial_text(cell, group)]
    small = "".join(f"<small>{text}</small>" for text in below if text)
    return (
        f'<td{attribute} title="{interval_text(cell, column)}, {seeds_text(cell.seeds)}">'
        f"{column.text(cell.value)}{flag}{small}</td>"
    )


def cost_table(board: Leaderboard) -> str:
    """Parameters, training and sampling costs."""
    heads = "".join(f'<th scope="col">{escape(title)}</th>' for title, _ in COSTS)
    rows = "".join(
        f'<tr><th scope="row">{escape(group.label)}</th>'
        + "".join(f"<td>{escape(text(group))}</td>" for _, text in COSTS)
        + "</tr>"
        for group in board.groups
    )
    return scroll(
        "Costs",
        f'<table class="costs"><thead><tr><th scope="col">Model</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>",
    )


def plain_table(title: str, rows: Sequence[Sequence[str]]) -> str:
    """A titled table whose first row and column are headings; nothing where there are no rows."""
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in rows[0])
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(text)}</td>" for text in row[1:])
        + "</tr>"
        for row in rows[1:]
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f"<h3>{escape(title)}</h3>{scroll(title, table)}"


def sentences(said: Sequence[str]) -> str:
    """A list of sentences under a table."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in said)
    return f'<ul class="below">{items}</ul>' if items else ""


def legend(colours: dict[str, int]) -> str:
    """Marker and name of each model."""
    items = [
        f'<li><svg viewBox="0 0 14 14" aria-hidden="true">{marker(colour, 7, 7, 5)}</svg>'
        f"{escape(label)}</li>"
        for label, colour in colours.items()
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def charts(found: Sequence[Chart]) -> str:
    """Charts in a grid that becomes one column on a phone."""
    figures = [
        f"<figure><figcaption>{escape(chart.title)}<small>{escape(chart.subtitle)}</small>"
        f"</figcaption>{draw(chart)}</figure>"
        for chart in found
    ]
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def sheet(found: Sheet | None) -> str:
    """One card a prompt, the models' images side by side in it."""
    if found is None:
        return ""
    cards = []
    for caption, images in zip(found.captions, found.images, strict=True):
        pictures = [
            f'<span><img src="{uri}" width="{found.side}" height="{found.side}" '
            f'alt="{escape(f"{label}: {caption}", quote=True)}">{escape(label)}</span>'
            for label, uri in zip(found.labels, images, strict=True)
        ]
        cards.append(
            f'<figure><figcaption>{escape(caption)}</figcaption><div class="row">'
            f"{''.join(pictures)}</div></figure>"
        )
    width = max(200, min(104 * len(found.labels), 520))
    return f'<div class="sheet" style="--sheet:{width}px">{"".join(cards)}</div>'


def contact(sheets: Sequence[tuple[str, str, int]], count: int) -> str:
    """Many small samples of each model, behind a disclosure."""
    if not sheets:
        return ""
    figures = [
        f'<figure><figcaption>{escape(label)}</figcaption><img src="{uri}" style="--w:{width}px" '
        f'alt="{count} samples of {escape(label, quote=True)} in a grid"></figure>'
        for label, uri, width in sheets
    ]
    return (
        f"<details><summary>More samples <small>the first {count} of each model</small></summary>"
        f'<div class="inner"><div class="contact">{"".join(figures)}</div></div></details>'
    )


def comparison(found: Comparison) -> str:
    """One pair: verdicts a metric, then what differs in the configuration."""
    counts = {found.first: 0, found.second: 0, NO_DIFFERENCE: 0}
    rows, titles = [], titles_of([difference.key for difference in found.differences])
    for difference in found.differences:
        metric = metric_of(difference.key)
        verdict = difference.winner(found.first, found.second)
        counts[verdict] += 1
        low, high = (
            metric.text(v, like=difference.first) for v in (difference.low, difference.high)
        )
        interval, gap = f"[{low}, {high}]", metric.text(difference.difference, difference.first)
        rows.append(
            f'<tr><th scope="row">{escape(titles[difference.key])}</th>'
            f"<td>{metric.text(difference.first)}</td><td>{metric.text(difference.second)}</td>"
            f"<td>{gap}<small>{interval}</small></td>"
            f"<td>{p_text(difference.adjusted)}</td>"
            f'<td class="text">{escape(difference.verdict(found.first, found.second))}</td>'
            f'<td class="text">{escape(difference.method)}</td></tr>'
        )
    table = scroll(
        f"{found.first} against {found.second}",
        f'<table><thead><tr><th scope="col">Metric</th><th scope="col">{escape(found.first)}</th>'
        f'<th scope="col">{escape(found.second)}</th><th scope="col">Difference</th>'
        '<th scope="col">p (Holm)</th><th scope="col" style="text-align:left">Verdict</th>'
        '<th scope="col" style="text-align:left">Test</th>'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table>",
    )
    tally = (
        f"{found.first} better on {counts[found.first]}, {found.second} on {counts[found.second]}, "
        f"{NO_DIFFERENCE} on {counts[NO_DIFFERENCE]}"
    )
    caveat = f'<p class="warn">{escape(found.caveat)}</p>' if found.caveat else ""
    return (
        f"<details><summary>{escape(found.first)} against {escape(found.second)} "
        f'<small>{escape(tally)}</small></summary><div class="inner">{caveat}{table}'
        f"{_configuration(found)}</div></details>"
    )


def _configuration(found: Comparison) -> str:
    if not found.configuration:
        return "<p>Their configurations differ in nothing that changes a result.</p>"
    rows = "".join(
        f'<tr><td class="text"><code>{escape(key)}</code></td>'
        f'<td class="text">{escape(first)}</td><td class="text">{escape(second)}</td></tr>'
        for key, first, second in found.configuration
    )
    return "<h3>What differs in their configurations</h3>" + scroll(
        "Configuration difference",
        '<table><thead><tr><th scope="col">Key</th>'
        f'<th scope="col" style="text-align:left">{escape(found.first)}</th>'
        f'<th scope="col" style="text-align:left">{escape(found.second)}</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>",
    )


def p_text(p_value: float) -> str:
    """``< 0.001`` or three decimals."""
    return "&lt; 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def key_list(board: Leaderboard) -> str:
    """What each column means and its whole key, numbered as in the table."""
    items = [
        f'<li id="key{i}"><b>{escape(column.metric.title)}</b> {column.metric.arrow} '
        f"{escape(column.metric.meaning)}<code>{escape(column.key)}</code></li>"
        for i, column in enumerate(board.columns, 1)
    ]
    return f'<ol class="keys">{"".join(items)}</ol>'


def warnings(messages: Sequence[str]) -> str:
    """Leaks and other things that a reader must know before trusting a number."""
    return "".join(f'<p class="warn">{escape(message)}</p>' for message in messages)


def definition_list(facts: dict[str, str]) -> str:
    """The facts under the title."""
    items = [f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items()]
    return f'<dl class="facts">{"".join(items)}</dl>'


def findings(found: Sequence[tuple[str, str, str]]) -> str:
    """Cards: what was asked, who leads, by how much."""
    items = [
        f'<li><span class="what">{escape(what)}</span><span class="best">{escape(best)}</span>'
        f'<span class="why">{escape(why)}</span></li>'
        for what, best, why in found
    ]
    return f'<ul class="findings">{"".join(items)}</ul>' if items else ""
