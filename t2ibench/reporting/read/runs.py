"""Scored run folders as the report sees them: files only, no model code."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from t2ibench.core.errors import RunError
from t2ibench.core.hashing import hash_json
from t2ibench.evaluation.results import RunScores
from t2ibench.evaluation.samples import ImageValues, SampleSet, load_values
from t2ibench.runs.curves import warned_curves
from t2ibench.runs.folder import Run

RESULT_INDEPENDENT = ("seed", "paths", "logger", "hydra", "trainer", "study", "launcher")
"""Parts of a configuration in which two runs of one group may differ."""

PATHS = re.compile(r"(data|text|parts|evaluator)\.(.+\.)?(root|cache_dir|path|folder)")
"""Settings that say where content lies, and not which it is."""

OF_SCORING = ("protocol", "evaluator", "knobs")
"""Parts of a configuration that say how a run is scored."""

DESCRIPTIVE = ("seed", "run", "origin", "given")
"""Facts of ``RunScores.model`` that tell no two groups apart."""

PRECISION = "trainer.precision"
"""The one setting of the trainer that can change a result."""

EXTERNAL = "external"
"""Family of scored images that no run of ours made."""

ORIGINS = ("paper", "own")
"""``origin`` of a model: a paper's layout and recipe, or this project's own."""


@dataclass(frozen=True)
class ScoredRun:
    """One scored run folder.

    Attributes:
        path: the folder.
        scores: its ``scores.json``.
        config: its ``config.yaml`` (empty for a scored folder of external images).
        curves: column of ``metrics.csv`` -> values, NaN where a row lacks it.
        precision: of training, as its device resolved it: ``bf16-mixed``; empty where unknown.
        content: of its data and frozen networks, by dotted key; empty where unknown.
    """

    path: Path
    scores: RunScores
    config: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    precision: str = ""
    content: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model's name without its folder in conf/: ``ldm`` of ``diffusion/ldm``.

        External images keep the whole name that their owner gave them.
        """
        return self.whole_name if self.family == EXTERNAL else self.whole_name.rsplit("/", 1)[-1]

    @property
    def whole_name(self) -> str:
        """The model's name as it was recorded."""
        return str(self.scores.model["name"])

    @property
    def family(self) -> str:
        """As the model declares it; ``external`` for external images."""
        return str(self.scores.model["family"])

    @property
    def seed(self) -> str:
        """Its training seed."""
        return str(self.scores.model["seed"])

    @property
    def origin(self) -> str:
        """``paper`` or ``own``; empty where the run does not say or is external."""
        return "" if self.family == EXTERNAL else str(self.scores.model.get("origin") or "")

    @property
    def given(self) -> tuple[str, ...]:
        """What the model was given beyond captions and images."""
        return tuple(self.scores.model.get("given") or ())

    @cached_property
    def group_key(self) -> str:
        """A hash that is equal for runs that differ in nothing but the training seed.

        External images of no named seed are a group of their own, whatever their name.
        """
        if self.family == EXTERNAL and self.scores.model["seed"] is None:
            return hash_json(["external", str(self.path.resolve())])
        model = {k: v for k, v in self.scores.model.items() if k not in DESCRIPTIVE}
        return hash_json(
            [
                self.settings,
                model,
                self.scores.protocol,
                self.scores.budget,
                self._asked_knobs(),
            ]
        )

    @cached_property
    def settings(self) -> dict[str, str]:
        """What can change a result: dotted key -> value as text."""
        found = identifying(self.config, self.content)
        return found | ({PRECISION: self.precision} if self.precision else {})

    @cached_property
    def facts(self) -> dict[str, str]:
        """Its settings, paths among them, facts of its model before them, each as text."""
        model = {name: str(value) for name, value in self.scores.model.items()}
        return identifying(self.config, {}) | self.settings | model | {"name": self.name}

    @cached_property
    def image_values(self) -> ImageValues | None:
        """Per-image scores of the chosen operating point, read once; None without any."""
        folder = self._sample_folder()
        return None if folder is None else load_values(folder)

    @cached_property
    def scorings(self) -> list[str]:
        """Labels under which its folder is scored, that of these scores first."""
        others = sorted(file.stem for file in (self.path / "scores").glob("*.json"))
        return [label for label in dict.fromkeys([self.scores.scoring, *others]) if label]

    def samples(self) -> SampleSet | None:
        """Reads the chosen operating point's sample set; None where it was not kept.

        Raises:
            ScoreError: the set has changed since it was written.
        """
        folder = self._sample_folder()
        if folder is None or not (folder / "set.json").exists():
            return None
        return SampleSet.load(folder)

    def _asked_knobs(self) -> dict[str, Any]:
        """The knobs without the value that validation chose, which may differ between seeds."""
        knobs: dict[str, Any] = dict(self.scores.chosen.knobs)
        knob = self.scores.knob
        if knob.get("chosen_by"):
            knobs[knob["name"]] = f"by {knob['chosen_by']}"
        return knobs

    def _sample_folder(self) -> Path | None:
        relative = self.scores.chosen.samples
        return self.path / relative if relative else None


