"""Scores that could not be computed are named with the remedy, once for each reason."""

import csv
import io

import pytest
from run_folders import rewritten, write_run

from t2ibench.reporting import analyse, gather, terminal_text
from t2ibench.reporting.render.content import Content
from t2ibench.reporting.render.csv_files import leaderboard_csv
from t2ibench.reporting.render.html import escape as html_escape
from t2ibench.reporting.render.json_document import document
from t2ibench.reporting.render.latex import escape, to_latex
from t2ibench.reporting.render.markdown import to_markdown
from t2ibench.reporting.render.page import render_page

JUDGE = "no judge is at hand: evaluator=published brings two (`t2ibench fetch clip_336 open_clip`)"
SPLIT = "the data have no training split to compare with"


@pytest.fixture(scope="module")
def lacking(tmp_path_factory):
    """Both models lack alignment, one of two seeds of the LDM a training split."""
    root = tmp_path_factory.mktemp("absent")
    runs = [write_run(root, "diffusion/ldm", seed) for seed in (0, 1)]
    runs.append(write_run(root, "gan/gan_int_cls", 0))
    for run in runs:
        rewritten(run, lambda s: s.update(absent={"clip_score, r_precision": JUDGE}))
    rewritten(runs[1], lambda s: s["absent"].update(authpct=SPLIT))
    return Content(analyse(*gather(runs)))


SAID = (
    f"CLIP-score, R-prec. % not measured of ldm, gan_int_cls: {JUDGE}.",
    f"AuthPct not measured of ldm (1 of 2 seeds): {SPLIT}.",
)
RENDERERS = {
    "terminal": (lambda c: " ".join(terminal_text(c.analysis, 1000).split()), str),
    "Markdown": (to_markdown, str),
    "LaTeX": (to_latex, escape),
    "page": (lambda c: render_page(c, "t"), html_escape),
}


@pytest.mark.parametrize("name", RENDERERS)
def test_every_renderer_says_what_is_absent_below_the_table(lacking, name):
    render, printed = RENDERERS[name]
    text = render(lacking)
    for sentence in SAID:
        assert text.count(printed(sentence)) == 1
        assert text.index(printed(sentence)) > text.index("Recall")


def test_programs_read_what_is_absent(lacking):
    found = document(lacking)
    assert set(SAID) <= set(found["cautions"])
    absent = {model["label"]: model["absent"] for model in found["models"]}
    assert absent["ldm"] == {"clip_score": JUDGE, "r_precision": JUDGE, "authpct": SPLIT}
    assert set(absent["gan_int_cls"]) == {"clip_score", "r_precision"}
    lines = [r for r in csv.DictReader(io.StringIO(leaderboard_csv(lacking)))
             if r["kind"] == "absent"]  # fmt: skip
    assert [(r["row"], r["quantity"], r["value"], r["seeds"], r["note"]) for r in lines] == [
        ("ldm", "clip_score", "", "2", JUDGE),
        ("ldm", "r_precision", "", "2", JUDGE),
        ("ldm", "authpct", "", "1", SPLIT),
        ("gan_int_cls", "clip_score", "", "1", JUDGE),
        ("gan_int_cls", "r_precision", "", "1", JUDGE),
    ]


def test_nothing_is_said_where_nothing_is_absent(content):
    assert content.absent == ()
