"""Run folders as the report sees them: files only, no model code."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from t2ibench.core.errors import RunError
from t2ibench.core.files import read_json
from t2ibench.core.hashing import hash_json
from t2ibench.evaluation.results import RunScores
from t2ibench.evaluation.samples import ImageValues, SampleSet, load_values

RESULT_FREE = ("seed", "paths", "logger", "hydra", "trainer", "study", "launcher")
"""Parts of a configuration in which two runs of one group may differ."""


@dataclass(frozen=True)
class ReportRun:
    """One scored run folder.

    Attributes:
        path: the folder.
        scores: its ``scores.json``.
        config: its ``config.yaml`` (empty for a scored folder of foreign images).
        manifest: its ``manifest.json``, or empty.
        curves: column of ``metrics.csv`` -> values, NaN where a row lacks it.
    """

    path: Path
    scores: RunScores
    config: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model's name without its folder in conf/: ``ldm`` of ``diffusion/ldm``."""
        return str(self.scores.model["name"]).rsplit("/", 1)[-1]

    @property
    def family(self) -> str:
        """As the model declares it; ``external`` for foreign images."""
        return str(self.scores.model["family"])

    @property
    def group_key(self) -> str:
        """Equal for runs that differ in nothing but the training seed."""
        model = {k: v for k, v in self.scores.model.items() if k not in ("seed", "run")}
        return hash_json(
            [
                self.configuration_key,
                model,
                self.scores.protocol,
                self.scores.budget,
                self._told_knobs(),
            ]
        )

    @property
    def configuration_key(self) -> str:
        """Equal for runs whose configurations differ in the seed alone."""
        return configuration_key(self.config)

    def _told_knobs(self) -> dict[str, Any]:
        """The knobs without the value that validation chose, which may differ between seeds."""
        knobs: dict[str, Any] = dict(self.scores.chosen.knobs)
        knob = self.scores.knob
        if knob.get("chosen_by"):
            knobs[knob["name"]] = f"by {knob['chosen_by']}"
        return knobs

    def samples(self) -> SampleSet | None:
        """The sample set of the chosen operating point, or None where it was not kept."""
        folder = self._sample_folder()
        if folder is None or not (folder / "set.json").exists():
            return None
        return SampleSet.load(folder)

    def image_values(self) -> ImageValues | None:
        """Per-image scores of that set, or None."""
        folder = self._sample_folder()
        return None if folder is None else load_values(folder)

    def _sample_folder(self) -> Path | None:
        relative = self.scores.chosen.samples
        return self.path / relative if relative else None


def configuration_key(config: Mapping[str, Any]) -> str:
    """Hash of a configuration without what cannot change a result, and without the seed."""
    return hash_json({k: v for k, v in config.items() if k not in RESULT_FREE})


def read_run(path: str | Path) -> ReportRun:
    """Reads one run folder.

    Raises:
        RunError: no scores, or a file that cannot be read.
    """
    path = Path(path)
    scores = RunScores.read(path / "scores.json")
    config = path / "config.yaml"
    manifest = path / "manifest.json"
    try:
        return ReportRun(
            path,
            scores,
            _mapping(yaml.safe_load(config.read_text("utf-8"))) if config.exists() else {},
            _mapping(read_json(manifest)) if manifest.exists() else {},
            _read_curves(path / "metrics.csv"),
        )
    except (ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path} holds a file that cannot be read: {error}") from error


def samples_side_by_side(runs: Iterable[ReportRun]) -> list[tuple[ReportRun, SampleSet]]:
    """Runs whose sample sets can be read, with them; a changed set is an error.

    Raises:
        ScoreError: a set has changed since it was written.
    """
    pairs = [(run, run.samples()) for run in runs]
    return [(run, samples) for run, samples in pairs if samples is not None]


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping, found {type(value).__name__}")
    return dict(value)


def _read_curves(path: Path) -> dict[str, list[float]]:
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    columns = reader.fieldnames or []
    return {name: [_number(row[name]) for row in rows] for name in columns}


def _number(text: str | None) -> float:
    return float(text) if text else math.nan
