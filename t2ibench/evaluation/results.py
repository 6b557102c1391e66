"""``scores.json``: all scores of one run, and all that a report reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from t2ibench.core.errors import RunError, printable
from t2ibench.core.files import read_json, write_json
from t2ibench.core.types import Score
from t2ibench.evaluation.atomicity import AtomicityPoint

SCHEMA = 2

Scores = dict[str, Score]
"""Mapping from score key to score."""

MODEL_FIELDS = ("name", "family", "data", "seed", "run")


@dataclass(frozen=True)
class OperatingPoint:
    """One setting of the sampling knobs and the scores there.

    Attributes:
        knobs: complete knob values.
        scores: score key -> score.
        value: the fidelity-alignment knob's value.
        samples: the sample set's folder, relative to the run's; empty where it was not kept.
    """

    knobs: dict[str, float]
    scores: Scores
    value: float | None = None
    samples: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping, as ``scores.json`` keeps it."""
        return {
            "value": self.value,
            "knobs": self.knobs,
            "scores": scores_to_dict(self.scores),
            "samples": self.samples,
        }

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> OperatingPoint:
        """The inverse of ``to_dict``."""
        return OperatingPoint(
            dict(fields["knobs"]),
            scores_from_dict(fields["scores"]),
            fields.get("value"),
            fields.get("samples", ""),
        )


@dataclass(frozen=True)
class RunScores:
    """The scores of one run.

    Attributes:
        model: name, family, size, data, text, conditioning, seed, run; a folder of external
            images has family ``external``.
        protocol: the protocol's fields.
        budget: unit and amount, or empty.
        cost: train_images, train_flops, train_seconds, parts_flops,
            parts_seconds, frozen_flops (target -> FLOPs of encoding the training set, in no
            budget), parameters (part -> count) and the sampling cost
            (``CostReport.to_dict``).
        knob: name and default of the fidelity-alignment knob and ``chosen_by``, the metric that
            chose its value on the front's prompts (None: the user or the default did), with
            ``reason`` and ``edge`` of ``operating_point.Choice``; or empty.
        chosen: the operating point on the protocol's own prompts, which tables show.
        front: the sweep over the knob, on validation prompts.
        reference: ``floor`` (real against real at the same N), ``ceiling`` (the first
            stage's reconstructions) and ``ground_truth`` (real images on their captions).
        leakage: the leakage guard's findings.
        size_curves: key of a Fréchet distance -> its mean ``value`` and ``sd`` over subsets of
            ``n`` of the chosen point's images, from few to all.
        atomicity: fields of ``AtomicityPoint`` for the chosen point's images, from few objects to
            many; empty without a grader.
        absent: names of scores that could not be computed -> why, and what would bring them.
        scoring: protocol and hash of what was asked (``dev-1a2b3c4d``), equal for models that
            are scored alike.
    """

    model: dict[str, Any]
    protocol: dict[str, Any]
    chosen: OperatingPoint
    budget: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    knob: dict[str, Any] = field(default_factory=dict)
    front: tuple[OperatingPoint, ...] = ()
    reference: dict[str, Scores] = field(default_factory=dict)
    leakage: tuple[dict[str, Any], ...] = ()
    size_curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    atomicity: tuple[dict[str, Any], ...] = ()
    absent: dict[str, str] = field(default_factory=dict)
    scoring: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The content of ``scores.json``."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "protocol": self.protocol,
            "budget": self.budget,
            "cost": self.cost,
            "knob": self.knob,
            "chosen": self.chosen.to_dict(),
            "front": [point.to_dict() for point in self.front],
            "reference": {name: scores_to_dict(s) for name, s in self.reference.items()},
            "leakage": list(self.leakage),
            "size_curves": self.size_curves,
            "atomicity": list(self.atomicity),
            "absent": self.absent,
            "scoring": self.scoring,
        }

    def write(self, path: str | Path) -> None:
        """Writes ``scores.json`` atomically."""
        write_json(path, self.to_dict())

    @staticmethod
    def read(path: str | Path) -> RunScores:
        """Reads and checks ``scores.json``.

        Raises:
            RunError: absent, of another schema, or with a missing or malformed part.
            ContentError: it is not JSON.
        """
        path = Path(path)
        if not path.exists():
            raise RunError(
                f"{path} does not exist: the run is not scored yet; run `t2ibench score`."
            )
        fields = read_json(path, "score the run again")
        if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
            found = fields.get("schema") if isinstance(fields, dict) else type(fields).__name__
            raise RunError(
                f"{path} has schema {found}, this version reads {SCHEMA}; score the run again."
            )
        try:
            return _from_dict(_printable(fields))
        except (
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
            AttributeError,
            RecursionError,
        ) as error:
            raise RunError(
                f"{path} lacks or misplaces {error}; score the run again with this version."
            ) from error


