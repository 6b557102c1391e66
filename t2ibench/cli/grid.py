"""Expansion of a multirun: from one line of overrides to its cells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from t2ibench.cli.compose import compose_raw, config_files, one_sentence
from t2ibench.cli.overrides import for_hydra
from t2ibench.core.errors import ConfigError
from t2ibench.engine.spec import StudySpec, checked

GRID = "BasicSweeper"
"""Hydra's sweeper over grids; other sweepers (Optuna's) choose their cells as they go."""

PARAMS = re.compile(r"^\+{0,2}hydra\.sweeper\.params\.")


@dataclass(frozen=True)
class Grid:
    """A multirun with what its experiment adds.

    Attributes:
        fixed: overrides of every cell.
        hydra: Hydra's own (launcher, sweeper).
        cells: complete overrides of each cell, or None where a sweeper decides as it goes.
        swept: the keys in which cells differ.
        many: True where the experiment is a multirun by itself.
        launcher: name of the launcher's class.
        study: the configuration's study.
        runs: the folder of runs.
    """

    fixed: tuple[str, ...]
    hydra: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...] | None
    swept: tuple[str, ...]
    many: bool
    launcher: str
    study: StudySpec
    runs: str


def read_grid(overrides: Sequence[str]) -> Grid:
    """Expands a multirun to its cells.

    Raises:
        ConfigError: an override cannot be read, or a group or key is unknown.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        parser = OverridesParser.create()
        parsed = parser.parse_overrides(for_hydra(overrides))
        parsed = parser.parse_overrides([without_glob(override) for override in parsed])
        plain = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
        # Keys of the model wait for the cells: here it may be another one.
        asked = [o for o in plain if concerns_the_study(o)]
        whole = compose_raw(asked, return_hydra_config=True)
        sweeper = whole.hydra.sweeper
        grid = sweeper["_target_"].endswith(GRID)
        added = [f"{k}={v}" for k, v in (sweeper.get("params") or {}).items()] if grid else []
        everything = [*parser.parse_overrides(added), *parsed]
        own = [o for o in everything if not is_hydra(o.get_key_element())]
        grids = BasicSweeper.split_arguments(own, None)[0] if grid else []
        study, runs = study_of(whole), str(whole.paths.runs)
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
    return Grid(
        tuple(o for o in plain if not is_hydra(o)),
        tuple(o for o in plain if is_hydra(o)),
        tuple(tuple(cell) for cell in grids) if grid else None,
        swept,
        "MULTIRUN" in str(whole.hydra.mode),
        whole.hydra.launcher["_target_"].rpartition(".")[2],
        study,
        runs,
    )


STUDY_KEYS = ("hydra.", "study.", "paths.")


def concerns_the_study(override: str) -> bool:
    """True where an override chooses a file of a group or a key of the study and its launcher."""
    key = override.split("=", 1)[0].lstrip("+~")
    return "." not in key or key.startswith(STUDY_KEYS)


def without_glob(override: Any) -> str:
    """The words of a parsed override, ``group=glob(pattern)`` as the files that it means.

    Raises:
        ConfigError: it means none.
    """
    from hydra.core.override_parser.types import Glob

    given = override.value()
    if not isinstance(given, Glob):
        return str(override.input_line)
    key = override.get_key_element()
    names = given.filter(sorted(config_files(key)))
    if not names:
        known = ", ".join(sorted(config_files(key))) or "no files"
        raise ConfigError(f"{override.input_line} matches nothing; {key} has {known}.")
    return f"{key}={','.join(names)}"


def study_of(whole: DictConfig) -> StudySpec:
    """The study of a configuration.

    Raises:
        ConfigError: it is not a study, or a value has another type.
    """
    node: Any = whole.study
    given = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    return checked(StudySpec, given, "study")


def without_params(override: str) -> str:
    """The override ``hydra.sweeper.params.K=V`` as ``K=V``, which is equivalent."""
    return PARAMS.sub("", override)


def is_hydra(key: str) -> bool:
    """True where a key is Hydra's own."""
    return key.lstrip("+~").startswith(("hydra/", "hydra."))
