"""Pieces of the page's HTML: tables, figures, sheets. Every text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby

from t2ibench.reporting.render.chart import Chart
from t2ibench.reporting.render.findings import Finding
from t2ibench.reporting.render.pair_tables import PairTables
from t2ibench.reporting.render.sheets import ContactSheet, Sheet
from t2ibench.reporting.render.svg import draw, marker
from t2ibench.reporting.render.table import Cell, Column, Row, Table
from t2ibench.reporting.statistics.groups import seeds_text


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


def table(found: Table, kind: str = "") -> str:
    """A neutral table whose first row and column are headings; nothing where it has no rows.

    Args:
        found: what is shown.
        kind: CSS class.
    """
    if not found:
        return ""
    shown = found.printed
    body = shown.unfolded
    edges = _edges(body.columns)
    heads = "".join(
        _heading(column, edge) for column, edge in zip(body.columns, edges, strict=True)
    )
    rows = "".join(
        _row(row, shown.folded(whole), body.columns, edges)
        for row, whole in zip(body.rows, shown.rows, strict=True)
    )
    attribute = f' class="{kind}"' if kind else ""
    return scroll(
        found.title,
        f"<table{attribute}><thead>{_groups(body.columns)}"
        f'<tr><th scope="col">{escape(found.corner)}</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>",
    )


def titled(found: Table) -> str:
    """A neutral table under its title, its notes below."""
    if not found:
        return ""
    return f"<h3>{escape(found.title)}</h3>{table(found)}{sentences(found.notes)}"


def _groups(columns: Sequence[Column]) -> str:
    """Headings over neighbouring columns, with what measured them; nothing without any."""
    if not any(column.group for column in columns):
        return ""
    heads = []
    for (name, instrument), members in groupby(columns, key=lambda c: (c.group, c.instrument)):
        span = f'colspan="{len(list(members))}"'
        heads.append(
            f'<th scope="colgroup" {span}>{escape(name)}<small>{escape(instrument)}</small></th>'
            if name
            else f"<td {span}></td>"
        )
    return f'<tr class="groups"><td></td>{"".join(heads)}</tr>'


def _edges(columns: Sequence[Column]) -> list[bool]:
    """Where a group of columns begins."""
    groups = [("", ""), *((column.group, column.instrument) for column in columns)]
    return [new != old for old, new in zip(groups, groups[1:], strict=False)]


def _classes(**names: bool) -> str:
    """A class attribute of those that hold; nothing without any."""
    held = " ".join(name for name, holds in names.items() if holds)
    return f' class="{held}"' if held else ""


def _heading(column: Column, edge: bool) -> str:
    number = column.footnote
    link = f'<sup><a href="#key{number}">{number}</a></sup>' if number else ""
    alone = column.instrument and not column.group
    small = f"<small>{escape(column.instrument)}</small>" if alone else ""
    classes = _classes(text=column.words, edge=edge)
    return f'<th scope="col"{classes}>{escape(column.heading)}{link}{small}</th>'


def _row(row: Row, below: str, columns: Sequence[Column], edges: Sequence[bool]) -> str:
    if row.heading:
        span = f'scope="rowgroup" colspan="{len(columns) + 1}"'
        return f'<tr class="section"><th {span}>{escape(row.label)}</th></tr>'
    small = f'<small class="sub">{escape(below)}</small>' if below else ""
    cells = "".join(
        _cell(cell, column, edge)
        for cell, column, edge in zip(row.cells, columns, edges, strict=True)
    )
    return (
        f'<tr{_classes(reference=row.reference)}><th scope="row">{escape(row.label)}{small}</th>'
        f"{cells}</tr>"
    )


def _cell(cell: Cell, column: Column, edge: bool) -> str:
    wraps = column.least_width > 0 and cell.value is not None
    classes = _classes(lead=cell.lead, text=column.words, wraps=wraps, edge=edge)
    measured = cell.interval and cell.seeds is not None
    tip = f' title="{cell.interval}, {seeds_text(cell.seeds or 0)}"' if measured else ""
    flag = f'<abbr title="{escape(cell.note, quote=True)}">*</abbr>' if cell.note else ""
    small = "".join(f"<small>{escape(detail)}</small>" for detail in cell.details)
    return f"<td{classes}{tip}>{escape(cell.text)}{flag}{small}</td>"


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


def contact(sheets: Sequence[ContactSheet], count: int) -> str:
    """Many small samples of each model, behind a disclosure."""
    if not sheets:
        return ""
    figures = [
        f'<figure><figcaption>{escape(sheet.label)}</figcaption><img src="{sheet.image}" '
        f'style="--w:{sheet.width}px" '
        f'alt="{count} samples of {escape(sheet.label, quote=True)} in a grid"></figure>'
        for sheet in sheets
    ]
    return (
        f"<details><summary>More samples <small>the first {count} of each model</small></summary>"
        f'<div class="inner"><div class="contact">{"".join(figures)}</div></div></details>'
    )


def pair(found: PairTables) -> str:
    """One pair behind a disclosure: verdicts, then what differs in the configuration."""
    caveat = f'<p class="warn">{escape(found.caveat)}</p>' if found.caveat else ""
    same = "<p>Their configurations differ in nothing that changes a result.</p>"
    return (
        f"<details><summary>{escape(found.verdicts.title)} "
        f'<small>{escape(found.tally)}</small></summary><div class="inner">{caveat}'
        f"{table(found.verdicts, 'verdicts')}{titled(found.configuration) or same}</div></details>"
    )


def keys(found: Table) -> str:
    """What each column means and its whole key, numbered as in the table."""
    items = [
        f'<li id="key{column.footnote}"><b>{escape(column.title)}</b> {column.arrow} '
        f"{escape(column.meaning)}<code>{escape(column.key)}</code></li>"
        for column in found.columns
        if column.footnote
    ]
    return f'<ol class="keys">{"".join(items)}</ol>'


def warnings(messages: Sequence[str]) -> str:
    """Leaks and other things that a reader must know before trusting a number."""
    return "".join(f'<p class="warn">{escape(message)}</p>' for message in messages)


def definition_list(facts: dict[str, str]) -> str:
    """The facts under the title."""
    items = [f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items()]
    return f'<dl class="facts">{"".join(items)}</dl>'


def findings(found: Sequence[Finding]) -> str:
    """Cards: what was asked, who leads with what extras, by how much."""
    items = []
    for card in found:
        given = f'<span class="given">given {escape(card.given)}</span>' if card.given else ""
        items.append(
            f'<li><span class="what">{escape(card.question)}</span>'
            f'<span class="best">{escape(card.leader)}</span>{given}'
            f'<span class="why">{escape(card.sentence)}</span></li>'
        )
    return f'<ul class="findings">{"".join(items)}</ul>' if items else ""
