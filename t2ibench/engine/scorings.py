"""Scorings: a scores file for each protocol, evaluator and sampling that a model is scored under.

``scores.json`` is the run's own scoring, that of its ``config.yaml``; another one lies in
``scores/PROTOCOL-HASH.json`` and its images in ``samples/PROTOCOL-HASH/``, so that nothing takes
the place of what a run was trained to show. Models that are scored alike share the label. A run
that is trained again with other words of scoring has these as its own, and keeps both.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t2ibench.core.errors import ConfigError, ContentError, RunError
from t2ibench.core.files import link_or_copy
from t2ibench.core.hashing import hash_json
from t2ibench.data.records import DataSource
from t2ibench.engine.assemble import read_spec
from t2ibench.engine.context import Context
from t2ibench.engine.identity import SCORES_VERSION, sampling_key, sampling_settings
from t2ibench.engine.spec import RunSpec
from t2ibench.evaluation.results import RunScores
from t2ibench.runs.folder import Run

log = logging.getLogger(__name__)

PLACES = ("root", "cache_dir")
"""Options of data that say where they lie; what they are, their content says."""


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
        own = data_options(first) == data_options(spec) and sampling_key(first) == sampling_key(
            spec
        )
        return Scoring(label_of(spec, source, settings_besides(spec, first)), own)

    @staticmethod
    def of_folder(folder: Path | None, spec: RunSpec, source: DataSource) -> Scoring:
        """The scoring of images that no run made; the first of a folder is its own."""
        label = label_of(spec, source, {})
        file = None if folder is None else folder / "scores.json"
        own = file is None or not file.exists() or RunScores.read(file).scoring in ("", label)
        return Scoring(label, own)


def data_options(spec: RunSpec) -> dict[str, Any]:
    """Options of a specification's data, without the places where they lie."""
    data = spec.data.model_dump(mode="json")
    besides = (*PLACES, "name")  # a folder's own, where none was typed
    source = {name: value for name, value in data["source"].items() if name not in besides}
    return {name: v for name, v in data.items() if name not in PLACES} | {"source": source}


def settings_besides(spec: RunSpec, first: RunSpec) -> dict[str, object]:
    """The model's sampling settings that are not those of the run's configuration."""
    trained_with = sampling_settings(first)
    return {k: v for k, v in sampling_settings(spec).items() if trained_with.get(k) != v}


def keep_scoring(run: Run, context: Context) -> None:
    """Files a run's own scoring as another one, if the run is now scored otherwise.

    Its images get a second name, as the new scoring may take some of them.

    Args:
        run: the run, held, with the configuration under which it was scored.
        context: context of the specification that becomes the run's.
    """
    spec = context.spec
    try:
        if not run.scores.exists() or not run.trained:
            return
        first, scores = read_spec(run), RunScores.read(run.scores)
    except (ConfigError, ContentError, RunError) as error:
        log.warning("%s The scores are computed anew.", error)
        return
    data, asked = data_options(spec), sampling_key(spec)
    if data_options(first) == data and sampling_key(first) == asked:
        return
    besides = settings_besides(first, spec)
    if besides:  # its label said nothing of what now tells the two apart
        source = context.source if data_options(first) == data else context.below(first).source
        scores = replace(scores, scoring=label_of(first, source, besides))
    filed, sets = Scoring(scores.scoring, own=False), run.path / "samples"
    for drawn in sorted(path.parent for path in sets.glob("*/set.json")):
        folder = sets / filed.samples(drawn.name)
        for file in (path for path in drawn.iterdir() if path.is_file()):
            folder.mkdir(parents=True, exist_ok=True)
            link_or_copy(file, folder / file.name)
    points = [
        replace(point, samples=f"samples/{filed.samples(Path(point.samples).name)}")
        for point in (scores.chosen, *scores.front)
    ]
    replace(scores, chosen=points[0], front=tuple(points[1:])).write(filed.scores(run.path))
    run.set_status("trained", clock=run.status()["clock"])
    run.scores.unlink()


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
