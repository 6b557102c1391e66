"""Floor 5: run folders in; tables, comparisons, charts and one HTML page out.

Rooms: ``read/`` (run folders and studies), ``statistics/`` (what their scores support) and
``render/`` (one neutral table and one neutral chart under every format), imported in that order
and never back. What callers use is here:

    read_run, gather, read_study                   folders -> scored and missing runs
    kept_runs                                      some of them, by facts and settings
    analyse                                        runs -> what their scores support
    write_results, write_tables, write_page        every format into a folder; tables; the page
    terminal_text, verdict_text                    the same on a terminal
    wandb_tables, chart_pages, sweep_definition    the same for an experiment tracker
    count_text, flops_text, seconds_text           numbers as people read them
    can_draw_figures                               whether write_results adds figures/*.pdf

    runs, missing = gather(["runs"])
    write_results(analyse(runs, missing), "tables", title="Three families")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2ibench.reporting.read.gather import gather
    from t2ibench.reporting.read.runs import read_run
    from t2ibench.reporting.read.studies import read_study
    from t2ibench.reporting.read.where import kept_runs
    from t2ibench.reporting.render.figures import can_draw_figures
    from t2ibench.reporting.render.numbers import count_text, flops_text, seconds_text
    from t2ibench.reporting.render.results import write_page, write_results, write_tables
    from t2ibench.reporting.render.sweep import sweep_definition
    from t2ibench.reporting.render.terminal import terminal_text, verdict_text
    from t2ibench.reporting.render.wandb_tables import chart_pages, wandb_tables
    from t2ibench.reporting.statistics.analysis import analyse

MODULES = {
    "gather": "read.gather",
    "read_run": "read.runs",
    "kept_runs": "read.where",
    "read_study": "read.studies",
    "analyse": "statistics.analysis",
    "can_draw_figures": "render.figures",
    "chart_pages": "render.wandb_tables",
    "count_text": "render.numbers",
    "flops_text": "render.numbers",
    "seconds_text": "render.numbers",
    "sweep_definition": "render.sweep",
    "terminal_text": "render.terminal",
    "verdict_text": "render.terminal",
    "wandb_tables": "render.wandb_tables",
    "write_page": "render.results",
    "write_results": "render.results",
    "write_tables": "render.results",
}
"""Public name -> where it lives; nothing is imported before it is asked for."""

__all__ = [
    "analyse",
    "can_draw_figures",
    "chart_pages",
    "count_text",
    "flops_text",
    "gather",
    "kept_runs",
    "read_run",
    "read_study",
    "seconds_text",
    "sweep_definition",
    "terminal_text",
    "verdict_text",
    "wandb_tables",
    "write_page",
    "write_results",
    "write_tables",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
