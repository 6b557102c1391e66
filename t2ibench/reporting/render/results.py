"""The written comparison: one folder with every format, each complete by itself.

leaderboard.csv      scores, costs, ranks, fronts in long form, every digit
comparisons.csv      every pair and score: difference, test, verdict
leaderboard.md       tables for a README
leaderboard.tex      booktabs tables
leaderboard.json     the whole comparison for programs
leaderboard.html     the report page
figures/*.pdf        the page's charts for a paper, where matplotlib is installed
"""

from __future__ import annotations

from pathlib import Path

from t2ibench.core.files import atomic_path
from t2ibench.reporting.render.charts import all_charts
from t2ibench.reporting.render.content import Content
from t2ibench.reporting.render.csv_files import comparisons_csv, leaderboard_csv
from t2ibench.reporting.render.figures import can_draw_figures, write_figures
from t2ibench.reporting.render.json_document import to_json
from t2ibench.reporting.render.latex import to_latex
from t2ibench.reporting.render.markdown import to_markdown
from t2ibench.reporting.render.page import render_page
from t2ibench.reporting.statistics.analysis import Analysis

PAGE = "leaderboard.html"

FORMATS = {
    "leaderboard.csv": leaderboard_csv,
    "comparisons.csv": comparisons_csv,
    "leaderboard.md": to_markdown,
    "leaderboard.tex": to_latex,
    "leaderboard.json": to_json,
}


def write_tables(analysis: Analysis, folder: str | Path) -> list[Path]:
    """Writes every table's format, each atomically; no page and no figures."""
    return _write_tables(Content(analysis), Path(folder))


def write_results(analysis: Analysis, folder: str | Path, title: str) -> list[Path]:
    """Writes every format, the page with its title and the figures among them."""
    content, folder = Content(analysis), Path(folder)
    files = [*_write_tables(content, folder), _write(folder / PAGE, render_page(content, title))]
    if can_draw_figures():
        files += write_figures(all_charts(analysis.leaderboard), folder)
    return files


def write_page(analysis: Analysis, target: str | Path, title: str = "t2ibench report") -> Path:
    """Writes the page alone, atomically."""
    return _write(Path(target), render_page(Content(analysis), title))


def _write_tables(content: Content, folder: Path) -> list[Path]:
    return [_write(folder / name, text(content)) for name, text in FORMATS.items()]


def _write(path: Path, text: str) -> Path:
    with atomic_path(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return path
