"""Configuration from ``conf/``: where it lies, how it is composed, how a mistake reads."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import t2ibench
from t2ibench.core.errors import ConfigError

IDENTIFYING = (
    "model",
    "text",
    "conditioning",
    "data",
    "budget",
    "first_stage",
    "seed",
)
"""The keys that change a trained model; paths, loggers, devices and protocols do not."""


def config_dir() -> Path:
    """conf/ inside the installed package, or beside it in a checkout."""
    package = Path(t2ibench.__file__).parent
    inside, beside = package / "conf", package.parent / "conf"
    return inside if inside.is_dir() else beside


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The resolved-on-demand configuration for Hydra overrides.

    Raises:
        ConfigError: an unknown key or group, or an override that cannot be read.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return compose("config", overrides=with_knobs(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_sentence(error)) from error


def with_knobs(overrides: Sequence[str]) -> list[str]:
    """``knobs.NAME=value`` as Hydra wants a key that the empty ``knobs`` does not list.

    Which knobs there are is the family's to say; ``resolve_knobs`` refuses the others. Likewise
    ``first_stage.override.KEY=value``, of which ``first_stage_plan`` refuses unknown keys.
    """
    open_ended = ("knobs.", "first_stage.override.")
    return [f"++{o}" if o.startswith(open_ended) else o for o in overrides]


def one_sentence(error: BaseException) -> str:
    """Hydra's and OmegaConf's many-line messages as one sentence with a remedy."""
    cause = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if cause is not None and "not in struct" in str(cause):
        key = str(error).split("'")[1] if "'" in str(error) else lines[0]
        return f"{key} is not a configuration key; `t2ibench train --cfg job` lists all keys."
    text = lines[0] if lines else type(error).__name__
    options = [line for line in lines[1:] if not line.startswith(("Set the env", "Config search"))]
    missing = re.search(r"Could not find '([\w/-]+)'", text)
    if missing and missing[1].startswith("hydra/"):  # not ours: Hydra tells what there is
        group, _, chosen = missing[1].rpartition("/")
        known = [line for line in options if " " not in line and "=" not in line]
        return f"{group}={chosen} is unknown; choose one of {', '.join(known)}."
    if missing:
        top = missing[1].split("/", 1)[0]
        folder = config_dir() / top
        known = sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))
        chosen = missing[1].removeprefix(f"{top}/")
        return f"{top}={chosen} is unknown; choose one of {', '.join(known)}."
    return " ".join([text, *options[:2]]).rstrip(".") + "."


def resolve_conditioning(cfg: DictConfig) -> None:
    """Fills ``conditioning: null`` with what the model's paper used."""
    if cfg.conditioning is None:
        cfg.conditioning = cfg.model.default_conditioning


def identifying(cfg: DictConfig) -> dict[str, Any]:
    """What changes the result of training, JSON-ready."""
    whole = to_container(cfg)
    chosen = {key: whole[key] for key in IDENTIFYING}
    chosen["data"] = without_paths(chosen["data"])
    chosen["text"] = without_paths(chosen["text"])
    if whole["start"] is not None:
        chosen["start"] = whole["start"]
    chosen["precision"] = whole["trainer"]["precision"]
    return chosen


def without_paths(value: Any) -> Any:
    """Drops folders, which may differ between machines."""
    if isinstance(value, dict):
        return {k: without_paths(v) for k, v in value.items() if k not in ("cache_dir", "root")}
    return value


def to_container(cfg: DictConfig) -> dict[str, Any]:
    """Plain, resolved containers without Hydra's own node."""
    plain = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    try:
        return OmegaConf.to_container(plain, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(one_sentence(error)) from error


def to_yaml(cfg: DictConfig) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(to_container(cfg)))


def run_hydra(task: Callable[[DictConfig], object], arguments: Sequence[str]) -> None:
    """Runs ``task`` under Hydra's own command line (``-m``, ``--cfg``, ``--help``).

    Raises:
        ConfigError: the configuration cannot be composed.
    """
    import hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, to be said in one sentence
    previous = sys.argv
    sys.argv = ["t2ibench train", *with_knobs(arguments)]
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_sentence(error)) from error
    finally:
        sys.argv = previous
