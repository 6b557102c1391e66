"""The neutral tables, and that every renderer renders all of them."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from html import unescape

import pytest
from run_folders import KEYS, write_run

from t2ibench.reporting import analyse, gather, terminal_text, verdict_text, wandb_tables
from t2ibench.reporting.render import html
from t2ibench.reporting.render.content import Content
from t2ibench.reporting.render.cost_table import cost_table
from t2ibench.reporting.render.csv_files import comparisons_csv, leaderboard_csv
from t2ibench.reporting.render.json_document import document
from t2ibench.reporting.render.latex import escape, latex_table, to_latex
from t2ibench.reporting.render.markdown import markdown_table, to_markdown
from t2ibench.reporting.render.page import render_page
from t2ibench.reporting.render.terminal_table import fitted_tables

CLIP_TEXT = "pretrained text encoder openai/clip-vit-large-patch14"


def flat(text):
    """Lines and blanks of any kind as one blank."""
    return re.sub(r"\s+", " ", text)


def bare(text):
    """Without blanks: a terminal breaks headings anywhere."""
    return re.sub(r"\s+", "", text)


def as_page(content):
    return flat(unescape(re.sub(r"<[^>]+>", "\n", render_page(content, "title"))))


def as_terminal(content):
    """At a width at which nothing breaks into lines."""
    return flat(terminal_text(content.analysis, 1000) + verdict_text(content.analysis, 1000))


DOCUMENTS = {
    "terminal": (as_terminal, flat),
    "Markdown": (to_markdown, str),
    "LaTeX": (to_latex, escape),
    "page": (as_page, flat),
}


def terminal_rows(table):
    (made,) = fitted_tables(table, 1000)
    columns = [[bare(str(cell)) for cell in column.cells] for column in made.columns]
    return list(zip(*columns, strict=True)), [bare(str(column.header)) for column in made.columns]


def markdown_rows(table):
    lines = [line for line in markdown_table(table).splitlines() if line.startswith("|")]
    head, _, *rows = [line.strip("| ").split(" | ") for line in lines]
    return rows, head


def latex_rows(table):
    lines = [one.removesuffix(r"\\") for one in latex_table(table).splitlines() if "&" in one]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)&", line)] for line in lines]
    heads = len(rows) - len(table.rows)
    return rows[heads:], rows[heads - 1]


def page_rows(table):
    root = ET.fromstring(html.table(table))
    rows = [[flat(" ".join(cell.itertext())) for cell in row] for row in root.iter("tr")]
    heads = len(rows) - len(table.rows)
    return rows[heads:], rows[heads - 1]


TABLES = {
    "terminal": (terminal_rows, bare),
    "Markdown": (markdown_rows, str),
    "LaTeX": (latex_rows, escape),
    "page": (page_rows, flat),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Runs that say what they are, with a missing score and a reference of its own key."""
    root = tmp_path_factory.mktemp("told")
    paper = {"origin": "paper", "given": []}
    own = {"origin": "own", "given": ["word labels", CLIP_TEXT]}
    runs = [write_run(root, "diffusion/ldm", seed, model=own) for seed in (0, 1)]
    runs += [write_run(root, "gan/gan_int_cls", 0, model=paper)]
    runs += [write_run(root, "autoregressive/vqgan_gpt", 0)]
    external = {"name": "other", "family": "external"}
    runs += [write_run(root, "gan/gan_int_cls", 7, model=external)]
    return Content(analyse(*gather(runs)))


@pytest.mark.parametrize("name", TABLES)
def test_every_renderer_shows_every_row_column_and_reference(told, name):
    """Cell by cell: headings, values, intervals, deviations, what stands below labels."""
    render, printed = TABLES[name]
    assert sum(row.reference for row in told.scores.rows) == 4
    tables = [told.scores, told.costs, told.ranks, told.pareto, told.knob_fronts]
    for pair in told.pairs:
        tables += [pair.verdicts, pair.configuration]
    for table in filter(None, tables):
        shown = table.printed
        body = shown if name == "Markdown" else shown.unfolded
        rows, heads = render(table)
        assert len(rows) == len(table.rows) and len(heads) == len(body.columns) + 1
        for column, head in zip(body.columns, heads[1:], strict=True):
            assert printed(column.title) in head
        for whole, row, cells in zip(shown.rows, body.rows, rows, strict=True):
            assert printed(row.label) in cells[0]
            assert name == "Markdown" or printed(shown.folded(whole)) in cells[0]
            for cell, text in zip(row.cells, cells[1:], strict=True):
                for part in (cell.text, *cell.details):
                    assert printed(part) in text, (table.title, row.label)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_document_holds_the_tables_and_what_must_be_known(told, name):
    """LaTeX holds no ranks and no verdicts, Markdown no verdicts."""
    render, printed = DOCUMENTS[name]
    text = render(told)
    tables = [told.scores, told.costs, told.pareto]
    if name != "LaTeX":
        tables += [told.ranks, told.knob_fronts]
    if name in ("terminal", "page"):
        tables += [pair.verdicts for pair in told.pairs]
    for table in tables:
        for row in table.printed.rows:
            for words in (row.label, *(cell.text for cell in row.cells)):
                assert printed(words) in text
    for sentence in (*told.cautions, told.caption("•" if name == "terminal" else "Bold")):
        assert printed(sentence) in text


