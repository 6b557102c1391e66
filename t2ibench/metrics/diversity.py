"""Diversity without a reference: the Vendi score, and the Inception Score of old papers.

Shapes: N images, D feature width, K classes. float64 throughout.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from t2ibench.core.errors import ScoreError
from t2ibench.core.hashing import derive_seed
from t2ibench.metrics.bootstrap import (
    HALF_SAMPLES,
    Estimate,
    bootstrap_mean,
    half_sample_values,
    halves_interval,
)
from t2ibench.metrics.features import checked

INCEPTION_SPLITS = 10
"""Parts of the images whose scores are averaged, as in Salimans et al. (2016)."""


def _unit(features: Tensor) -> Tensor:
    if len(features) == 0:
        raise ScoreError("a diversity of no images is not defined; score at least one.")
    features = checked(features)
    norms = features.norm(dim=1, keepdim=True)
    if (norms == 0).any():
        raise ScoreError(f"{int((norms == 0).sum())} features are all zero: no cosine is defined.")
    return features / norms


def vendi_score(features: Float[Tensor, "N D"]) -> float:
    """Effective number of distinct images: ``exp(-sum_i l_i log l_i)``, l_i the eigenvalues of K/N.

    K is the cosine kernel. Its non-zero eigenvalues are those of X'X/N with unit rows, so the
    cost is that of the smaller of N and D.

    Args:
        features: (N, D), any norm but zero.

    Returns:
        1 for copies of one image, N for N mutually orthogonal ones.

    Raises:
        ScoreError: no images, features that are zero or not finite.

    Source: Friedman & Dieng (2023), "The Vendi Score", definition 3.1 with q = 1.
    Differs: none; the kernel is the paper's cosine one.

    Example:
        >>> round(vendi_score(torch.eye(4).repeat(3, 1)), 6)
        4.0
    """
    x = _unit(features)
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    shares = torch.linalg.eigvalsh(gram / len(x)).clamp(min=0)
    return float(torch.special.entr(shares).sum().exp())


def vendi_estimate(
    features: Float[Tensor, "N D"],
    *,
    replicates: int = HALF_SAMPLES["vendi"],
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """Vendi score with its 95% interval over generated samples."""
    halves = half_sample_values(
        lambda kept: vendi_score(features[torch.from_numpy(kept)]),
        len(features),
        replicates=replicates,
        seed=seed,
        clusters=clusters,
    )
    return halves_interval(vendi_score(features), halves)


def vendi_by_prompt(features: Float[Tensor, "N D"], keys: Sequence[Hashable]) -> Estimate:
    """Mean Vendi score over prompts of the images drawn for each: diversity at equal text.

    Args:
        features: (N, D).
        keys: N prompt keys.

    Raises:
        ScoreError: no prompt has two images.
    """
    rows: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    groups = [members for members in rows.values() if len(members) > 1]
    if not groups:
        raise ScoreError(
            "a diversity by prompt needs several images of a prompt: raise protocol.num_images "
            "above the number of prompts."
        )
    return bootstrap_mean(np.array([vendi_score(features[members]) for members in groups]))


def inception_score(
    logits: Float[Tensor, "N K"], splits: int = INCEPTION_SPLITS
) -> tuple[float, float]:
    """Inception Score ``exp(mean KL(p(y|x) || p(y)))``, for comparison with old papers only.

    It looks at no real image and means nothing away from ImageNet's classes.

    Args:
        logits: (N, K) of Inception-v3's classifier.
        splits: equal parts of consecutive rows; the marginal p(y) is that of the part.

    Returns:
        Mean and standard deviation (of the population, as published) over the parts.

    Raises:
        ScoreError: fewer images than parts, or logits that are not finite.

    Source: Salimans et al. (2016), "Improved techniques for training GANs", section 4.
    Differs: none; torch-fidelity's convention for the parts.

    Example:
        >>> mean, sd = inception_score(1e3 * torch.eye(5).repeat(20, 1))
        >>> round(mean, 6), round(sd, 6)
        (5.0, 0.0)
    """
    if len(logits) < splits:
        raise ScoreError(f"an Inception Score of {splits} parts needs {splits} images or more.")
    if not torch.isfinite(logits).all():
        raise ScoreError("logits hold NaN or infinity; look at the images and the network.")
    log_p = logits.detach().to("cpu", torch.float64).log_softmax(1)
    found = []
    for part in range(splits):
        rows = log_p[part * len(log_p) // splits : (part + 1) * len(log_p) // splits]
        marginal = rows.logsumexp(0) - np.log(len(rows))
        found.append(float((rows.exp() * (rows - marginal)).sum(1).mean().exp()))
    return float(np.mean(found)), float(np.std(found))


def inception_estimate(
    logits: Float[Tensor, "N K"],
    *,
    splits: int = INCEPTION_SPLITS,
    replicates: int = HALF_SAMPLES["inception_score"],
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """Inception Score with its 95% interval over generated samples.

    The parts are drawn by a hash of the prompt keys, so that the score does not depend on the
    order of the images, nor on prompts that are sorted by class. The note gives the standard
    deviation over the parts, which papers print after the mean.

    Args:
        logits: (N, K) of Inception-v3's classifier.
        splits: parts.
        replicates: half-samples of the images for the interval.
        seed: of the half-samples.
        clusters: N prompt keys, or None.
    """
    order = _by_hash(clusters if clusters is not None else range(len(logits)))
    logits = logits[torch.from_numpy(order)]
    keys = None if clusters is None else [clusters[row] for row in order]
    mean, between_parts = inception_score(logits, splits)
    halves = half_sample_values(
        lambda kept: inception_score(logits[torch.from_numpy(kept)], splits)[0],
        len(logits),
        replicates=replicates,
        seed=seed,
        clusters=keys,
    )
    return halves_interval(mean, halves, f"sd of {splits} splits {between_parts:.4f}")


def _by_hash(keys: Sequence[Hashable]) -> Int[np.ndarray, " N"]:
    """Rows in the order of a hash of their keys and of how often a key came before."""
    seen: dict[Hashable, int] = {}
    named = []
    for row, key in enumerate(keys):
        seen[key] = seen.get(key, -1) + 1
        named.append((derive_seed("inception parts", repr(key), seen[key]), row))
    return np.array([row for _, row in sorted(named)])
