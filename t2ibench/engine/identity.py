"""What a run is: the hash of all that changes its trained weights, by content.

The data set counts by what its training split holds, a frozen text encoder by its weights and
tokeniser, a run below by its hash: never by a path. Settings of sampling and scoring are not part
of it, and have a key of their own.
"""

from __future__ import annotations

from typing import Any

from t2ibench.core.hashing import hash_json
from t2ibench.engine.context import Context
from t2ibench.engine.parts.start import initial_weights
from t2ibench.engine.spec import RunSpec, Sampling, Trained
from t2ibench.runs.folder import Run

SCORES_VERSION = 4
"""Raised when a scored run must be scored again: the evaluator says more, or otherwise."""


def identity_of(context: Context) -> dict[str, Any]:
    """The content that identifies a run, JSON-ready.

    Raises:
        T2IBenchError: something that it stands on is not there.
    """
    spec, start = context.spec, initial_weights(context)
    found = spec.values(Trained)
    found["data"] = found["data"] | {"train": context.source.split_fingerprint("train")}
    found["parts"] = {name: part.identity(context) for name, part in spec.parts.items()}
    found["text"] = spec.text.identity(context)
    if start is not None:
        found["start"] = start.identity(context)
    return found


def named_run(context: Context) -> Run:
    """The run of a specification, whether or not its folder is there."""
    spec = context.spec
    return Run.named(spec.paths.runs, spec.label, identity_of(context))


def made_run(context: Context) -> Run:
    """The run of a specification, made if it is new; its configuration names runs by hash."""
    spec = resolved(context)
    return Run.of(spec.paths.runs, spec.label, identity_of(context), spec.config())


def resolved(context: Context) -> RunSpec:
    """The specification with the runs that it names by their hashes."""
    spec, start = context.spec, initial_weights(context)
    parts = {name: part.resolved(context) for name, part in spec.parts.items()}
    changed: dict[str, Any] = {"parts": parts, "text": spec.text.resolved(context)}
    if start is not None:
        changed["start"] = start.find(context).identity
    if spec.base is not None and "base" in parts:
        changed["base"] = parts["base"].run
    return spec.model_copy(update=changed)


def sampling_key(spec: RunSpec) -> str:
    """A hash of all that is asked of sampling and scoring."""
    return hash_json({"version": SCORES_VERSION, "asked": spec.values(Sampling)}, length=16)


def sampling_settings(spec: RunSpec) -> dict[str, Any]:
    """What of the model's own settings sampling reads, for the key of a sample set."""
    return spec.model.module.values(Sampling)
