"""Scorings: a scores file for each protocol, evaluator and sampling that a model is scored under.

``scores.json`` is the run's own scoring, that of its ``config.yaml``; another one lies in
``scores/PROTOCOL-HASH.json`` and its images in ``samples/PROTOCOL-HASH/``, so that nothing takes
the place of what a run was trained to show. Models that are scored alike share the label.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from t2ibench.core.hashing import hash_json
from t2ibench.data.records import DataSource
from t2ibench.engine.assemble import read_spec
from t2ibench.engine.identity import SCORES_VERSION, sampling_key, sampling_settings
from t2ibench.engine.spec import RunSpec
from t2ibench.evaluation.results import RunScores
from t2ibench.runs.folder import Run


@dataclass(frozen=True)
class Scoring:
    """One scoring of a folder.

    Attributes:
        label: protocol and hash of what was asked (``dev-1a2b3c4d``).
        own: True for the folder's own scoring.
    """

    label: str
    own: bool

    def scores(self, folder: Path) -> Path:
        """Path of the scores file."""
        return folder / ("scores.json" if self.own else f"scores/{self.label}.json")

    def samples(self, name: str) -> str:
        """Name of a sample set, below ``samples``."""
        return name if self.own else f"{self.label}/{name}"

    @staticmethod
    def of_run(run: Run, spec: RunSpec, source: DataSource) -> Scoring:
        """The scoring of a trained run under a specification."""
        first = read_spec(run)
        same_data = first.data.model_dump(mode="json") == spec.data.model_dump(mode="json")
        own = same_data and sampling_key(first) == sampling_key(spec)
        trained_with = sampling_settings(first)
        settings = {k: v for k, v in sampling_settings(spec).items() if trained_with.get(k) != v}
        return Scoring(label_of(spec, source, settings), own)

    @staticmethod
    def of_folder(folder: Path | None, spec: RunSpec, source: DataSource) -> Scoring:
        """The scoring of images that no run made; the first of a folder is its own."""
        label = label_of(spec, source, {})
        file = None if folder is None else folder / "scores.json"
        own = file is None or not file.exists() or RunScores.read(file).scoring in ("", label)
        return Scoring(label, own)


def scores_file(folder: Path, label: str) -> Path:
    """Path of the scores file of a label in a folder."""
    own = folder / "scores.json"
    same = own.exists() and RunScores.read(own).scoring == label
    return Scoring(label, same).scores(folder)


def label_of(spec: RunSpec, source: DataSource, settings: dict[str, object]) -> str:
    """Protocol and hash of what is asked, equal for models that are scored alike.

    Args:
        spec: the specification.
        source: the data set.
        settings: sampling settings of the model that are not those it was trained with.
    """
    asked = {
        "version": SCORES_VERSION,
        "protocol": spec.protocol.model_dump(mode="json"),
        "evaluator": spec.evaluator.model_dump(mode="json"),
        "source": source.fingerprint,
        "knobs": spec.knobs,
        "settings": settings,
    }
    return f"{spec.protocol.name}-{hash_json(asked, 8)}"
