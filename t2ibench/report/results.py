"""The written comparison: one folder with every format, each complete by itself.

leaderboard.csv      scores, costs, ranks, fronts in long form, every digit
comparisons.csv      every pair and score: difference, test, verdict
leaderboard.md       tables for a README
leaderboard.tex      a booktabs table
leaderboard.json     the whole comparison for programs
leaderboard.html     the report page
"""

from __future__ import annotations

from pathlib import Path

from t2ibench.core.files import atomic_path
from t2ibench.report.analysis import Analysis
from t2ibench.report.document import to_json
from t2ibench.report.formats import comparisons_csv, to_csv, to_markdown
from t2ibench.report.latex import to_latex
from t2ibench.report.page import render_page

PAGE = "leaderboard.html"

FORMATS = {
    "leaderboard.csv": to_csv,
    "comparisons.csv": comparisons_csv,
    "leaderboard.md": to_markdown,
    "leaderboard.tex": to_latex,
    "leaderboard.json": to_json,
}


def write_tables(found: Analysis, folder: Path) -> list[Path]:
    """Writes every format but the page, each atomically."""
    return [_write(folder / name, text(found)) for name, text in FORMATS.items()]


def write_results(found: Analysis, folder: Path, title: str) -> list[Path]:
    """Writes every format, the page with its title among them."""
    return [*write_tables(found, folder), _write(folder / PAGE, render_page(found, title))]


def _write(path: Path, text: str) -> Path:
    with atomic_path(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return path
