"""Leaderboard and paired tests over runs.

t2ibench compare runs/*                    terminal tables, verdicts, configuration differences
t2ibench compare study=NAME                the cells of a study; missing ones are listed
t2ibench compare runs/* protocol=dev       their scores under that protocol, not each run's own
t2ibench compare runs/* metric=fd          one score alone: more power, refused if keys differ
t2ibench compare runs/* where=family=diffusion,size=xs   some of them (values: *, a|b)
t2ibench compare runs/* sort=train_flops   rows by another score or cost
t2ibench compare runs/* by=conditioning    rows in sections by a fact or setting of the runs
t2ibench compare runs/* out=tables         also CSV, Markdown, LaTeX, JSON, page, PDF figures, there
t2ibench compare study=NAME wandb=PROJECT  also as a W&B run (--wandb: project t2ibench)

With study= and out= also sweep.yaml, the study for W&B's own sweeps. runs=FOLDER: where the
study lies, paths.runs by default.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2ibench.cli.arguments import parse_arguments
from t2ibench.core.errors import ConfigError
from t2ibench.core.files import atomic_path

OPTIONS = {"out": "", "metric": "", "protocol": "", "where": "", "sort": "", "by": ""}
OPTIONS |= {"study": "", "runs": "", "wandb": ""}


def run(arguments: Sequence[str]) -> int:
    """Prints the leaderboard, then every pair's verdicts; writes the chosen files."""
    typed = ["wandb=t2ibench" if word == "--wandb" else word for word in arguments]
    given = parse_arguments("compare", typed, OPTIONS)
    study, found = analyse_runs(given.words, given.options)
    show(found)
    from t2ibench.reporting import can_draw_figures, verdict_text, write_results

    sys.stdout.write(verdict_text(found, terminal_width(), sys.stdout.isatty()) + "\n")
    out, project = given.options["out"], given.options["wandb"]
    if not (out or project):
        return 0
    folder = Path(out).expanduser() if out else runs_folder(given.options) / "wandb_comparisons"
    files = write_results(found, folder, f"t2ibench: {given.options['study'] or 'comparison'}")
    if not can_draw_figures():
        sys.stderr.write(
            'no figures/*.pdf: matplotlib is missing, pip install "t2ibench[figures]".\n'
        )
    if study is not None:
        files += write_sweep(study, folder, project or "t2ibench")
    if project:
        track(found, folder, files, project, given.options["study"] or None)
    return 0


def analyse_runs(words: Sequence[str], options: dict[str, str]) -> tuple[Any, Any]:
    """Analyses a study or run folders; returns the study, or None, and the analysis.

    Raises:
        ConfigError: both or neither are given, or ``where`` leaves no run.
    """
    from t2ibench.reporting import analyse, gather, kept_runs, read_study

    if bool(words) == bool(options["study"]):
        raise ConfigError("give run folders with scores.json (runs/*) or study=NAME, one of them.")
    study = None
    if options["study"]:
        study = read_study(runs_folder(options), options["study"])
    protocol = options["protocol"]
    runs, missing = gather(words, protocol) if study is None else study.gather(protocol)
    metrics = [name for name in options["metric"].split(",") if name]
    kept = kept_runs(runs, missing, options["where"])
    return study, analyse(*kept, metrics, options["sort"], options["by"])


def runs_folder(options: dict[str, str]) -> Path:
    """Folder of runs: ``runs=``, or the configuration's ``paths.runs``."""
    if options["runs"]:
        return Path(options["runs"]).expanduser()
    from t2ibench.cli.compose import compose_config

    return Path(compose_config([])["paths"]["runs"])


def show(found: Any) -> None:
    """Prints the leaderboard."""
    from t2ibench.reporting import terminal_text

    sys.stdout.write(terminal_text(found, terminal_width(), sys.stdout.isatty()) + "\n")


def terminal_width() -> int:
    """Columns of the terminal; 140 where there is none."""
    return shutil.get_terminal_size((140, 24)).columns


def write_tables(folders: Sequence[Path], target: Path) -> None:
    """Prints the leaderboard of runs and writes it in every format but the page."""
    from t2ibench import reporting

    found = reporting.analyse(*reporting.gather(folders))
    show(found)
    reporting.write_tables(found, target)


def write_sweep(study: Any, folder: Path, project: str) -> list[Path]:
    """Writes sweep.yaml, or prints why a study has none."""
    import yaml

    from t2ibench.reporting import sweep_definition

    definition = sweep_definition(study, project)
    if definition is None:
        sys.stderr.write(
            f"no sweep.yaml: the cells of study {study.name} are no full grid of overrides.\n"
        )
        return []
    with atomic_path(folder / "sweep.yaml") as aside:
        aside.write_text(yaml.safe_dump(definition, sort_keys=False), encoding="utf-8")
    return [folder / "sweep.yaml"]


def track(found: Any, folder: Path, files: Sequence[Path], project: str, group: str | None) -> None:
    """Logs the comparison as a W&B run: tables, charts of quality against cost, all files."""
    import os

    from t2ibench.reporting import chart_pages, wandb_tables
    from t2ibench.training.tracking import ComparisonView, track_comparison

    runs = tuple(run.path.name for row in found.leaderboard.groups for run in row.runs)
    view = ComparisonView(
        name=f"{group or 'comparison'}: {len(found.leaderboard.groups)} models",
        group=group,
        runs=runs,
        tables=wandb_tables(found),
        charts=chart_pages(found),
        files=tuple(files),
    )
    mode = os.environ.get("WANDB_MODE", "auto")
    track_comparison({"project": project, "group": group, "mode": mode}, view, folder)
    sys.stdout.write(f"W&B: {view.name} in project {project}\n")
