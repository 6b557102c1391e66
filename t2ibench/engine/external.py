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
from t2ibench.data.pictures import PictureSizes
from t2ibench.data.prompts import Prompt
from t2ibench.data.resize import ResizeRecipe
from t2ibench.engine.context import Context
from t2ibench.engine.edits import rgb_picture
from t2ibench.engine.judges import floor_of, make_judges, prepared_for, test_protocol
from t2ibench.engine.scorings import Scoring
from t2ibench.evaluation.evaluator import Evaluator
from t2ibench.evaluation.external import (
    ExternalFeatures,
    ExternalImages,
    fitted_rows,
    read_external,
)
from t2ibench.evaluation.measures import Evaluation
from t2ibench.evaluation.results import OperatingPoint, RunScores
from t2ibench.evaluation.samples import SampleSet, save_values


@dataclass(frozen=True)
class ExternalOptions:
    """User's options for images that no run made.

    Attributes:
        name: name in leaderboards; empty: that of the folder or file.
        prompts: prompts of images without captions.
        extractor: key of the network that computed the features, where the file has none.
        out: folder for scores and samples; None: the images' folder, or one beside the file.
        seed: training seed of the model that made them, by which sets of one name become one
            row; None: the set is a row of its own.
    """

    name: str = ""
    prompts: tuple[Prompt, ...] = ()
    extractor: str = ""
    out: Path | None = None
    seed: int | None = None


def read_images(path: Path, context: Context, options: ExternalOptions) -> SampleSet:
    """Images from a folder or file, at the data set's resolution.

    Raises:
        ScoreError: the path holds features.
    """
    theirs = _read(path, context, options)
    if not isinstance(theirs, ExternalImages):
        raise ScoreError(f"{path} holds features of one network; --protocols needs the images.")
    return theirs.samples


def in_memory(images: Any, captions: Sequence[str] | None, recipe: ResizeRecipe) -> ExternalImages:
    """Images in memory, brought to the size at which they are compared.

    Args:
        images: PIL images, ``Pictures``, or uint8 of (N, H, W, 3) or (N, 3, H, W).
        captions: one for each image; None: they are unknown.
        recipe: of the resize.

    Raises:
        ScoreError: no images, or another number of captions.
        DataError: an element is no picture.
    """
    pictures = [rgb_picture(image) for image in images]
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
    sizes = PictureSizes.of([picture.size for picture in pictures])
    return ExternalImages(samples, captions is not None, sizes)


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
    return scores_of(theirs, context, options, str(path), out_folder(path, options))


def out_folder(path: Path, options: ExternalOptions) -> Path:
    """Folder of the scores: the one asked for, the images' own, or one beside a file."""
    if options.out is not None:
        return options.out
    return path if path.is_dir() else path.with_name(f"{path.name}.scored")


def comparison_recipe(context: Context) -> ResizeRecipe:
    """Recipe by which images are brought to the size at which the protocol compares them."""
    protocol = test_protocol(context.spec.protocol)
    source = prepared_for(context.spec.data.source, context.source, protocol)
    filter = getattr(getattr(source, "recipe", None), "filter", protocol.filter)
    return ResizeRecipe(source.resolution, filter)


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
    judges = make_judges(spec, source, context.device)
    evaluator = judges.evaluator(protocol)
    scoring = Scoring.of_folder(out, spec, source)
    name = scoring.samples("chosen")
    if isinstance(theirs, ExternalImages):
        samples = theirs.samples if rows is None else theirs.samples.select(rows)
        found = (evaluator.evaluate if theirs.prompted else evaluator.unprompted)(samples)
        if out is not None:
            samples.save(out / "samples" / name)
            save_values(out / "samples" / name, samples, found.columns)
    else:
        found = _of_features(theirs, evaluator, rows, options.extractor)
    kept = out is not None and isinstance(theirs, ExternalImages)
    reference, without = floor_of(evaluator, judges.compared(protocol))
    scores = RunScores(
        model={
            "name": options.name or name_of(Path(where)),
            "family": "external",
            "data": source.name,
            "seed": options.seed,
            "run": out.name if out is not None else where,
        },
        protocol=evaluator.protocol.to_dict(),
        chosen=OperatingPoint({}, found.scores, samples=f"samples/{name}" if kept else ""),
        reference=reference,
        absent=found.absent | without,
        scoring=scoring.label,
    )
    if out is not None:
        scores.write(scoring.scores(out))
    return scores


def name_of(path: Path) -> str:
    """Name of a folder, whole, or of a file without its suffix.

    Example:
        >>> name_of(Path("runs/sd-v1.5")), name_of(Path("theirs.npz"))
        ('sd-v1.5', 'theirs')
    """
    return path.stem if path.suffix in (".npz", ".safetensors") else path.resolve().name


def _of_features(
    theirs: ExternalFeatures, evaluator: Evaluator, rows: list[int] | None, extractor: str
) -> Evaluation:
    features: torch.Tensor = theirs.features if rows is None else theirs.features[rows]
    keys = [str(row) for row in range(len(features))]
    made_by = extractor or theirs.extractor
    return evaluator.of_features(made_by, features, keys)


def _read(
    path: Path, context: Context, options: ExternalOptions
) -> ExternalImages | ExternalFeatures:
    cache, recipe = context.spec.paths.cache_folder, comparison_recipe(context)
    theirs = read_external(path, recipe, cache, options.prompts)
    if isinstance(theirs, ExternalImages):
        told, sizes = list(theirs.left_out), theirs.sizes
        if (sizes.smallest, sizes.largest) != (recipe.resolution,) * 2:
            told.insert(0, f"{sizes}, compared at {recipe.resolution} px ({recipe.name})")
        sys.stderr.writelines(f"{path}: {sentence}\n" for sentence in told)
    return theirs
