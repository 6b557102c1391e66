"""Kernel distances between feature sets: the squared maximum mean discrepancy, in blocks.

``MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)``, estimated without bias by leaving out the
pairs of an image with itself. The whole U-statistic is computed, so the value is a function
of the two sets alone: no random subsets.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from t2ibench.core.errors import ScoreError
from t2ibench.metrics.bootstrap import HALF_SAMPLES, Estimate, half_samples, halves_interval
from t2ibench.metrics.features import checked

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Function from (N, D) and (M, D) to the (N, M) kernel matrix."""

BLOCK = 2048
"""Rows of a kernel matrix held at once: 2048 x 10,000 float64 is 164 MB."""

CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0
"""Bandwidth and printed scale of CMMD (Jayasumana et al. 2024, section 4)."""


def polynomial_kernel(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Float[Tensor, "N M"]:
    """Kernel of KID, ``(x.y / D + 1)^3``."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian_kernel(
    x: Float[Tensor, "N D"], y: Float[Tensor, "M D"], sigma: float = CMMD_SIGMA
) -> Float[Tensor, "N M"]:
    """Kernel of CMMD, ``exp(-|x - y|^2 / (2 sigma^2))``."""
    squared = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T
    return torch.exp(-squared.clamp(min=0) / (2 * sigma**2))


def _prepared(features: Tensor) -> Tensor:
    if len(features) < 2:
        raise ScoreError(f"a kernel distance needs at least 2 images a set, got {len(features)}.")
    return checked(features)


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.double(), dim=-1)


def _mmd(x: Tensor, y: Tensor, kernel: Kernel, weights: Tensor) -> Tensor:
    """Unbiased MMD^2 (R,) for R choices of rows of x; weights is (R, N) of zeros and ones."""
    weights = weights.to(x.device)
    kept = weights.sum(1)
    within_x, across = torch.zeros_like(kept), torch.zeros_like(kept)
    within_y = 0.0
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        gram = kernel(x[rows], x)
        gram.diagonal(start).zero_()
        within_x += ((weights[:, rows] @ gram) * weights).sum(1)
        across += weights[:, rows] @ kernel(x[rows], y).sum(1)
    for start in range(0, len(y), BLOCK):
        gram = kernel(y[start : start + BLOCK], y)
        gram.diagonal(start).zero_()
        within_y += float(gram.sum())
    m = len(y)
    return within_x / (kept * (kept - 1)) + within_y / (m * (m - 1)) - 2 * across / (kept * m)


def _distance(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    if x.shape[1] != y.shape[1]:
        raise ScoreError(f"features of width {x.shape[1]} and {y.shape[1]} cannot be compared.")
    x, y = _prepared(x), _prepared(y)
    return float(_mmd(x, y, kernel, torch.ones(1, len(x), dtype=torch.float64)))


def _estimate(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    scale: float,
    replicates: int,
    seed: int,
    clusters: Sequence[Hashable] | None,
) -> Estimate:
    if x.shape[1] != y.shape[1]:
        raise ScoreError(f"features of width {x.shape[1]} and {y.shape[1]} cannot be compared.")
    x, y = _prepared(x), _prepared(y)
    halves = torch.from_numpy(half_samples(len(x), replicates, seed, clusters)).double()
    weights = torch.cat([torch.ones(1, len(x), dtype=torch.float64), halves])
    values = _mmd(x, y, kernel, weights) * scale
    return halves_interval(float(values[0]), values[1:].cpu().numpy())


def kid(x: Float[Tensor, "N D"], y: Float[Tensor, "M other"]) -> float:
    """Kernel Inception distance: unbiased MMD^2 with ``k = (x.y / D + 1)^3``.

    Args:
        x: (N, D) features of generated images.
        y: (M, D) features of the reference.

    Returns:
        MMD^2, which is 0 in the mean for equal distributions and can be slightly negative.

    Raises:
        ScoreError: different widths, fewer than two images, features that are not finite.

    Source: Binkowski et al. (2018), "Demystifying MMD GANs", section 4 and equation 4.
    Differs: one U-statistic over all pairs instead of a mean over random subsets.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> kid(x + 3, x) > kid(x + 1, x)
        True
    """
    return _distance(x, y, polynomial_kernel)


def kid_estimate(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M other"],
    *,
    replicates: int = HALF_SAMPLES["kid"],
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """KID with its 95% interval over generated samples, reference fixed."""
    return _estimate(x, y, polynomial_kernel, 1.0, replicates, seed, clusters)


def cmmd(x: Float[Tensor, "N D"], y: Float[Tensor, "M other"]) -> float:
    """CLIP maximum mean discrepancy: 1000 MMD^2, Gaussian kernel, sigma = 10, unit features.

    May be called ``cmmd`` only with CLIP ViT-L/14-336 features; with others it is
    ``cmmd-style``. On unit vectors this bandwidth makes the kernel nearly
    affine, so the value is about ``10 |m1 - m2|^2``: blind to a change of covariance alone.

    Args:
        x: (N, D) features of generated images; normalised here.
        y: (M, D) features of the reference; normalised here.

    Raises:
        ScoreError: different widths, fewer than two images, features that are not finite.

    Source: Jayasumana et al. (2024), "Rethinking FID", section 4.
    Differs: the unbiased estimate of the paper's equation, where the released code keeps the
    diagonal.
    """
    return CMMD_SCALE * _distance(_unit(x), _unit(y), gaussian_kernel)


def cmmd_estimate(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M other"],
    *,
    replicates: int = HALF_SAMPLES["cmmd"],
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """CMMD with its 95% interval over generated samples, reference fixed."""
    x, y = _unit(x), _unit(y)
    return _estimate(x, y, gaussian_kernel, CMMD_SCALE, replicates, seed, clusters)
