"""Composition of the configuration in ``conf/``, and its errors as single sentences."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import t2ibench
from t2ibench.cli.overrides import for_hydra, several_values, unreadable
from t2ibench.core.errors import ConfigError
from t2ibench.engine.plugins import plugins
from t2ibench.engine.spec import SUBGROUPS

if TYPE_CHECKING:
    from t2ibench.engine.context import Context
    from t2ibench.engine.spec import RunSpec
    from t2ibench.runs.folder import Run

MODEL_KEYS = ("model", "parts", "base", "start", "text", "conditioning", "data.resolution")
"""Keys and groups of a cascade's stage that do not apply to the model of its base."""

MODEL_GROUPS = ("autoencoder", "clip", "damsm", "prior", "cascade")
"""Groups whose choices belong to one model."""


ABSOLUTE = (
    "paths.cache", "paths.data", "data.root", "data.source.root", "data.source.cache_dir",
    "text.path", "text.encoder.path",
)  # fmt: skip
"""Keys of files and folders that runs read later, from any working folder."""


class PluginConfigs(SearchPathPlugin):
    """Appends the ``conf/`` folders of installed plugins to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Appends the plugins' folders behind the project's own."""
        for plugin in plugins():
            if plugin.conf is not None:
                search_path.append(f"t2ibench plugin {plugin.name}", f"file://{plugin.conf}")


def register_plugins() -> None:
    """Registers the plugins' configurations with Hydra, once."""
    known = Plugins.instance()
    if PluginConfigs not in known.discover(SearchPathPlugin):
        known.register(PluginConfigs)


def config_dir() -> Path:
    """Folder ``conf/`` inside the installed package, or beside it in a checkout."""
    package = Path(t2ibench.__file__).parent
    inside, beside = package / "conf", package.parent / "conf"
    return inside if inside.is_dir() else beside


def config_files(group: str) -> dict[str, Path]:
    """Files of a group by the name that a user types, including those of plugins."""
    roots = [config_dir(), *(p.conf for p in plugins() if p.conf is not None)]
    inner = tuple(f"{name.removeprefix(f'{group}/')}/" for name in SUBGROUPS)
    found: dict[str, Path] = {}
    for root in roots:
        for path in sorted((root / group).rglob("*.yaml")):
            name = str(path.relative_to(root / group).with_suffix(""))
            if not name.startswith(inner):
                found.setdefault(name, path)
    return found


