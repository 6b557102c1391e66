"""Agreement of images with their captions, by a dual encoder's features."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import stdtrit
from torch import Tensor

from t2ibench.core.errors import ScoreError
from t2ibench.core.hashing import derive_seed
from t2ibench.metrics.bootstrap import Estimate

CLIP_SCORE_SCALE = 100.0
"""Scale of the CLIP-score; Hessel et al. print 2.5 max(cos, 0), later work 100 max(cos, 0)."""

DISTRACTORS = 99
"""Captions beside the true one in R-precision: AttnGAN (Xu et al. 2018), section 4."""

CHUNK = 1024
"""Images ranked at a time: 30,000 images among 100 captions each need not be in memory at once."""


def clip_score(
    image_features: Float[Tensor, "N D"], text_features: Float[Tensor, "N D"]
) -> Float[Tensor, " N"]:
    """CLIP-score of each image, ``100 max(cos(image, caption), 0)``; the score is the mean.

    Args:
        image_features: (N, D), any norm.
        text_features: (N, D), row i is the caption of image i.

    Returns:
        (N,) values in [0, 100].

    Raises:
        ScoreError: features that are not finite.

    Source: Hessel et al. (2021), "CLIPScore", equation 1.
    Differs: scale 100 in place of w = 2.5, as later work prints it; no prefix before captions.

    Example:
        >>> image = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        >>> text = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
        >>> clip_score(image, text).tolist()
        [100.0, 0.0, 0.0]
    """
    cosine = torch.nn.functional.cosine_similarity(image_features.float(), text_features.float())
    if not torch.isfinite(cosine).all():
        raise ScoreError("CLIP-score met features with NaN or infinity; look at the images.")
    return CLIP_SCORE_SCALE * cosine.clamp(min=0)


def draw_distractors(
    keys: Sequence[Hashable], count: int = DISTRACTORS, seed: int = 0
) -> Int[Tensor, "N K"]:
    """Rows of ``count`` captions of another meaning, for each caption.

    Captions with equal keys (paraphrases, repeats) never distract one another, and each
    distinct meaning appears at most once among one caption's distractors. The draw belongs
    to the caption's own key and the seed, not to its position or its neighbours'.

    Args:
        keys: the meaning of each caption: its canonical parse, or the caption itself.
        count: K, distractors a caption.
        seed: of the draw.

    Raises:
        ScoreError: fewer than ``count`` + 1 distinct meanings.
    """
    rows: dict[Hashable, int] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, row)
    distinct = sorted(rows, key=repr)
    if len(distinct) <= count:
        raise ScoreError(
            f"R-precision with {count} distractors needs {count + 1} captions of different "
            f"meaning, got {len(distinct)}; score more prompts."
        )
    drawn = np.empty((len(keys), count), dtype=np.int64)
    for row, key in enumerate(keys):
        rng = np.random.default_rng(derive_seed("distractors", seed, repr(key)))
        picks = rng.choice(len(distinct), size=count + 1, replace=False)
        others = [rows[distinct[pick]] for pick in picks if distinct[pick] != key]
        drawn[row] = others[:count]
    return torch.from_numpy(drawn)


def r_precision(
    image_features: Float[Tensor, "N D"],
    text_features: Float[Tensor, "N D"],
    distractor_features: Float[Tensor, "N K D"],
) -> Float[Tensor, " N"]:
    """R-precision of each image: 1 where it is nearer its caption than all K distractors, else 0.

    A tie for the first place of t captions earns 1/t, so that a blind encoder scores chance.

    Args:
        image_features: (N, D).
        text_features: (N, D), the true captions.
        distractor_features: (N, K, D): ``text_features[draw_distractors(keys)]``, or the
            features of given hard captions (one attribute or relation changed).

    Returns:
        (N,) values in [0, 1]; the score is the mean.

    Raises:
        ScoreError: features that are not finite.

    Source: Xu et al. (2018), "AttnGAN", section 4 (R-precision with R = 1).
    Differs: distractors are seeded, exclude captions of the same meaning, and ties share.

    Example:
        >>> image, caption = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.1]])
        >>> r_precision(image, caption, torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]])).tolist()
        [1.0]
        >>> r_precision(image, caption, torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])).tolist()
        [0.0]
    """
    image = torch.nn.functional.normalize(image_features.float(), dim=-1)
    truth = torch.nn.functional.normalize(text_features.float(), dim=-1)
    others = torch.nn.functional.normalize(distractor_features.float(), dim=-1)
    own = (image[:, None] * truth[:, None]).sum(-1)
    other = (image[:, None] * others).sum(-1)
    if not (torch.isfinite(own).all() and torch.isfinite(other).all()):
        raise ScoreError("R-precision met features with NaN or infinity; look at the images.")
    ties = (other == own).sum(1)
    return (other <= own).all(1).float() / (1 + ties)


def retrieval(
    image_features: Float[Tensor, "N D"],
    text_features: Float[Tensor, "N D"],
    distractors: Int[Tensor, "N K"],
) -> Float[Tensor, " N"]:
    """R-precision with distractors named by their rows, a chunk of images at a time.

    Args:
        image_features: (N, D).
        text_features: (N, D), row i is the caption of image i.
        distractors: (N, K) rows of ``text_features``, from ``draw_distractors``.

    Returns:
        (N,) values in [0, 1].

    Raises:
        ScoreError: features that are not finite.
    """
    parts = [
        r_precision(
            image_features[start : start + CHUNK],
            text_features[start : start + CHUNK],
            text_features[distractors[start : start + CHUNK]],
        )
        for start in range(0, len(image_features), CHUNK)
    ]
    return torch.cat(parts)


def fold_estimate(hits: Float[np.ndarray, " N"], folds: int = 10) -> Estimate:
    """R-precision over consecutive folds of equal size, with their standard deviation.

    ``mean_f m_f`` over the folds' means m_f; the note gives their standard deviation, which
    papers print after the mean, and the interval is that of a mean of ``folds`` values
    (Student's t).

    Args:
        hits: (N,) values of ``r_precision``, in the order of the protocol's prompts.
        folds: at least 2; the last N modulo ``folds`` images are left out.

    Raises:
        ScoreError: fewer than two folds, or fewer images than folds.

    Source: Xu et al. (2018), "AttnGAN", section 4: 30,000 images in 10 folds.
    Differs: the paper does not say how it estimates the deviation; ours divides by folds - 1.
    """
    size = len(hits) // folds if folds > 1 else 0
    if size < 1:
        raise ScoreError(
            f"R-precision over {folds} folds needs at least 2 folds and an image in each, got "
            f"{len(hits)} images; set protocol.r_precision_folds=0."
        )
    means = np.asarray(hits, dtype=np.float64)[: size * folds].reshape(folds, size).mean(1)
    mean, sd = float(means.mean()), float(means.std(ddof=1))
    half = float(stdtrit(folds - 1, 0.975)) * sd / folds**0.5
    return Estimate(mean, mean - half, mean + half, f"sd of {folds} folds {sd:.4f}")
