import re
import shutil
import subprocess

import pytest

from t2ibench.reporting.render.latex import escape, to_latex
from t2ibench.reporting.statistics.metrics import METRICS

PREAMBLE = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"


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


def test_latex_is_one_whole_table(content):
    text = to_latex(content)
    scores, costs = text.split(r"\begin{tabular}")[1:]
    shown = content.scores.printed.unfolded
    assert scores.startswith(f"{{lll{'r' * (len(shown.columns) - 2)}}}")
    assert widths_of(scores) == [len(shown.columns) + 1] * (3 + len(shown.rows))
    width = len(content.costs.printed.columns) + len(content.pareto.columns) + 1
    assert widths_of(costs) == [width] * (1 + len(content.costs.rows))
    opened, closed = re.findall(r"\\begin\{(\w+)\}", text), re.findall(r"\\end\{(\w+)\}", text)
    assert opened == ["table", "tabular", "tabular"] and closed == ["tabular", "tabular", "table"]
    bare = re.sub(r"\\[{}\\]", "", text)
    assert bare.count("{") == bare.count("}")
    body = text.split("\n", 1)[1].replace("{!}{%", "").replace(r"$_\infty$", "")
    assert not re.search(r"(?<!\\)[%#_]", body)
    assert all(ord(c) < 128 or c in "éá" for c in text), "Latin fonts lack the others"


def test_latex_prints_bold_what_leads_and_nothing_else(content):
    lines = to_latex(content).splitlines()
    shown = content.scores.printed.unfolded
    for row in shown.rows:
        start = f"\\textit{{{escape(row.label)}" if row.reference else escape(row.label)
        line = next(one for one in lines if one.startswith(start))
        cells = re.split(r"(?<!\\)&", line)[1:]
        assert [r"\textbf{" in cell for cell in cells] == [cell.lead for cell in row.cells]
    assert any(cell.lead for row in shown.rows for cell in row.cells)
    assert any("gan\\_int\\_cls {\\tiny gan, 1 of 3 seeds}" in line for line in lines)


def test_latex_compiles(content, tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    file = tmp_path / "table.tex"
    file.write_text(PREAMBLE + to_latex(content) + "\\end{document}\n", encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", file.name],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
