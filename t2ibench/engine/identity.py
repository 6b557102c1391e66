"""Identity of a run: the hash of all that changes its trained weights, by content.

The data set is identified by its training split's content, a frozen text encoder by its weights
and tokeniser, a run that it depends on by its hash: never by a path. Settings of sampling and
scoring are not part of it, and have a key of their own.
"""

from __future__ import annotations

from typing import Any

from t2ibench.core.hashing import hash_json
from t2ibench.engine.context import Context
from t2ibench.engine.parts.start import initial_weights
from t2ibench.engine.spec import RunSpec, Sampling, Trained
from t2ibench.runs.folder import Run

SCORES_VERSION = 5
"""Version of the evaluator's results; raised when scored runs must be scored again."""


def identity_of(context: Context) -> dict[str, Any]:
    """Content that identifies a run, JSON-ready.

    Raises:
        T2IBenchError: something that the run depends on is missing.
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
    """The run of a specification; its folder may not exist."""
    spec = context.spec
    return Run.named(spec.paths.runs, spec.label, identity_of(context))


def resolved(context: Context) -> RunSpec:
    """The specification with the hashes of the runs that it names, as a run keeps it."""
    spec, start = context.spec, initial_weights(context)
    parts = {name: part.resolved(context) for name, part in spec.parts.items()}
    changed: dict[str, Any] = {"parts": parts, "text": spec.text.resolved(context)}
    if start is not None:
        changed["start"] = start.find(context).identity
    if spec.base is not None and "base" in parts:
        changed["base"] = parts["base"].run
    return spec.model_copy(update=changed)


def sampling_key(spec: RunSpec) -> str:
    """Hash of all settings of sampling and scoring."""
    return hash_json({"version": SCORES_VERSION, "asked": spec.values(Sampling)}, length=16)


def sampling_settings(spec: RunSpec) -> dict[str, Any]:
    """The model's own settings that only sampling reads, for the key of a sample set."""
    return spec.model.module.values(Sampling)
