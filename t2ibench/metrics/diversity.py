"""Diversity without a reference: the Vendi score, and the Inception Score of old papers.

Shapes: N images, D feature width, K classes. float64 throughout.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from t2ibench.core.errors import ScoreError
from t2ibench.metrics.bootstrap import Estimate, bootstrap_mean, half_sample_sd, sd_interval
from t2ibench.metrics.features import checked

INCEPTION_SPLITS = 10
"""Salimans et al. (2016): mean and standard deviation over ten parts of the images."""


def _unit(features: Tensor) -> Tensor:
    if len(features) == 0:
        raise ScoreError("a diversity of no images is not defined; score at least one.")
    features = checked(features)
    norms = features.norm(dim=1, keepdim=True)
    if (norms == 0).any():
        raise ScoreError(f"{int((norms == 0).sum())} features are all zero: no cosine is defined.")
    return features / norms


def vendi_score(features: Float[Tensor, "N D"]) -> float:
    """The effective number of distinct images: ``exp(-sum_i l_i log l_i)``, l_i of K/N.

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
    """
    x = _unit(features)
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x
    shares = torch.linalg.eigvalsh(gram / len(x)).clamp(min=0)
    return float(torch.special.entr(shares).sum().exp())


def vendi_estimate(
    features: Float[Tensor, "N D"],
    *,
    replicates: int = 8,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """``vendi_score`` with its 95% interval over generated samples."""
    sd = half_sample_sd(
        lambda kept: vendi_score(features[torch.from_numpy(kept)]),
        len(features),
        replicates=replicates,
        seed=seed,
        clusters=clusters,
    )
    return sd_interval(vendi_score(features), sd, replicates)


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
    """``exp(mean KL(p(y|x) || p(y)))``: for comparison with papers before 2018 only.

    It looks at no real image and means nothing away from ImageNet's classes.

    Args:
        logits: (N, K) of Inception-v3's classifier, in the images' own order.
        splits: equal consecutive parts; the marginal p(y) is that of the part.

    Returns:
        Mean and standard deviation (of the population, as published) over the parts.

    Raises:
        ScoreError: fewer images than parts, or logits that are not finite.

    Source: Salimans et al. (2016), "Improved techniques for training GANs", section 4.
    Differs: none; torch-fidelity's convention for the parts.
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
