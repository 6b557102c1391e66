"""Repeated scoring of runs: under another protocol, evaluator, knobs or sampling settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2ibench.core.errors import ConfigError
from t2ibench.engine.assemble import read_spec
from t2ibench.engine.components import Effect
from t2ibench.engine.context import Context
from t2ibench.engine.load import open_run
from t2ibench.engine.ranks import rank_processes
from t2ibench.engine.score import score_run
from t2ibench.engine.spec import SUBGROUPS, RunSpec
from t2ibench.evaluation.results import RunScores
from t2ibench.runs.folder import Run

GROUPS = ("protocol", "evaluator", "logger", "trainer", "paths")
"""Configuration groups that can be chosen anew when a trained run is scored."""

TEST_SIZES = ("data.source.num_val", "data.source.num_test")
"""Data options that do not change the training split: the sizes of the other splits."""


def rescored_spec(run: Run, config: Mapping[str, Any], named: Sequence[str]) -> RunSpec:
    """Specification of a run with the user's changes of sampling and scoring.

    Unless the user chooses devices, one draws and scores, whatever number trained.

    Args:
        run: a trained run.
        config: configuration composed from the user's overrides.
        named: the keys and groups of these overrides.

    Raises:
        ConfigError: a key that belongs to the training.
    """
    spec = read_spec(run)
    own = spec.config()
    own["trainer"] |= {"devices": 1, "num_nodes": 1, "accelerator": "auto"}
    own["paths"] = config["paths"]
    effects = effects_by_key(spec)
    keys = [SUBGROUPS.get(key, key) for key in named]
    for key in sorted(keys, key=lambda key: "." in key):  # groups first, then what is in them
        head = key.split(".")[0]
        if head in GROUPS or key in TEST_SIZES or head == "knobs" or sampled_by(effects, key):
            set_value_at(own, key, value_at(config, key))
        else:
            raise ConfigError(
                f"{key} cannot be changed when a trained run is scored: it belongs to the "
                f"training. What can be: {', '.join([*GROUPS, 'knobs', *TEST_SIZES])}, and of the "
                f"model {', '.join(sampling_keys(effects)) or 'nothing'}."
            )
    return RunSpec.read(own)


def effects_by_key(spec: RunSpec) -> dict[str, Effect]:
    """Configuration keys of a specification, each with its effect."""
    return dict(spec.effects())


def sampling_keys(effects: Mapping[str, Effect]) -> list[str]:
    """Keys of the model that only sampling reads."""
    return [k for k, e in effects.items() if e is Effect.SAMPLING and k.startswith("model.")]


def sampled_by(effects: Mapping[str, Effect], key: str) -> bool:
    """True where only sampling reads a key, or all keys below it."""
    below = [e for k, e in effects.items() if k == key or k.startswith(f"{key}.")]
    return bool(below) and all(effect is Effect.SAMPLING for effect in below)


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def set_value_at(config: dict[str, Any], key: str, value: Any) -> None:
    """Sets the value at a dotted key."""
    *folders, last = key.split(".")
    for part in folders:
        config = config[part]
    config[last] = value


def score_trained(run: Run, spec: RunSpec) -> RunScores:
    """Scores a trained run under a specification, on as many processes as it configures."""
    trainer = spec.trainer
    work = {"score": str(run.path), "config": spec.config()}
    with rank_processes(trainer.devices, trainer.num_nodes, lambda: work):
        return score_run(open_run(run, Context.of(spec)))