def compose_config(overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration for Hydra overrides, as plain containers.

    Raises:
        ConfigError: an unknown key or group, an override that cannot be read, or a size that the
            model does not have.
    """
    return to_container(compose_raw(overrides))


def compose_raw(overrides: Sequence[str], **options: Any) -> DictConfig:
    """The configuration before interpolations are resolved.

    Raises:
        ConfigError: an unknown key or group, or an override that cannot be read.
    """
    register_plugins()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return compose("config", overrides=for_hydra(overrides), **options)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_sentence(error)) from error
    except ValueError as error:  # Hydra's, of a number where the name of a file is wanted
        raise ConfigError(wrong_choice(overrides) or f"{error}.") from error


def wrong_choice(overrides: Sequence[str]) -> str | None:
    """A sentence on the first override that chooses a file that its group does not have."""
    for override in overrides:
        group, _, chosen = override.lstrip("+~").partition("=")
        known = config_files(group) if (config_dir() / group).is_dir() else {}
        if known and chosen not in known:
            return f"{group}={chosen} is unknown; choose one of {', '.join(sorted(known))}."
    return None


def compose_spec(overrides: Sequence[str]) -> RunSpec:
    """The checked specification for Hydra overrides.

    Raises:
        ConfigError: see ``compose_config`` and ``RunSpec.read``.
    """
    from t2ibench.engine.spec import RunSpec

    return RunSpec.read(compose_config(overrides))


def rescored(run: Run, overrides: Sequence[str]) -> RunSpec:
    """A trained run's specification with the user's changes of sampling and scoring.

    Raises:
        ConfigError: an override that belongs to the training.
    """
    from t2ibench.engine.assemble import read_spec
    from t2ibench.engine.rescore import ROOTS, rescored_spec

    named = [o.split("=", 1)[0].lstrip("+") for o in overrides]
    # The run's own model, so that its keys are known.
    ours = any(name.startswith("model.") for name in named)
    own = [f"model={read_spec(run).model.name}"] if ours else []
    if any(name in ROOTS for name in named):  # as not every data set has a folder
        own += [f"data={read_spec(run).data.name}"]
        overrides = [o.replace("data.source.root=", "data.root=", 1) for o in overrides]
    return rescored_spec(run, compose_config([*own, *overrides]), named)


def untrained_context(overrides: Sequence[str]) -> Context:
    """The context of a model that is described or timed, not trained.

    A cascade's stage whose base is not named gets an example of one, of its own size where there
    is such an example; a text encoder that is named is the example's, as a stage reads its base's.
    """
    from t2ibench.engine.context import Context

    spec = compose_spec(overrides)
    context = Context.of(spec)
    part = spec.parts.get("base")
    if part is not None and part.run is None:
        text = [o for o in overrides if o.startswith(("text=", "text."))]
        spec = compose_spec([o for o in overrides if o not in text])
        context = Context.of(spec)
        below = [o for o in overrides if not is_model_override(o)] + text
        side = spec.data.resolution // part.upscale
        below += [f"model={part.example}", f"data.resolution={side}"]
        if spec.size not in compose_raw(without_size(below)).model.sizes:
            below = without_size(below)
        context.example = compose_spec(below)
    return context


def without_size(overrides: Sequence[str]) -> list[str]:
    """The overrides but for ``size=``."""
    return [o for o in overrides if not o.startswith("size=")]


def is_model_override(override: str) -> bool:
    """True where an override chooses or changes the model, not what all models share."""
    key = override.split("=", 1)[0].lstrip("+~")
    return key in (*MODEL_KEYS, *MODEL_GROUPS) or key.startswith(("model.", "parts."))


def one_sentence(error: BaseException) -> str:
    """Messages of Hydra and OmegaConf, often of many lines, as one sentence with a remedy."""
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    if (several := re.match(r"Ambiguous value for argument '(.*)'", str(error))) is not None:
        return several_values(several[1])
    cause = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if cause is not None and "not in struct" in str(cause):
        told = re.search(r"full_key: ([\w.]+)", str(cause))
        typed = str(error).split("'")[1] if "'" in str(error) else lines[0]
        # Of a typed key that goes deeper, OmegaConf names the first part that is missing.
        key = told[1] if told and not typed.startswith(f"{told[1]}.") else typed
        return f"{key} is not a configuration key; `t2ibench train --cfg job` lists all keys."
    text = lines[0] if lines else type(error).__name__
    options = [line for line in lines[1:] if not line.startswith(("Set the env", "Config search"))]
    missing = re.search(r"Could not (?:find|load) '([\w/-]+)'", text)
    if missing and missing[1].startswith("hydra/"):  # not ours: Hydra tells what there is
        group, _, chosen = missing[1].rpartition("/")
        known = [line for line in options if " " not in line and "=" not in line]
        return f"{group}={chosen} is unknown; choose one of {', '.join(known)}."
    if missing:
        within = [name for name in SUBGROUPS if missing[1].startswith(f"{name}/")]
        top = within[0] if within else missing[1].split("/", 1)[0]
        chosen = missing[1].removeprefix(f"{top}/")
        return f"{top}={chosen} is unknown; choose one of {', '.join(sorted(config_files(top)))}."
    full = re.search(r"full_key: ([\w.]+)", str(error))
    if "Missing mandatory value" in text and full:
        return f"{full[1]} must be given: {full[1]}=…"
    refers = re.search(r"Interpolation key '([\w.]+)' not found", text)
    if refers and full:
        return (
            f"{full[1]} needs {refers[1]}, which the chosen model does not have; choose files that "
            "go together."
        )
    return " ".join([text, *options[:2]]).rstrip(".") + "."


def check_size(cfg: DictConfig) -> None:
    """Checks that the model has the chosen size.

    Raises:
        ConfigError: the model has no such size.
    """
    sizes, size = cfg.model.get("sizes"), str(cfg.size)
    if sizes is None or size in sizes:
        return
    why = "has no such size"
    if size == "paper" and cfg.model.get("origin") == "own":
        why = "is this project's own and has no published size"
    raise ConfigError(
        f"size={size}: model={cfg.model.name} {why}; choose {', '.join(map(str, sizes))}."
    )


def to_container(cfg: DictConfig) -> dict[str, Any]:
    """Plain, resolved containers without Hydra's own node and the sizes not chosen.

    Raises:
        ConfigError: a size that the model does not have, or a value that refers to nothing.
    """
    if not isinstance(cfg.get("model"), DictConfig):
        raise ConfigError(f"model={cfg.get('model')} must be a file of conf/model.")
    check_size(cfg)
    plain = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    try:
        make_absolute(plain)
        found: Any = OmegaConf.to_container(plain, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(one_sentence(error)) from error
    found["model"].pop("sizes", None)
    found["text"].pop("sizes", None)
    found["size"] = str(found["size"])
    return found


def make_absolute(cfg: DictConfig) -> None:
    """Replaces paths relative to the working folder or the home, as runs outlive both."""
    for key in ABSOLUTE:
        value = OmegaConf.select(cfg, key, throw_on_resolution_failure=False)
        if isinstance(value, str) and value:
            OmegaConf.update(cfg, key, os.path.abspath(os.path.expanduser(value)))
    if str(cfg.paths.runs).startswith("~"):
        cfg.paths.runs = os.path.expanduser(cfg.paths.runs)


class ResolvedTask:
    """A task of Hydra that is given the resolved configuration; launchers pickle it for their jobs.

    Args:
        task: function of the resolved configuration, which can be imported by name.
    """

    def __init__(self, task: Callable[[Mapping[str, Any]], object]) -> None:
        self.task = task

    def __call__(self, cfg: DictConfig) -> object:
        """Runs the task in the folder in which the command was typed, whatever hydra.job.chdir."""
        os.chdir(HydraConfig.get().runtime.cwd)
        return self.task(to_container(cfg))


def run_hydra(task: Callable[[Mapping[str, Any]], object], arguments: Sequence[str]) -> None:
    """Runs ``task`` under Hydra's own command line (``-m``, ``--cfg``, ``--help``).

    Args:
        task: function of the resolved configuration.
        arguments: words of the command line.

    Raises:
        ConfigError: the configuration cannot be composed.
    """
    import hydra

    register_plugins()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, to be said in one sentence
    previous = sys.argv
    sys.argv = ["t2ibench train", *for_hydra(arguments)]

    decorate = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")
    try:
        decorate(ResolvedTask(task))()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_sentence(error)) from error
    finally:
        sys.argv = previous
