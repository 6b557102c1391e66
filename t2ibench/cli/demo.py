"""A study: several models under one configuration, trained, scored, compared, reported.

t2ibench demo                              the three families on the procedural world
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


def run(arguments: Sequence[str]) -> int:
    """Trains and scores every model of the study, then writes leaderboard and page."""
    from t2ibench.cli.build import check_config
    from t2ibench.cli.compare import write_tables
    from t2ibench.cli.compose import compose_config, resolve_conditioning
    from t2ibench.cli.pipeline import find_run
    from t2ibench.cli.report import write_report
    from t2ibench.cli.train import train_and_score

    overrides = [a for a in arguments if not a.startswith("out=")]
    out = next((a.removeprefix("out=") for a in arguments if a.startswith("out=")), None)
    if not any(a.startswith("experiment=") for a in overrides):
        overrides = ["experiment=demo", *overrides]
    study = compose_config(overrides)
    if not study.study.models:
        raise ConfigError("this experiment names no study.models; demo needs some.")
    began = time.monotonic()
    configs = [compose_config([*overrides, f"model={model}"]) for model in study.study.models]
    for cfg in configs:
        resolve_conditioning(cfg)
        check_config(cfg)
    folders: list[Path] = []
    for number, cfg in enumerate(configs, 1):
        sys.stderr.write(f"[{number}/{len(configs)}] {cfg.model.name}\n")
        train_and_score(cfg)
        folders.append(find_run(cfg).path)
    name = next(a for a in overrides if a.startswith("experiment=")).removeprefix("experiment=")
    target = Path(out) if out else Path(study.paths.runs) / name / "report.html"
    write_tables(folders, target.parent)
    write_report(folders, target, title=f"t2ibench: {name}")
    minutes = (time.monotonic() - began) / 60
    sys.stderr.write(f"{target} written; {minutes:.1f} minutes for this call.\n")
    return 0
