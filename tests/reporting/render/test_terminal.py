import re

import pytest

from t2ibench.reporting import terminal_text, verdict_text
from t2ibench.reporting.render.table import Cell, Column, Row, Table
from t2ibench.reporting.render.terminal import setting_lines
from t2ibench.reporting.render.terminal_table import fitted_tables

NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.mark.parametrize("width", [60, 80, 140])
def test_tables_fit_the_terminal_and_lose_no_number(analysis, content, width):
    text = terminal_text(analysis, width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    printed = set(NUMBER.findall(text))
    for row in content.scores.printed.rows:
        for cell in row.cells:
            for shown in (cell.text, cell.spread, cell.deviation):
                assert set(NUMBER.findall(shown)) <= printed


def test_the_usual_table_is_in_one_part_at_140_columns(analysis):
    text = terminal_text(analysis, width=140)
    assert text.count("┃ Model") == 2, "scores and costs"
    words = ("ldm", "3 seeds", "sd 0.", "Real vs real", "FLOPs/image", "half the 95% interval")
    assert all(word in text for word in words)
    assert "a = efficientnet-lite0-in1k" in text


def test_leading_scores_are_marked_with_and_without_bold_type(analysis, content):
    leading = [cell.text for row in content.scores.printed.rows for cell in row.cells if cell.lead]
    plain, bold = terminal_text(analysis, 140), terminal_text(analysis, 140, colour=True)
    table = plain.split("a = ")[0]
    assert len(leading) == table.count("•") and "•: the best and those" in plain
    assert all(f"•{text}" in table for text in leading)
    assert "\x1b[1;32m" in bold and "•" not in bold and "Bold: the best" in bold


def test_verdicts_of_a_narrow_terminal_go_without_the_tests(analysis):
    wide, narrow = verdict_text(analysis, 140), verdict_text(analysis, 100)
    assert "paired by prompt" in wide and "paired by prompt" not in narrow
    assert max(len(line) for line in narrow.splitlines()) <= 100
    assert "not distinguishable" in narrow and "Probability of being the best" in narrow


def test_foreign_text_is_no_markup():
    table = Table("t", "Model", (Column("x", "[red]x"),), (Row("[bold]a", (Cell("[/]"),)),))
    (made,) = fitted_tables(table, 80)
    assert [str(cell) for cell in made.columns[0].cells] == ["[bold]a"]
    assert [str(cell) for cell in made.columns[1].cells] == ["[/]"]


def test_settings_of_one_model_alone_are_counted_where_they_are_many():
    columns = (Column("first", "a"), Column("second", "b"))

    def lines(alone):
        rows = [Row("seed", (Cell("0"), Cell("1")))]
        rows += [Row(f"key{i}", (Cell("–"), Cell(str(i)))) for i in range(alone)]
        return setting_lines(Table("t", "Key", columns, tuple(rows)))

    assert lines(10)[:2] == ["  seed: 0 | 1", "  key0: – | 0"] and len(lines(10)) == 11
    assert lines(11) == ["  seed: 0 | 1", "  and 11 settings that only one of the two has"]


def test_text_stays_text_in_a_notebook(analysis, monkeypatch):
    wanted = terminal_text(analysis, 100)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert terminal_text(analysis, 100) == wanted
