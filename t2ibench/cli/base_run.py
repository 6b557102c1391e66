"""The run that a stage of a cascade stands on: found by its hash, checked before any work.

``model.base`` names it by folder, by name or by hash. The hash is what is kept and what counts
in the identity of the stage's own run, and both lie in one folder of runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from t2ibench.cli.compose import config_dir, without_paths
from t2ibench.core.errors import CheckpointError, ConfigError
from t2ibench.core.files import read_json
from t2ibench.core.hashing import hash_tensors
from t2ibench.families.contract import TextToImageModule
from t2ibench.runs.clock import Budget, Clock
from t2ibench.runs.folder import Run

FEWEST_DIGITS = 6
"""Of a hash that names a run."""


def resolve_base(cfg: DictConfig, root: str | Path) -> Run | None:
    """The run that ``model.base`` names, whose hash is then written there; None without one.

    Args:
        cfg: of any model; a stage of a cascade has the key ``model.base``.
        root: the folder of runs.

    Raises:
        ConfigError: nothing is named, or there is no such run in ``root``.
    """
    if "base" not in cfg.model:
        return None
    if cfg.model.base is None:
        side = cfg.data.resolution // cfg.model.upscale
        raise ConfigError(
            f"model={cfg.model.name} stands on a trained run of {side} px: give it as "
            f"model.base=RUN (t2ibench train model={cfg.model.default_base} "
            f"data.resolution={side} trains one)."
        )
    run = locate("model.base", str(cfg.model.base), Path(root))
    cfg.model.base = run.identity
    return run


def locate(key: str, named: str, root: Path) -> Run:
    """A run by its folder, its name or the beginning of its hash; ``key`` is where it was named.

    Raises:
        ConfigError: there is no such run, or it lies in another folder of runs.
    """
    for folder in (Path(named), root / named):
        if (folder / "status.json").exists():
            if folder.resolve().parent != root.resolve():
                raise ConfigError(
                    f"{key}={named} is not in paths.runs={root}, where runs are found by hash; "
                    "move it there or set paths.runs."
                )
            return Run.at(folder)
    if len(named) >= FEWEST_DIGITS:
        for status in sorted(root.glob(f"*-{named[:8]}*/status.json")):
            run = Run.at(status.parent)
            if run.identity.startswith(named):
                return run
    raise ConfigError(
        f"{key}={named} is no run in paths.runs={root}; give the folder, the name or the "
        "hash of a run that `t2ibench train` made."
    )


def check_base(cfg: DictConfig, run: Run) -> None:
    """Whether a stage can stand on a run, before any work.

    Raises:
        ConfigError: the run is no generator, not trained, of another resolution or text encoder.
        BudgetError: it alone cost more than the stage's budget.
    """
    base: Any = OmegaConf.load(run.path / "config.yaml")
    name = f"model.base={run.path.name}"
    if "model" not in base:
        raise ConfigError(
            f"{name} generates no images from text (it is a part of another model); name the run "
            "of a model."
        )
    if not run.trained:
        raise ConfigError(
            f"{name} is {run.state}, not trained; the command that made it goes on with it."
        )
    if base.data.resolution * cfg.model.upscale != cfg.data.resolution:
        raise ConfigError(
            f"{name} makes {base.data.resolution} px, which model.upscale={cfg.model.upscale} "
            f"turns into {base.data.resolution * cfg.model.upscale}, not data.resolution="
            f"{cfg.data.resolution}; set one of the three."
        )
    ours, theirs = (OmegaConf.to_container(c.text, resolve=True) for c in (cfg, base))
    if without_paths(ours) != without_paths(theirs):
        raise ConfigError(
            f"{name} was trained with text={base.text.name} and shares its encoder with this "
            f"stage, which asks for text={cfg.text.name}; give text={base.text.name} with the same "
            "options."
        )
    budget = Budget(cfg.budget.unit, float(cfg.budget.amount), bool(cfg.budget.include_parts))
    charged(Clock(), cost_of(run)).progress(budget)


def cost_of(run: Run) -> Clock:
    """What a trained run cost."""
    clock = Clock()
    clock.load_state_dict(run.status().get("clock", {}))
    return clock


def charged(clock: Clock, base: Clock) -> Clock:
    """A stage's clock with all that its base cost, the base's own stages included."""
    clock.parts_flops += base.flops + base.parts_flops
    clock.parts_seconds += base.seconds + base.parts_seconds
    return clock


def base_facts(run: Run, module: TextToImageModule) -> dict[str, str]:
    """What a stage's manifest says of its base."""
    return {
        "run": run.path.name,
        "identity": run.identity,
        "weights": hash_tensors(module.state_dict().items()),
    }


def check_same_base(stage: Run, facts: dict[str, str]) -> None:
    """Whether a base still has the weights with which a stage was trained.

    Raises:
        CheckpointError: the base was trained anew since.
    """
    manifest = stage.path / "manifest.json"
    kept = read_json(manifest).get("base") if manifest.exists() else None
    if kept is not None and kept["weights"] != facts["weights"]:
        raise CheckpointError(
            f"{stage.path.name} was trained on {facts['run']} with weights {kept['weights']}, "
            f"which now has {facts['weights']}; restore those weights or delete {stage.path.name} "
            "and train it again."
        )


def example_base(cfg: DictConfig) -> DictConfig:
    """The configuration of ``model.default_base`` below a stage whose base is not named."""
    below = cfg.copy()
    below.model = OmegaConf.load(config_dir() / "model" / f"{cfg.model.default_base}.yaml")
    below.data.resolution = cfg.data.resolution // cfg.model.upscale
    return below