def identifying(config: Mapping[str, Any], content: Mapping[str, str]) -> dict[str, str]:
    """A configuration without what cannot change a result, and without the seed, as text.

    Args:
        config: the configuration.
        content: what a run was trained on, which stands in place of paths; empty: paths stay.
    """
    found = flat({k: v for k, v in config.items() if k not in RESULT_INDEPENDENT})
    kept = {k: v for k, v in found.items() if not (content and PATHS.fullmatch(k))}
    return kept | dict(content)


def read_run(path: str | Path, file: Path | None = None) -> ScoredRun:
    """Reads one run folder.

    Args:
        path: the folder.
        file: the scores file, under another protocol than the run's own perhaps; None: the own.

    Raises:
        RunError: no scores, a file that cannot be read, or a fact of the model of a wrong kind.
    """
    path = Path(path)
    scores = RunScores.read(file or path / "scores.json")
    _check_model(file or path / "scores.json", scores.model)
    external = scores.model["family"] == EXTERNAL and not (path / "config.yaml").exists()
    config = {} if external else Run(path, "").config()
    if file is not None:  # a chosen scoring stands in place of what the configuration asked for
        config = {name: value for name, value in config.items() if name not in OF_SCORING}
    precision, content = read_precision(path, config), {} if external else read_content(path)
    return ScoredRun(path, scores, config, _read_curves(path / "metrics.csv"), precision, content)


def read_precision(path: Path, config: Mapping[str, Any]) -> str:
    """Precision in which a run was trained, as its manifest tells, else as it was configured.

    Empty where neither tells: ``auto`` is another precision on another device.

    Raises:
        ContentError: the manifest cannot be read.
    """
    device, trainer = Run(path, "").manifest().get("device"), config.get("trainer")
    if isinstance(device, Mapping) and device.get("training_precision"):
        return str(device["training_precision"])
    asked = str(trainer.get("precision") or "") if isinstance(trainer, Mapping) else ""
    return "" if asked == "auto" else asked


def read_content(path: Path) -> dict[str, str]:
    """Fingerprints of what a run was trained on, as its manifest tells; empty where it does not.

    None of them changes with the training seed: of an encoder that is trained along, it is that
    of the layout and the vocabulary.

    Raises:
        ContentError: the manifest cannot be read.
    """
    run = Run(path, "")
    manifest = run.manifest()
    data, networks = manifest.get("data"), manifest.get("content")
    if not isinstance(data, str) or not isinstance(networks, Mapping):
        return {}
    encoder = run.fingerprint("text_encoder")
    known = {"data": data, **networks} | ({"text_encoder": encoder} if encoder else {})
    return {f"{name}.content": str(content) for name, content in known.items()}


def _check_model(path: Path, model: Mapping[str, Any]) -> None:
    """Refuses an origin that nobody knows, and extras that are no list of words."""
    origin, given = model.get("origin"), model.get("given")
    if origin is not None and origin not in ORIGINS:
        raise RunError(
            f"{path} has model.origin={origin!r}; it is one of {', '.join(ORIGINS)}: "
            "score the run again."
        )
    words = isinstance(given, list) and all(isinstance(word, str) for word in given)
    if given is not None and not words:
        raise RunError(
            f"{path} has model.given={given!r}; it is a list of strings: score the run again."
        )


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A configuration by dotted keys, its values as text."""
    found: dict[str, str] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{key}.")
        else:
            found[key] = str(value)
    return found


def _read_curves(path: Path) -> dict[str, list[float]]:
    """Columns of the learning curves, as far as they are whole; a warning says what is lost."""
    found = warned_curves(path)
    return {name: [_number(row[name]) for row in found.rows] for name in found.columns}


def _number(text: str | None) -> float:
    return float(text) if text else math.nan