def _printable(value: Any) -> Any:
    """The value with every text in it printable."""
    if isinstance(value, dict):
        return {_printable(name): _printable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_printable(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value


def _from_dict(fields: Mapping[str, Any]) -> RunScores:
    missing = [name for name in MODEL_FIELDS if name not in fields["model"]]
    if missing:
        raise KeyError(f"model.{missing[0]}")
    return RunScores(
        model=dict(fields["model"]),
        protocol=dict(fields["protocol"]),
        chosen=OperatingPoint.from_dict(fields["chosen"]),
        budget=dict(fields["budget"]),
        cost=dict(fields["cost"]),
        knob=dict(fields["knob"]),
        front=tuple(OperatingPoint.from_dict(point) for point in fields["front"]),
        reference={name: scores_from_dict(s) for name, s in fields["reference"].items()},
        leakage=tuple(dict(leak) for leak in fields["leakage"]),
        size_curves={
            key: [{name: float(p[name]) for name in ("n", "value", "sd")} for p in points]
            for key, points in fields.get("size_curves", {}).items()
        },
        atomicity=tuple(asdict(_objects_point(p)) for p in fields.get("atomicity", ())),
        absent={str(name): str(why) for name, why in fields.get("absent", {}).items()},
        scoring=str(fields.get("scoring", "")),
    )


def _objects_point(fields: Mapping[str, Any]) -> AtomicityPoint:
    value, low, high = (float(fields[name]) for name in ("value", "ci_low", "ci_high"))
    return AtomicityPoint(int(fields["objects"]), value, low, high, int(fields["n"]))


def scores_to_dict(scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """A JSON-ready mapping."""
    return {key: score.to_dict() for key, score in scores.items()}


def scores_from_dict(fields: Mapping[str, Mapping[str, Any]]) -> Scores:
    """The inverse of ``scores_to_dict``.

    Raises:
        KeyError: a score is filed under another key than its own.
    """
    scores = {key: Score.from_dict(dict(value)) for key, value in fields.items()}
    for key, score in scores.items():
        if key != score.key:
            raise KeyError(f"{score.key} (filed under {key})")
    return scores


def by_metric(scores: Mapping[str, Score]) -> dict[str, Score]:
    """Short names for logs: ``fd``, and ``fd:shapes-clip-v1`` where a metric has several keys.

    The first key of a metric gets the bare name, so the order of extractors decides.

    Example:
        >>> keys = ("fd[a@8|x]", "fd[b@8|x]", "kid[a@8|x]")
        >>> list(by_metric({key: Score(1.0, 9, 0.5, 1.5, key) for key in keys}))
        ['fd', 'fd:b', 'kid']
    """
    named: dict[str, Score] = {}
    for key, score in scores.items():
        name = score.metric
        if name in named:
            inner = key[len(name) :].strip("[]")
            name = f"{name}:{inner.split('@', 1)[0].split('|', 1)[0]}"
        named[name] = score
    return named


def metrics_of(many: Iterable[Mapping[str, Score]]) -> list[str]:
    """Every key of several score mappings, in order of first appearance."""
    return list(dict.fromkeys(key for scores in many for key in scores))
