"""What users type and other programs read: verbs, their options, groups and configuration keys.

A changed line of ``surface.txt`` is a decision that others notice: say it in CHANGELOG.md, then
write the file anew with ``python tests/surface.py``.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import t2ibench
from t2ibench.cli.compose import compose_config, config_dir, config_files
from t2ibench.cli.main import MODULES, VERBS
from t2ibench.engine.spec import RunSpec

SURFACE = Path(__file__).with_name("conf") / "surface.txt"

OPTIONS = ("DEFAULTS", "OPTIONS", "EDIT_OPTIONS", "OWN_OPTIONS")
"""Constants of a verb's module that list its own options."""

NOT_COMPOSED = ("hydra", "experiment", "debug", "model")
"""Groups that set keys of others, and the models, which are all composed."""

COMPOSED_WITH = {
    "autoencoder": "diffusion/ldm",
    "backbone": "gan/style_gan_t",
    "cascade": "diffusion/sr3",
    "clip": "diffusion/fast_unclip",
    "damsm": "gan/attn_gan",
    "prior": "diffusion/fast_unclip",
}
"""A model that has the parts of a group."""

NEEDED = {
    "folder": ["data.root=pictures"],
    "folders": ["protocol.test.num_images=1"],
    "pictures": ["data.root=pictures"],
    "run": ["text.run=runs/x"],
    "on_run": ["base=runs/x"],
}
"""What a file leaves to its user."""


def verbs() -> list[str]:
    """A line a verb: its name and the options that are its own."""
    found = []
    for verb in sorted(VERBS):
        module = importlib.import_module(f"t2ibench.cli.verbs.{MODULES.get(verb, verb)}")
        names = [name for group in OPTIONS for name in getattr(module, group, ())]
        found.append(" ".join(["verb", verb, *sorted(names)]))
    return found


def groups() -> list[str]:
    """A line a group: the files that can be chosen."""
    found = sorted(path.name for path in config_dir().iterdir() if path.is_dir())
    return [" ".join(["group", name, *sorted(config_files(name))]) for name in found]


def choices() -> list[list[str]]:
    """Overrides that together show every key: each file of each group, each model at first."""
    found = [[f"model={model}"] for model in sorted(config_files("model"))]
    for group in sorted(path.name for path in config_dir().iterdir() if path.is_dir()):
        model = [f"model={COMPOSED_WITH[group]}"] if group in COMPOSED_WITH else []
        if group not in NOT_COMPOSED:
            names = sorted(config_files(group))
            found += [[*model, f"{group}={name}", *NEEDED.get(name, [])] for name in names]
    return [*found, ["evaluator/dual_encoder=[damsm]"]]


def keys() -> list[str]:
    """A line a key: what it changes, for all choices together."""
    found: dict[str, set[str]] = {}
    for overrides in choices():
        for key, effect in RunSpec.read(compose_config(overrides)).effects():
            found.setdefault(key, set()).add(effect.name.lower())
    return [f"key {key} {'|'.join(sorted(effects))}" for key, effects in sorted(found.items())]


def surface() -> list[str]:
    """All lines."""
    public = [f"python {name}" for name in sorted(t2ibench.__all__)]
    return [*public, *verbs(), *groups(), *keys()]


if __name__ == "__main__":
    SURFACE.write_text("\n".join(surface()) + "\n")
