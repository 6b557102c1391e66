"""A reader of many runs asks for the leaderboard in sections: ``by=conditioning``."""

import csv
import io

import pytest
from run_folders import write_run

from t2ibench import api
from t2ibench.cli.main import main
from t2ibench.core.errors import ConfigError
from t2ibench.reporting import analyse, gather, terminal_text, wandb_tables
from t2ibench.reporting.render.content import Content
from t2ibench.reporting.render.csv_files import leaderboard_csv
from t2ibench.reporting.render.json_document import document
from t2ibench.reporting.render.latex import to_latex
from t2ibench.reporting.render.markdown import to_markdown
from t2ibench.reporting.render.page import render_page

CONCAT = {"conditioning": "concat"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """From the best: ldm with attention, vqgan_gpt by concat, two GANs, somebody's images."""
    root = tmp_path_factory.mktemp("sections")
    external = {"name": "theirs", "family": "external", "conditioning": ""}
    return [
        write_run(root, "diffusion/ldm", 0),
        write_run(root, "autoregressive/vqgan_gpt", 0, model=CONCAT),
        write_run(root, "gan/gan_int_cls", 0),
        write_run(root, "gan/gan_int_cls", 1, model=CONCAT),
        write_run(root, "diffusion/ldm", 7, model=external),
    ]


ORDER = [
    "conditioning = cross_attention",
    "ldm",
    "gan_int_cls (conditioning=cross_attention)",
    "conditioning = concat",
    "vqgan_gpt",
    "gan_int_cls (conditioning=concat)",
    "conditioning = not said",
    "theirs (external)",
]


def test_rows_keep_their_order_inside_sections(runs):
    content = Content(analyse(*gather(runs), by="conditioning"))
    rows = [row for row in content.scores.rows if not row.reference]
    assert [row.label for row in rows] == ORDER
    assert [row.heading for row in rows] == [" = " in label for label in ORDER]
    assert [row.label for row in content.costs.rows] == [
        label for label in ORDER if " = " not in label
    ]


def test_a_setting_of_the_configuration_is_an_axis(runs):
    name = "model.training.batch_size"
    content = Content(analyse(*gather(runs[:3]), by=name))
    assert [row.label for row in content.scores.rows if row.heading] == [
        f"{name} = 33",
        f"{name} = 32",
    ]


RENDERERS = {
    "terminal": (lambda c: terminal_text(c.analysis, 400), "conditioning = concat"),
    "Markdown": (to_markdown, "| **conditioning = concat** |"),
    "LaTeX": (to_latex, "\\midrule\n" r"\multicolumn{13}{l}{\textit{conditioning = concat}}"),
    "page": (lambda c: render_page(c, "t"), 'colspan="13">conditioning = concat</th></tr>'),
}  # fmt: skip


@pytest.mark.parametrize("name", RENDERERS)
def test_every_renderer_shows_sections(runs, name):
    render, heading = RENDERERS[name]
    text = render(Content(analyse(*gather(runs), by="conditioning")))
    assert text.count(heading) == 1
    after = text[text.index(heading) :]
    assert after.index("vqgan") < after.index("conditioning = not said")
    assert "conditioning = " not in render(Content(analyse(*gather(runs))))


def test_programs_read_the_section_of_each_row(runs):
    content = Content(analyse(*gather(runs), by="conditioning"))
    sections = {model["label"]: model["section"] for model in document(content)["models"]}
    assert sections["vqgan_gpt"] == "concat" and sections["theirs (external)"] == ""
    lines = csv.DictReader(io.StringIO(leaderboard_csv(content)))
    found = {r["row"]: r["value"] for r in lines if r["kind"] == "section"}
    assert found == {r: s for r, s in sections.items()}
    _, *board = wandb_tables(content.analysis)["leaderboard"]
    assert not any(" = " in row[0] for row in board)


def test_verbs_and_interface_take_the_axis(runs, tmp_path, capsys):
    typed = list(map(str, runs))
    assert main(["compare", *typed, "metric=fd", "by=conditioning"]) == 0
    assert "conditioning = concat" in capsys.readouterr().out
    assert main(["report", *typed, f"out={tmp_path / 'a.html'}", "by=conditioning"]) == 0
    assert "conditioning = concat" in (tmp_path / "a.html").read_text("utf-8")
    page = api.report(*runs, out=tmp_path / "b.html", by="family")
    assert "family = gan" in page.read_text("utf-8")
    assert "family = gan" in str(api.compare(*runs, by="family"))
    assert main(["compare", *typed, "by=nothing"]) != 0
    assert "by=nothing names nothing that a run here has" in capsys.readouterr().err


def test_an_axis_that_no_run_has_is_refused(runs):
    with pytest.raises(ConfigError, match="by=conditoning names nothing"):
        analyse(*gather(runs), by="conditoning")
