"""A study: several models under one configuration, trained, scored, compared, reported.

t2ibench demo                              three families on the procedural world
t2ibench demo experiment=shapes_standard   more than five times the budget
t2ibench demo experiment=emoji_smoke       real images (t2ibench data prepare emoji_styles first)
t2ibench demo seed=1 out=report.html       other overrides as for train

Stopped at any point, the same command goes on where it was.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from t2ibench.core.errors import ConfigError

OPTIONS = ("out",)


def run(arguments: Sequence[str]) -> int:
    """Trains and scores every model of the study, then writes leaderboard and page."""
    from t2ibench.cli.compose import compose_spec
    from t2ibench.cli.verbs.compare import write_tables
    from t2ibench.cli.verbs.report import write_report
    from t2ibench.engine.context import Context
    from t2ibench.engine.identity import named_run
    from t2ibench.engine.study import train_and_score
    from t2ibench.engine.train import check

    overrides = [a for a in arguments if not a.startswith("out=")]
    out = next((a.removeprefix("out=") for a in arguments if a.startswith("out=")), None)
    if not any(a.startswith("experiment=") for a in overrides):
        overrides = ["experiment=demo", *overrides]
    study = compose_spec(overrides)
    if not study.study.models:
        raise ConfigError("this experiment names no study.models; demo needs some.")
    began = time.monotonic()
    specs = [compose_spec([*overrides, f"model={model}"]) for model in study.study.models]
    for spec in specs:
        check(Context.of(spec))
    folders: list[Path] = []
    for number, spec in enumerate(specs, 1):
        sys.stderr.write(f"[{number}/{len(specs)}] {spec.model.name}\n")
        train_and_score(spec)
        folders.append(named_run(Context.of(spec)).path)
    name = next(a for a in overrides if a.startswith("experiment=")).removeprefix("experiment=")
    target = Path(out).expanduser() if out else study.paths.runs_folder / name / "report.html"
    write_tables(folders, target.parent)
    write_report(folders, target, title=f"t2ibench: {name}")
    minutes = (time.monotonic() - began) / 60
    sys.stderr.write(f"{target} written; {minutes:.1f} minutes for this call.\n")
    return 0
