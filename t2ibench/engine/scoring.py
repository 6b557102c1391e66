"""Runs scored again: under another protocol, evaluator, knobs or settings of sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from t2ibench.core.errors import ConfigError
from t2ibench.engine.assemble import read_spec
from t2ibench.engine.components import Effect
from t2ibench.engine.context import Context
from t2ibench.engine.load import open_run
from t2ibench.engine.ranks import ranks_of
from t2ibench.engine.score import score_run
from t2ibench.engine.spec import RunSpec
from t2ibench.evaluation.results import RunScores
from t2ibench.runs.folder import Run

GROUPS = ("protocol", "evaluator", "logger", "trainer", "paths")
"""Groups of which another file can be chosen when a trained run is scored."""

TEST_SIZES = ("data.source.num_val", "data.source.num_test")
"""Data options that leave the training split what it is: how much of the others is drawn."""


def rescored_spec(run: Run, config: Mapping[str, Any], named: Sequence[str]) -> RunSpec:
    """A run's specification with what a user wants otherwise when it is scored.

    Where nothing is said of devices, one draws and scores, on however many it was trained.

    Args:
        run: trained.
        config: composed from the user's words.
        named: the keys and groups among them.

    Raises:
        ConfigError: a key of what the run was trained with.
    """
    spec = read_spec(run)
    own = spec.config()
    own["trainer"] |= {"devices": 1, "num_nodes": 1}
    if own["trainer"]["accelerator"] != "cpu":
        own["trainer"]["accelerator"] = "auto"
    own["paths"] = config["paths"]
    effects = effects_by_key(spec)
    for key in sorted(named, key=lambda key: "." in key):  # groups first, then what is in them
        head = key.split(".")[0]
        if head in GROUPS or key in TEST_SIZES or head == "knobs" or sampled_by(effects, key):
            put(own, key, find(config, key))
        else:
            raise ConfigError(
                f"{key} cannot be changed when a trained run is scored: it belongs to the "
                f"training. What can be: {', '.join([*GROUPS, 'knobs', *TEST_SIZES])}, and of the "
                f"model {', '.join(sampling_keys(effects)) or 'nothing'}."
            )
    return RunSpec.read(own)


def effects_by_key(spec: RunSpec) -> dict[str, Effect]:
    """Every configuration key of a specification with what it changes."""
    return dict(spec.effects())


def sampling_keys(effects: Mapping[str, Effect]) -> list[str]:
    """Keys of the model that sampling alone reads."""
    return [k for k, e in effects.items() if e is Effect.SAMPLING and k.startswith("model.")]


def sampled_by(effects: Mapping[str, Effect], key: str) -> bool:
    """Whether a key, or all below it, is read by sampling alone."""
    below = [e for k, e in effects.items() if k == key or k.startswith(f"{key}.")]
    return bool(below) and all(effect is Effect.SAMPLING for effect in below)


def find(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def put(config: dict[str, Any], key: str, value: Any) -> None:
    """Sets the value at a dotted key."""
    *folders, last = key.split(".")
    for part in folders:
        config = config[part]
    config[last] = value


def score_trained(run: Run, spec: RunSpec) -> RunScores:
    """A trained run scored under a specification, by as many processes as it asks for."""
    trainer = spec.trainer
    work = {"score": str(run.path), "config": spec.config()}
    with ranks_of(trainer.devices, trainer.num_nodes, lambda: work):
        return score_run(open_run(run, Context.of(spec)))
