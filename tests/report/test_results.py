"""LaTeX, JSON and CSV of a comparison, and quality against cost."""

import csv
import io
import json
import re
import shutil
import subprocess

import pytest
from run_folders import KEYS, write_run

from t2ibench.cli.main import main
from t2ibench.core.files import read_json, write_json
from t2ibench.report.analysis import analyse
from t2ibench.report.columns import METRICS
from t2ibench.report.document import document
from t2ibench.report.formats import comparisons_csv
from t2ibench.report.holes import gather
from t2ibench.report.latex import escape, to_latex
from t2ibench.report.tables import leaderboard

PREAMBLE = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"


@pytest.fixture(scope="module")
def found(study):
    return analyse(leaderboard(*gather(study)))


def priced(run, **changes):
    """The run with other costs or scores (``fd=(value, half)``)."""
    scores = read_json(run / "scores.json")
    if "fd" in changes:
        value, half = changes.pop("fd")
        key = KEYS["fd"]
        scores["chosen"]["scores"][key] |= {
            "value": value, "ci_low": value - half, "ci_high": value + half,
        }  # fmt: skip
    scores["cost"] |= changes
    write_json(run / "scores.json", scores)
    return run


def three(tmp_path, *changes):
    """Three models with chosen costs and distances."""
    models = ("diffusion/ldm", "gan/gan_int_cls", "autoregressive/vqgan_gpt")
    free = {"parts_flops": 0, "parts_seconds": 0}
    runs = [
        priced(write_run(tmp_path, model, 0), **(free | change))
        for model, change in zip(models, changes, strict=True)
    ]
    return analyse(leaderboard(*gather(runs)))


def test_the_front_holds_what_nothing_cheaper_beats(tmp_path):
    found = three(
        tmp_path,
        {"train_flops": 8e12, "seconds_per_image_best": 0.05, "fd": (50.0, 1.0)},
        {"train_flops": 4e12, "seconds_per_image_best": 0.01, "fd": (80.0, 1.0)},
        {"train_flops": 8.1e12, "seconds_per_image_best": 0.08, "fd": (50.5, 1.0)},
    )
    by_flops, by_time = found.pareto
    assert (by_flops.cost, by_time.cost) == ("train_flops", "seconds_per_image_best")
    assert [p.label for p in by_flops.points] == ["gan_int_cls", "ldm", "vqgan_gpt"]
    assert {p.label: p.standing for p in by_time.points} == {
        "gan_int_cls": "on the front",
        "ldm": "on the front",
        "vqgan_gpt": "not distinguishable from it",
    }
    assert {p.label for p in by_flops.points if p.on_front} == {"gan_int_cls", "ldm"}


def test_costs_within_two_percent_are_equal(tmp_path):
    found = three(
        tmp_path,
        {"train_flops": 8.08e12, "fd": (50.0, 1.0)},
        {"train_flops": 8.0e12, "fd": (80.0, 1.0)},
        {"train_flops": 8.3e12, "fd": (60.0, 1.0)},
    )
    by_flops = found.pareto[0]
    assert by_flops.standing("gan_int_cls") == "behind ldm", "1% dearer counts as equal"
    assert by_flops.standing("vqgan_gpt") == "behind ldm"


def test_latex_escapes_what_it_reads_as_commands():
    assert escape("a_b & 5% #1 {x} $y$ ~ ^ \\z") == (
        r"a\_b \& 5\% \#1 \{x\} \$y\$ \textasciitilde{} \textasciicircum{} \textbackslash{}z"
    )
    assert escape("KID ×10³ ↓ ± – ∞") == (r"KID $\times$10$^3$ $\downarrow$ $\pm$ -- $_\infty$")
    for metric in METRICS:
        assert escape(metric.title).isascii() or "é" in metric.title


def widths_of(tabular):
    """How many columns each row of a tabular spans."""
    rows = [line.removesuffix(r"\\") for line in tabular.splitlines() if line.endswith(r"\\")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)&", row)] for row in rows]
    spans = [[re.match(r"\\multicolumn\{(\d+)\}", cell) for cell in row] for row in cells]
    return [sum(int(span[1]) if span else 1 for span in row) for row in spans]


