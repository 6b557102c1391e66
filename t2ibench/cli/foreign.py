"""Scores of anybody's images or features: the verb's part that needs no run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from t2ibench.cli.build import build_source
from t2ibench.cli.instruments import build_instruments, make_protocol
from t2ibench.core.errors import ScoreError
from t2ibench.data.prompts import read_prompts
from t2ibench.evaluation.evaluator import Evaluator
from t2ibench.evaluation.external import ExternalImages, fitted_rows, read_external
from t2ibench.evaluation.results import OperatingPoint, RunScores
from t2ibench.evaluation.samples import SampleSet, save_values


def foreign_images(path: Path, cfg: DictConfig, prompts: str) -> tuple[SampleSet, Any]:
    """Somebody's images at the data set's resolution, and the data set.

    Raises:
        ScoreError: the path holds features.
    """
    source = build_source(cfg)
    theirs = _read(path, source, cfg, prompts)
    if not isinstance(theirs, ExternalImages):
        raise ScoreError(f"{path} holds features of one network; --protocols needs the images.")
    return theirs.samples, source


def score_foreign(path: Path, cfg: DictConfig, options: Mapping[str, str]) -> RunScores:
    """Scores images or features against a data set's reference split, beside its floor.

    Args:
        path: see ``evaluation.external``.
        cfg: data, protocol and evaluator to score under.
        options: name, prompts, extractor and out as typed.

    Raises:
        T2IBenchError: the images are too few, or not what they should be.
    """
    source = build_source(cfg)
    protocol = make_protocol(cfg, "test")
    theirs = _read(path, source, cfg, options["prompts"])
    count = len(theirs.samples if isinstance(theirs, ExternalImages) else theirs.features)
    rows = fitted_rows(count, protocol)
    if rows is not None:
        sys.stderr.write(f"{path}: the protocol scores {len(rows)} of {count}, chosen by a hash\n")
    evaluator = build_instruments(cfg, source).evaluator(protocol)
    out = Path(options["out"]) if options["out"] else path
    out = out if out.is_dir() or not out.suffix else out.with_name(f"{out.name}.scored")
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(theirs, ExternalImages):
        samples = theirs.samples if rows is None else theirs.samples.select(rows)
        judged = evaluator.evaluate if theirs.prompted else evaluator.unprompted
        evaluation = judged(samples)
        samples.save(out / "samples" / "chosen")
        save_values(out / "samples" / "chosen", samples, evaluation.columns)
        point = OperatingPoint({}, evaluation.scores, samples="samples/chosen")
    else:
        features = theirs.features if rows is None else theirs.features[rows]
        made_by = options["extractor"] or theirs.extractor
        keys = [str(row) for row in range(len(features))]
        point = OperatingPoint({}, evaluator.of_features(made_by, features, keys).scores)
    scores = RunScores(
        model={
            "name": options["name"] or path.stem,
            "family": "external",
            "data": cfg.data.name,
            "seed": 0,
            "run": out.name,
        },
        protocol=protocol.to_dict(),
        chosen=point,
        reference=_floor(evaluator, source),
    )
    scores.write(out / "scores.json")
    return scores


def _read(path: Path, source: Any, cfg: DictConfig, prompts: str) -> Any:
    asked = read_prompts(prompts) if prompts else ()
    return read_external(path, source.resolution, Path(cfg.paths.cache), asked)


def _floor(evaluator: Evaluator, source: Any) -> dict[str, Any]:
    """Real against real at the same N, where the training split has so many images."""
    train = source.split("train")
    return {"floor": evaluator.floor(train)} if len(train) >= evaluator.protocol.num_images else {}