def test_files_for_programs_hold_every_column_printed_or_not(told):
    rows = list(csv.DictReader(io.StringIO(leaderboard_csv(told))))
    tables = (told.scores, told.costs, told.ranks, told.knob_fronts, told.pareto)
    cells = [
        (row.label, column, cell)
        for table in tables
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
        if cell.value is not None and not column.folded
    ]
    assert len(rows) == len(cells)
    for line, (label, column, cell) in zip(rows, cells, strict=True):
        assert line["row"] == label and line["key"] == column.key
        value = cell.value if isinstance(cell.value, str) else repr(float(cell.value))
        assert line["value"] == value
    heading, *board = wandb_tables(told.analysis)["leaderboard"]
    assert len(set(heading)) == len(heading) and {len(row) for row in board} == {len(heading)}
    assert [row[0] for row in board] == [row.label for row in told.scores.rows]
    for table in (told.scores.printed, told.costs, told.pareto):
        for row in table.rows:
            line = next(line for line in board if line[0] == row.label)
            for column, cell in zip(table.columns, row.cells, strict=True):
                if column.name != "family":
                    assert line[heading.index(column.name)] == cell.value
    verdicts = list(csv.DictReader(io.StringIO(comparisons_csv(told))))
    assert len(verdicts) == sum(len(pair.verdicts.rows) for pair in told.pairs)
    assert len(wandb_tables(told.analysis)["verdicts"]) == len(verdicts) + 1


def test_what_each_model_is_and_was_given_is_shown(told):
    """Paper or own, and every extra; a dash where a run says nothing and for external images."""
    table = told.scores
    at = [column.name for column in table.columns].index("origin")
    assert [table.columns[at + k].title for k in (0, 1)] == ["Kind", "Given"]
    shown = {row.label: tuple(cell.text for cell in row.cells[at : at + 2]) for row in table.rows}
    extras = f"word labels, {CLIP_TEXT}"
    assert shown["ldm"] == ("own", extras)
    assert shown["gan_int_cls"] == ("paper", "–")
    assert shown["vqgan_gpt"] == shown["other (external)"] == ("–", "–")
    assert shown["Real vs real"] == ("", "")
    models = {model["label"]: model for model in document(told)["models"]}
    assert models["ldm"]["given"] == ["word labels", CLIP_TEXT]
    assert [models[n]["origin"] for n in ("ldm", "gan_int_cls", "vqgan_gpt")] == [
        "own", "paper", None,
    ]  # fmt: skip
    lines = csv.DictReader(io.StringIO(leaderboard_csv(told)))
    facts = {(r["row"], r["quantity"]): r["value"] for r in lines if r["kind"] == "model"}
    assert facts == {
        ("ldm", "origin"): "own", ("ldm", "given"): extras, ("gan_int_cls", "origin"): "paper",
    }  # fmt: skip
    heading, first, *_ = wandb_tables(told.analysis)["leaderboard"]
    assert dict(zip(heading, first, strict=True))["given"] == extras
    json.dumps(document(told))


def test_cells_qualify_their_numbers(told):
    row = next(row for row in told.scores.rows if row.label == "ldm")
    names = [column.name for column in told.scores.columns]
    score = told.analysis.leaderboard.groups[0].score(KEYS["clip_score"])
    cell = row.cells[names.index(KEYS["clip_score"])]
    assert (cell.value, cell.low, cell.high, cell.sd, cell.seeds) == (
        score.value, score.low, score.high, score.sd, 2,
    )  # fmt: skip
    assert cell.basis == "training seeds" and cell.lead
    distance = row.cells[names.index(KEYS["fd"])]
    assert distance.note.startswith("underdetermined")
    (note,) = told.measurement_notes
    assert note.startswith("underdetermined") and "ldm" in note and "gan_int_cls" in note


def test_a_column_is_rounded_alike(told):
    """By its smallest model score, so that decimals do not dance."""
    at = [column.name for column in told.scores.columns].index(KEYS["fd2"])
    texts = [row.cells[at].text for row in told.scores.rows if row.cells[at].value is not None]
    assert {len(text.partition(".")[2]) for text in texts} == {3}


def test_costs_are_told_by_part(leaderboard):
    table = cost_table(leaderboard.groups)
    at = [column.name for column in table.columns].index("train_flops_shares")
    shares = {row.label: row.cells[at].text for row in table.rows}
    assert shares["gan_int_cls"] == "D 60, G 40"
    assert shares["ldm"] == "network 71, stage 1 25, text 3"


def test_encoding_the_training_set_is_shown_as_not_charged(leaderboard):
    table = cost_table(leaderboard.groups)
    names = [column.name for column in table.columns]
    of = {row.label: row.cells for row in table.rows}
    assert "encoding the training set once, by frozen parts, is not" in table.title
    assert of["ldm"][names.index("encoding_flops")].value == pytest.approx(1.7e11)
    assert of["gan_int_cls"][names.index("encoding_flops")].value == 0
    # Nor is it in the FLOPs of training.
    assert of["ldm"][names.index("train_flops_with_parts")].value == pytest.approx(8e12)


def test_tables_that_nothing_stands_in_are_left_out(tmp_path):
    alone = Content(analyse(*gather([write_run(tmp_path, "gan/gan_int_cls", 0)])))
    assert not alone.ranks and not alone.pareto and alone.pairs == () and alone.correction == ""
    assert [table.title for table in alone.standings] == [alone.knob_fronts.title]
    for text in (to_markdown(alone), as_page(alone), as_terminal(alone)):
        assert "Probability of being the best" not in text


def test_markdown_tables_are_whole(content):
    lines = [line for line in to_markdown(content).splitlines() if line.startswith("|")]
    tables = (content.scores, content.costs, *content.standings)
    widths = [len(t.printed.columns) + 2 for t in tables for _ in range(len(t.rows) + 2)]
    assert [line.count("|") for line in lines] == widths
    assert all(key in to_markdown(content) for key in content.analysis.leaderboard.keys)