def test_latex_is_one_whole_table(found):
    text, board = to_latex(found), found.board
    scores, costs = text.split(r"\begin{tabular}")[1:]
    assert scores.startswith(f"{{l{'r' * len(board.columns)}}}")
    assert widths_of(scores) == [len(board.columns) + 1] * (
        3 + len(board.groups) + len(board.references)
    )
    assert costs.startswith("{lrrrrll}") and widths_of(costs) == [7] * (1 + len(board.groups))
    opened, closed = re.findall(r"\\begin\{(\w+)\}", text), re.findall(r"\\end\{(\w+)\}", text)
    assert opened == ["table", "tabular", "tabular"] and closed == ["tabular", "tabular", "table"]
    bare = re.sub(r"\\[{}\\]", "", text)
    assert bare.count("{") == bare.count("}")
    body = text.split("\n", 1)[1].replace("{!}{%", "").replace(r"$_\infty$", "")
    assert not re.search(r"(?<!\\)[%#_]", body)
    assert all(ord(c) < 128 or c in "éá" for c in text), "Latin fonts lack the others"


def test_latex_prints_bold_what_leads_and_nothing_else(found):
    lines = to_latex(found).splitlines()
    for group in found.board.groups:
        line = next(one for one in lines if one.startswith(escape(group.label)))
        cells = [c.strip() for c in re.split(r"(?<!\\)&", line)][1 : 1 + len(found.board.columns)]
        bold = [r"\textbf{" in cell for cell in cells]
        assert bold == [found.leads(group, column) for column in found.board.columns]
    assert any("gan\\_int\\_cls (1 of 3 seeds)" in line for line in lines)


def test_latex_compiles(found, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    file = tmp_path / "table.tex"
    file.write_text(PREAMBLE + to_latex(found) + "\\end{document}\n", encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", file.name],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


def test_json_holds_the_whole_comparison(found):
    told = json.loads(json.dumps(document(found)))
    assert [m["label"] for m in told["models"]] == ["ldm", "vqgan_gpt", "gan_int_cls"]
    ldm = told["models"][0]
    cell = found.board.groups[0].cell(KEYS["fd"])
    score = ldm["scores"][KEYS["fd"]]
    assert (score["value"], score["sd"], score["seeds"]) == (cell.value, cell.sd, 3)
    assert sum(score["by_seed"]) / 3 == pytest.approx(cell.value)
    assert (ldm["seeds"], ldm["planned_seeds"]) == ([0, 1, 2], 3)
    tests = [t for pair in told["pairs"] for t in pair["tests"]]
    assert len(tests) == 3 * len(told["columns"]) and "Holm" in told["correction"]
    assert {t["verdict"] for t in tests if not t["distinguishable"]} == {"not distinguishable"}
    assert {front["cost"] for front in told["pareto_fronts"]} == {
        "train_flops", "seconds_per_image_best",
    }  # fmt: skip
    assert told["pairs"][0]["configuration"] and told["rank_probabilities"] and told["knob_fronts"]
    assert any("1 of 3 seeds" in sentence for sentence in told["cautions"])


def test_comparisons_csv_has_a_line_a_pair_and_score(found):
    rows = list(csv.DictReader(io.StringIO(comparisons_csv(found))))
    assert len(rows) == sum(len(pair.differences) for pair in found.pairs)
    first = found.pairs[0].differences[0]
    assert float(rows[0]["p_holm"]) == first.adjusted and rows[0]["key"] == first.key
    assert rows[0]["first_seeds"] == "3 seeds" and rows[0]["second_seeds"] == "1 of 3 seeds"


def test_out_is_a_folder_of_every_format(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "tables"
    assert main(["compare", *map(str, study), f"out={out}"]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "comparisons.csv", "leaderboard.csv", "leaderboard.html", "leaderboard.json",
        "leaderboard.md", "leaderboard.tex",
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "not distinguishable" in printed
    assert "Holm's over all" in printed
    assert "on the front" in (out / "leaderboard.html").read_text(encoding="utf-8")


def test_compare_writes_a_wandb_run_offline(study, tmp_path, monkeypatch, capsys):
    from training.wandb_file import sessions

    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "tables"
    assert main(["compare", *map(str, study), f"out={out}", "--wandb"]) == 0
    assert "project t2ibench" in capsys.readouterr().out
    (told,) = sessions(out)
    assert told.run.job_type == "compare" and told.config["runs"][0].startswith("ldm")
    (row,) = told.history
    shown = {key.removesuffix(".path") for key in row if key.endswith(".path")}
    assert {"leaderboard", "verdicts", "Quality against training compute"} <= shown
    (file,) = out.glob(f"wandb/offline-run-*/files/{row['verdicts.path']}")
    verdicts = json.loads(file.read_text())
    at = verdicts["columns"].index("verdict")
    assert "not distinguishable" in {line[at] for line in verdicts["data"]}
    (chart,) = out.glob(f"wandb/offline-run-*/files/{row['Quality against training compute.path']}")
    assert "<svg" in chart.read_text() and "gan_int_cls" in chart.read_text()
    results = next(a for a in told.artifacts if a.type == "comparison")
    assert {e.path for e in results.manifest.contents} >= {"leaderboard.html", "leaderboard.json"}
