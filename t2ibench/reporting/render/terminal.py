"""The comparison on a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console

from t2ibench.reporting.render.content import Content
from t2ibench.reporting.render.pair_tables import PairTables
from t2ibench.reporting.render.table import Table
from t2ibench.reporting.render.terminal_table import fitted_tables, instrument_letters
from t2ibench.reporting.statistics.analysis import Analysis
from t2ibench.reporting.statistics.comparisons import ABSENT

PLAIN_LEAD = "•"
"""Mark of a leading score where there is no bold type."""

SETTINGS_OF_ONE = 10
"""More settings that only one of two models has are counted, not listed."""

MOST_PAIRS = 21
"""Of more pairs (7 models) only those with the first row are printed; files hold them all."""

WIDTH_WITH_TEST = 118
"""A narrower terminal's verdicts go without how each score was tested."""


def terminal_text(analysis: Analysis, width: int = 160, colour: bool = False) -> str:
    """The leaderboard and the costs, then what a reader must know.

    Args:
        analysis: the comparison.
        width: of the terminal, in characters.
        colour: whether it shows bold type and colours; else leading scores are marked.
    """
    content, screen = Content(analysis), _Screen(width, colour)
    screen.show(content.scores, stacked=True)
    screen.say(content.caption("Bold" if colour else PLAIN_LEAD))
    screen.show(content.costs)
    screen.say(*content.costs.notes)
    if any(
        c.note for t in (content.scores, content.costs) for r in t.printed.rows for c in r.cells
    ):
        screen.say("*: see the notes below.")
    screen.say(*content.cautions)
    return screen.text


def verdict_text(analysis: Analysis, width: int = 120, colour: bool = False) -> str:
    """Ranks and fronts, then a table of verdicts for each pair and what differs in their settings.

    Args:
        analysis: the comparison.
        width: of the terminal, in characters; a narrow one is not told how a score was tested.
        colour: whether it shows bold type and colours.
    """
    content, screen = Content(analysis), _Screen(width, colour)
    for table in content.standings:
        screen.show(table)
        screen.say(*table.notes)
    screen.say("")
    for pair in shown_pairs(content.pairs, analysis.leaderboard.groups[0].label):
        screen.show(pair.verdicts.where(lambda c: c.name != "test" or width >= WIDTH_WITH_TEST))
        screen.say(*filter(None, [pair.caveat]))
        screen.say(*setting_lines(pair.configuration), "")
    screen.say(*filter(None, [content.correction]))
    if len(content.pairs) > MOST_PAIRS:
        screen.say(
            f"Printed: the pairs with {analysis.leaderboard.groups[0].label}. out=FOLDER writes "
            f"all {len(content.pairs)}; where= and metric= compare less, with more power."
        )
    return screen.text


def shown_pairs(pairs: Sequence[PairTables], first: str) -> list[PairTables]:
    """All pairs, or of too many those with one model."""
    if len(pairs) <= MOST_PAIRS:
        return list(pairs)
    return [pair for pair in pairs if first in (pair.first, pair.second)]


def setting_lines(configuration: Table) -> list[str]:
    """Lines of the settings in which two models differ; a page and JSON list them all.

    Where they have more than ``SETTINGS_OF_ONE`` that the other does not have at all, as models of
    two families do, those are counted.
    """
    values = [(row.label, *(cell.text for cell in row.cells)) for row in configuration.rows]
    common = [found for found in values if ABSENT not in found[1:]]
    left_out = len(values) - len(common)
    if left_out <= SETTINGS_OF_ONE:
        common, left_out = values, 0
    lines = [f"  {key}: {first} | {second}" for key, first, second in common]
    if left_out:
        lines.append(f"  and {left_out} settings that only one of the two has")
    return lines


class _Screen:
    """A terminal of a given width, kept as text."""

    def __init__(self, width: int, colour: bool) -> None:
        self._mark = "" if colour else PLAIN_LEAD
        self._buffer = io.StringIO()
        self._console = Console(
            file=self._buffer,
            width=width,
            force_terminal=colour,
            no_color=not colour,
            force_jupyter=False,
        )

    @property
    def text(self) -> str:
        """All that was printed."""
        return self._buffer.getvalue()

    def say(self, *sentences: str) -> None:
        """Prints sentences."""
        for sentence in sentences:
            self._console.print(sentence, markup=False, highlight=False)

    def show(self, table: Table, stacked: bool = False) -> None:
        """Prints a neutral table under its title, its instruments' letters below."""
        self._console.print(table.title, style="italic", markup=False, highlight=False)
        for part in fitted_tables(table, self._console.width, self._mark, stacked):
            self._console.print(part)
        letters = instrument_letters(table)
        if letters:
            self.say(", ".join(f"{letter} = {name}" for name, letter in letters.items()) + ".")
