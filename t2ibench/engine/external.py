"""Scores of images or features that no run made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2ibench.core.errors import ScoreError
from t2ibench.data.prompts import Prompt
from t2ibench.data.records import DataSource
from t2ibench.data.resize import ResizeRecipe
from t2ibench.engine.context import Context
from t2ibench.engine.edits import rgb_picture
from t2ibench.engine.judges import make_judges, test_protocol
from t2ibench.evaluation.evaluator import Evaluator
from t2ibench.evaluation.external import (
    ExternalFeatures,
    ExternalImages,
    fitted_rows,
    read_external,
)
from t2ibench.evaluation.results import OperatingPoint, RunScores, Scores
from t2ibench.evaluation.samples import SampleSet, save_values


@dataclass(frozen=True)
class ExternalOptions:
    """User's options for images that no run made.

    Attributes:
        name: name in leaderboards; empty: that of the folder or file.
        prompts: prompts of images without captions.
        extractor: key of the network that computed the features, where the file has none.
        out: folder for scores and samples; None: the images' folder, or one beside the file.
    """

    name: str = ""
    prompts: tuple[Prompt, ...] = ()
    extractor: str = ""
    out: Path | None = None


def read_images(path: Path, context: Context, options: ExternalOptions) -> SampleSet:
    """Images from a folder or file, at the data set's resolution.

    Raises:
        ScoreError: the path holds features.
    """
    theirs = _read(path, context, options)
    if not isinstance(theirs, ExternalImages):
        raise ScoreError(f"{path} holds features of one network; --protocols needs the images.")
    return theirs.samples


def in_memory(images: Any, captions: Sequence[str] | None, resolution: int) -> ExternalImages:
    """Images in memory, resized by the data set's recipe.

    Args:
        images: PIL images, ``Pictures``, or uint8 of (N, H, W, 3) or (N, 3, H, W).
        captions: one for each image; None: they are unknown.
        resolution: side of the resized images in pixels.

    Raises:
        ScoreError: no images, or another number of captions.
        DataError: an element is no picture.
    """
    recipe, pictures = ResizeRecipe(resolution), [rgb_picture(image) for image in images]
    if not pictures or (captions is not None and len(captions) != len(pictures)):
        count = "no" if captions is None else str(len(captions))
        raise ScoreError(
            f"there are {len(pictures)} images and {count} captions; give images, and one caption "
            "for each or none."
        )
    pixels = torch.from_numpy(np.stack([recipe(picture) for picture in pictures]))
    texts = [""] * len(pictures) if captions is None else list(captions)
    keys = [caption or str(row) for row, caption in enumerate(texts)]
    rows = tuple(range(len(pictures)))
    samples = SampleSet(pixels, tuple(texts), tuple(keys), rows, {"from": "memory"})
    return ExternalImages(samples, captions is not None)


def score_external(path: Path, context: Context, options: ExternalOptions) -> RunScores:
    """Scores images or features against a data set's reference split, beside its floor.

    Args:
        path: a folder or file that ``evaluation.external`` reads.
        context: context with the data, protocol and evaluator to score under.
        options: the user's options.

    Raises:
        T2IBenchError: the images are too few, or cannot be read.
    """
    theirs = _read(path, context, options)
    out = options.out or path
    if out.suffix and not out.is_dir():
        out = out.with_name(f"{out.name}.scored")
    return scores_of(theirs, context, options, str(path), out)


def scores_of(
    theirs: ExternalImages | ExternalFeatures,
    context: Context,
    options: ExternalOptions,
    where: str,
    out: Path | None,
) -> RunScores:
    """Scores of images or features in memory.

    Args:
        theirs: the images or features.
        context: context with the data, protocol and evaluator to score under.
        options: the user's options.
        where: their name in messages.
        out: folder for scores and samples; None: nothing is written.
    """
    spec, source = context.spec, context.source
    protocol = test_protocol(spec.protocol)
    count = len(theirs.samples if isinstance(theirs, ExternalImages) else theirs.features)
    rows = fitted_rows(count, protocol)
    if rows is not None:
        sys.stderr.write(f"{where}: the protocol scores {len(rows)} of {count}, chosen by a hash\n")
    evaluator = make_judges(spec, source, context.device).evaluator(protocol)
    if isinstance(theirs, ExternalImages):
        point = _of_images(theirs, evaluator, rows, out)
    else:
        point = _of_features(theirs, evaluator, rows, options.extractor)
    scores = RunScores(
        model={
            "name": options.name or Path(where).stem,
            "family": "external",
            "data": spec.data.name,
            "seed": 0,
            "run": out.name if out is not None else where,
        },
        protocol=evaluator.protocol.to_dict(),
        chosen=point,
        reference=_floor(evaluator, source),
    )
    if out is not None:
        scores.write(out / "scores.json")
    return scores


def _of_images(
    theirs: ExternalImages, evaluator: Evaluator, rows: list[int] | None, out: Path | None
) -> OperatingPoint:
    samples = theirs.samples if rows is None else theirs.samples.select(rows)
    evaluation = (evaluator.evaluate if theirs.prompted else evaluator.unprompted)(samples)
    if out is None:
        return OperatingPoint({}, evaluation.scores)
    samples.save(out / "samples" / "chosen")
    save_values(out / "samples" / "chosen", samples, evaluation.columns)
    return OperatingPoint({}, evaluation.scores, samples="samples/chosen")


def _of_features(
    theirs: ExternalFeatures, evaluator: Evaluator, rows: list[int] | None, extractor: str
) -> OperatingPoint:
    features: torch.Tensor = theirs.features if rows is None else theirs.features[rows]
    keys = [str(row) for row in range(len(features))]
    made_by = extractor or theirs.extractor
    return OperatingPoint({}, evaluator.of_features(made_by, features, keys).scores)


def _read(
    path: Path, context: Context, options: ExternalOptions
) -> ExternalImages | ExternalFeatures:
    cache = context.spec.paths.cache_folder
    return read_external(path, context.source.resolution, cache, options.prompts)


def _floor(evaluator: Evaluator, source: DataSource) -> dict[str, Scores]:
    """Scores of real against real images at the same N, where the training split has so many."""
    train = source.split("train")
    return {"floor": evaluator.floor(train)} if len(train) >= evaluator.protocol.num_images else {}
