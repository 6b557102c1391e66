"""A run's module put together from its parts: trained ones restored, or untrained for shapes."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from t2ibench.core.errors import CheckpointError, ConfigError, ContentError, RunError
from t2ibench.core.hashing import hash_json
from t2ibench.engine.build import build_module, check_parts
from t2ibench.engine.context import Context
from t2ibench.engine.spec import RunSpec, Trained
from t2ibench.families.contract import TextToImageModule
from t2ibench.runs.clock import Clock
from t2ibench.runs.folder import Run
from t2ibench.runs.status import ANEW
from t2ibench.training.checkpoint import load_weights

INDEX = "index"
"""Folder in a run with the files of a generator without training."""


def read_spec(run: Run) -> RunSpec:
    """The specification that a run was made from.

    Raises:
        ContentError: its configuration cannot be read, or is not that of the training.
        RunError: it is a part of other runs and not a model.
        ConfigError: its configuration is not of this version, or names a class that it may not.
    """
    config = run.config()
    if "model" not in config:
        raise RunError(
            f"{run.path.name} generates no images from text (it is a part of another model); name "
            "the run of a model."
        )
    try:
        spec = RunSpec.read(config)
    except ConfigError as error:
        raise ConfigError(f"{run.path / 'config.yaml'}: {error}") from error
    trained = run.manifest().get("settings")
    if trained is not None and trained != settings_of(spec):
        raise ContentError(
            f"{run.path / 'config.yaml'} has changed since the training in what the weights depend "
            f"on; {ANEW}."
        )
    return spec


def settings_of(spec: RunSpec) -> str:
    """Hash of the settings on which the trained weights depend, for the manifest."""
    return hash_json(spec.values(Trained), length=16)


def restore_parts(context: Context, run: Run | None) -> dict[str, nn.Module]:
    """Restores all parts in the order in which they may need each other, the text encoder last."""
    for name, part in context.spec.parts.items():
        context.modules[name] = part.restore(context, run)
    context.modules["text_encoder"] = context.spec.text.restore(context, run)
    return context.modules


def assemble(context: Context, modules: dict[str, nn.Module]) -> TextToImageModule:
    """Builds the family's module from its parts."""
    parts = {name: module for name, module in modules.items() if name != "text_encoder"}
    return build_module(context.spec, modules["text_encoder"], parts)


def untrained_module(context: Context) -> TextToImageModule:
    """The module of a specification with random weights, its parts unmeasured.

    Raises:
        ConfigError: the model does not take its parts, or lacks one.
    """
    check_parts(context.spec)
    return assemble(context, restore_parts(context, None))


def load_module(context: Context, run: Run) -> TextToImageModule:
    """A trained run's module with its sampling weights, in eval mode on the context's device.

    Raises:
        CheckpointError: the run is not trained to its end.
        T2IBenchError: a part is missing, or has changed since training.
    """
    check_parts(context.spec)
    modules = restore_parts(context, run)
    check_content(run, content_of(context.spec, modules))
    module = assemble(context, modules)
    load_weights(module, run.weights)
    if not module.trains:
        module.open_index(run.path / INDEX)
    return module.to(context.device).eval()


def content_of(spec: RunSpec, modules: dict[str, nn.Module]) -> dict[str, str]:
    """Fingerprints of the parts whose weights a run's own do not hold, for its manifest."""
    parts = {**spec.parts, "text_encoder": spec.text}
    found = {name: parts[name].content(module) for name, module in modules.items() if name in parts}
    return {name: content for name, content in found.items() if content is not None}


def check_content(run: Run, now: dict[str, str]) -> None:
    """Checks that the parts that a run depends on are still those that it was trained with.

    Args:
        run: a trained run.
        now: ``content_of`` the parts as they are found now.

    Raises:
        CheckpointError: a part has other content, or the run does not say which it had.
    """
    kept = run.manifest().get("content") if run.trained else {}
    if not isinstance(kept, dict):
        raise CheckpointError(
            f"{run.path / 'manifest.json'} does not say what the run was trained on (its "
            f"content); {ANEW}."
        )
    for name, content in now.items():
        if name in kept and kept[name] != content:
            raise CheckpointError(
                f"{run.path.name} was trained on {name} with content {kept[name]}, and what is "
                f"found for it now has {content}; restore the former, or delete {run.path.name} "
                "and train it again."
            )


def cost_of(run: Run) -> Clock:
    """Training cost of a run."""
    clock = Clock()
    clock.load_state_dict(run.status().get("clock", {}))
    return clock


def folder_of_part(run: Run, name: str) -> Path:
    """Folder in which a run keeps the files of a part."""
    return run.path / "parts" / name
