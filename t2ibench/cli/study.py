"""A study: from what was typed to its cells, and what running them will take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from t2ibench.cli.compose import compose_config, config_dir, one_sentence, with_knobs
from t2ibench.core.errors import ConfigError
from t2ibench.core.files import read_json
from t2ibench.runs.folder import Run
from t2ibench.runs.ledger import Cell, Ledger, Progress

GRID = "BasicSweeper"
"""Hydra's sweeper over grids; what another one (Optuna's) will try is known only to itself."""


@dataclass(frozen=True)
class Typed:
    """A multirun as it was typed, with what its experiment adds.

    Attributes:
        fixed: overrides of every cell.
        hydra: Hydra's own (launcher, sweeper).
        cells: complete overrides of each cell, or None where a sweeper decides as it goes.
        swept: the keys in which cells differ.
        many: whether the experiment is a multirun by itself.
        launcher: name of the launcher's class.
        cfg: the configuration without the swept values.
    """

    fixed: tuple[str, ...]
    hydra: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...] | None
    swept: tuple[str, ...]
    many: bool
    launcher: str
    cfg: DictConfig


def read_typed(overrides: Sequence[str]) -> Typed:
    """Expands a multirun.

    Raises:
        ConfigError: an override cannot be read, or a group or key is unknown.
    """
    from hydra import compose, initialize_config_dir
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        parser = OverridesParser.create()
        parsed = parser.parse_overrides(with_knobs(overrides))
        plain = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            whole = compose("config", overrides=plain, return_hydra_config=True)
        sweeper = whole.hydra.sweeper
        grid = sweeper["_target_"].endswith(GRID)
        added = [f"{k}={v}" for k, v in (sweeper.get("params") or {}).items()] if grid else []
        everything = [*parser.parse_overrides(added), *parsed]
        own = [o for o in everything if not is_hydra(o.get_key_element())]
        grids = BasicSweeper.split_arguments(own, None)[0] if grid else []
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_sentence(error)) from error
    typed = {o.get_key_element() for o in parsed}
    swept = tuple(
        dict.fromkeys(
            o.get_key_element()
            for o in own
            if o.is_sweep_override() and (o in parsed or o.get_key_element() not in typed)
        )
    )
    return Typed(
        tuple(o for o in plain if not is_hydra(o)),
        tuple(o for o in plain if is_hydra(o)),
        tuple(tuple(cell) for cell in grids) if grid else None,
        swept,
        "MULTIRUN" in str(whole.hydra.mode),
        whole.hydra.launcher["_target_"].rpartition(".")[2],
        OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"]),
    )


PARAMS = re.compile(r"^\+{0,2}hydra\.sweeper\.params\.")


def without_params(override: str) -> str:
    """``hydra.sweeper.params.K=V`` of a command line as ``K=V``, which means the same."""
    return PARAMS.sub("", override)


def is_hydra(key: str) -> bool:
    """Whether a key is Hydra's own."""
    return key.lstrip("+~").startswith(("hydra/", "hydra."))


@dataclass(frozen=True)
class Planned:
    """A cell, its configuration and how far it is with all that is asked for now."""

    cell: Cell
    cfg: DictConfig
    progress: Progress


def plan(typed: Typed, ledger: Ledger) -> list[Planned]:
    """Every cell, checked, each run once; nothing is written.

    Raises:
        ConfigError: a cell's configuration is impossible, or two cells are one run.
    """
    from t2ibench.cli.build import check_config
    from t2ibench.cli.pipeline import named_run

    assert typed.cells is not None, "a grid"
    found: dict[str, Planned] = {}
    for overrides in typed.cells:
        cfg = compose_config(overrides)
        label = " ".join(o for o in overrides if o.split("=", 1)[0] in typed.swept)
        try:
            run = named_run(cfg)
            check_config(cfg)
        except ConfigError as error:
            raise ConfigError(f"cell {label}: {error}") from error
        cell = Cell(run.path.name, run.identity, overrides, label)
        if cell.run in found and found[cell.run].cell.label != label:
            raise ConfigError(
                f"the cells {found[cell.run].cell.label} and {label} are one run: they differ in "
                "nothing that changes training; sweep such keys with `t2ibench score`."
            )
        found[cell.run] = Planned(cell, cfg, asked_progress(ledger, cell, cfg))
    return list(found.values())


def asked_progress(ledger: Ledger, cell: Cell, cfg: DictConfig) -> Progress:
    """How far a cell is; one that is scored under another protocol is not through."""
    from t2ibench.cli.score_run import asked_of

    progress = ledger.progress(cell)
    if progress.state != "finished":
        return progress
    status = Run(ledger.root / cell.run, cell.identity).status()
    if status.get("asked") == asked_of(cfg):
        return progress
    if "reason" in status:
        return replace(progress, state="failed", detail=status["reason"])
    return replace(progress, state="interrupted", detail="scored under another protocol")


def to_do(planned: Iterable[Planned], retries: int) -> list[Planned]:
    """The cells that are neither finished nor given up."""
    return [
        p for p in planned if p.progress.state != "finished" and not given_up(p.progress, retries)
    ]


def given_up(progress: Progress, retries: int) -> bool:
    """Whether a cell failed more often than it is retried."""
    return progress.state == "failed" and progress.failures > retries


# ---- what it will take ----


@dataclass(frozen=True)
class Estimate:
    """What a cell's training takes, first stage and scoring not included.

    Attributes:
        images: None where it is not known.
        flops: likewise.
        seconds: likewise, from finished runs.
    """

    images: float | None
    flops: float | None
    seconds: float | None


def estimates(planned: Sequence[Planned], root: Path) -> list[Estimate]:
    """From the budgets, and from the finished runs of the same model and size in ``root``."""
    rates = measured_rates(root)
    return [estimate(p.cfg, rates.get((p.cfg.model.name, p.cfg.size.name), {})) for p in planned]


def estimate(cfg: DictConfig, rates: dict[str, float]) -> Estimate:
    """One cell's, with what is known of its model."""
    amount = float(cfg.budget.amount)
    per_image, per_second = rates.get("flops_per_image"), rates.get("images_per_second")
    if cfg.budget.unit == "seconds":
        images = amount * per_second if per_second else None
        return Estimate(images, images * per_image if images and per_image else None, amount)
    if cfg.budget.unit == "flops":
        images = amount / per_image if per_image else None
    else:
        images = amount
    flops = images * per_image if images and per_image else None
    return Estimate(
        images,
        amount if cfg.budget.unit == "flops" else flops,
        images / per_second if images and per_second else None,
    )


def measured_rates(root: Path) -> dict[tuple[str, str], dict[str, float]]:
    """(model, size) -> FLOPs an image and images a second of the latest trained run there."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for path in sorted(root.glob("*/status.json"), key=lambda p: p.stat().st_mtime):
        clock = read_json(path).get("clock")
        if not clock or not clock["images_seen"] or not clock["seconds"]:
            continue
        cfg: Any = OmegaConf.load(path.parent / "config.yaml")
        if "model" in cfg and "size" in cfg:
            found[(cfg.model.name, cfg.size.name)] = {
                "flops_per_image": clock["flops_per_image"],
                "images_per_second": clock["images_seen"] / clock["seconds"],
            }
    return found
