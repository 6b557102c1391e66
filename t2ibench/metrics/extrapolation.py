"""FD-infinity: the Fréchet distance extrapolated to unlimited images, and the curve behind it.

A Fréchet distance of N images is biased upwards by about c/N, with a c that differs between
models. Its value at several N, drawn as a line against 1/N, meets the axis near the unbiased
distance. Shapes: N generated images, M of the reference, D feature width.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from t2ibench.core.errors import ScoreError
from t2ibench.metrics.bootstrap import (
    HALF_SAMPLES,
    Estimate,
    half_sample_values,
    halves_interval,
)
from t2ibench.metrics.features import checked
from t2ibench.metrics.frechet import Moments, frechet_distance, underdetermined

SIZES = 15
SMALLEST_SHARE = 0.1
DRAWS = 4


@dataclass(frozen=True)
class SizePoint:
    """The distance at one sample size.

    Attributes:
        n: generated images used.
        value: mean over the draws.
        sd: between draws; 0 where the draw is the whole set.
    """

    n: int
    value: float
    sd: float


def even_sizes(n: int, sizes: int = SIZES, smallest_share: float = SMALLEST_SHARE) -> list[int]:
    """Sample sizes from ``smallest_share * n`` to n, evenly spaced in 1/N, ascending.

    Raises:
        ScoreError: too few images for distinct sizes of at least two.

    Example:
        >>> even_sizes(1000, sizes=4)
        [100, 143, 250, 1000]
    """
    smallest = round(n * smallest_share)
    if smallest < 2:
        raise ScoreError(
            f"a size curve needs at least {round(2 / smallest_share)} images, got {n}."
        )
    inverse = np.linspace(1 / smallest, 1 / n, sizes)
    return sorted({int(round(1 / share)) for share in inverse})


def size_curve(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M other"],
    *,
    sizes: Sequence[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[SizePoint]:
    """The Fréchet distance of subsets of x, drawn without replacement, against all of y.

    Args:
        x: (N, D) features of generated images.
        y: (M, D) features of the reference.
        sizes: subset sizes; None: ``even_sizes``.
        draws: subsets a size.
        seed: of the draws.

    Raises:
        ScoreError: a size below 2 or above N.
    """
    sizes = even_sizes(len(x)) if sizes is None else sizes
    if min(sizes) < 2 or max(sizes) > len(x):
        raise ScoreError(f"sizes {min(sizes)} to {max(sizes)} must lie in [2, {len(x)}].")
    reference = y if underdetermined(x[: min(sizes)], y) else Moments.of(y)
    x = checked(x)
    rng = np.random.default_rng(seed)
    points = []
    for n in sizes:
        whole = n == len(x)
        picks = [rng.permutation(len(x))[:n] for _ in range(1 if whole else draws)]
        values = [frechet_distance(x[torch.from_numpy(pick)], reference) for pick in picks]
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        points.append(SizePoint(n, float(np.mean(values)), sd))
    return points


def intercept(points: Sequence[SizePoint]) -> float:
    """Value at 1/N = 0 of the least-squares line through the values against 1/N.

    Raises:
        ScoreError: fewer than two sizes.

    Example:
        >>> points = [SizePoint(n, value=7 + 300 / n, sd=0.0) for n in (100, 200, 400)]
        >>> round(intercept(points), 6)
        7.0
    """
    if len({point.n for point in points}) < 2:
        raise ScoreError("an extrapolation needs at least two sample sizes.")
    inverse = np.array([1 / point.n for point in points])
    values = np.array([point.value for point in points])
    slope, constant = np.polyfit(inverse, values, 1)
    return float(constant)


def fd_infinity(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M other"],
    *,
    sizes: int = SIZES,
    draws: int = DRAWS,
    seed: int = 0,
) -> float:
    """The Fréchet distance that x would have with unlimited images, by extrapolation.

    The reference stays as it is: its own finite M biases all models alike.

    Args:
        x: (N, D) features of generated images.
        y: (M, D) features of the reference.
        sizes: how many sample sizes, even in 1/N from N/10 to N.
        draws: subsets a size.
        seed: of the subsets.

    Returns:
        The intercept, which is unbiased to first order only and may be slightly negative.

    Raises:
        ScoreError: different widths, too few images, features that are not finite.

    Source: Chong & Forsyth (2020), "Effectively unbiased FID and Inception Score and where to
    find them", section 4.
    Differs: sizes even in 1/N rather than in N, subsets drawn at random rather than by a
    quasi-random generator of latents, which belongs to the model and not to the evaluator.
    """
    chosen = even_sizes(len(x), sizes)
    return intercept(size_curve(x, y, sizes=chosen, draws=draws, seed=seed))


def fd_infinity_estimate(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M other"],
    *,
    replicates: int = HALF_SAMPLES["fd_inf"],
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
    points: Sequence[SizePoint] | None = None,
) -> Estimate:
    """``fd_infinity`` with its 95% interval over generated samples, reference fixed.

    The half-samples extrapolate from five sizes and one draw each: their spread is that of the
    images, the draws' own is small beside it.

    Args:
        x: (N, D) features of generated images.
        y: (M, D) features of the reference.
        replicates: half-samples.
        seed: of the subsets.
        clusters: N prompt keys, or None.
        points: ``size_curve(x, y, seed=seed)`` where it is known already.
    """
    note = ""
    if underdetermined(x[: len(x) // 10], y):
        note = f"underdetermined at its smallest size (N={len(x) // 10}, width {x.shape[1]})"
    value = fd_infinity(x, y, seed=seed) if points is None else intercept(points)
    halves = half_sample_values(
        lambda kept: fd_infinity(x[torch.from_numpy(kept)], y, sizes=5, draws=1, seed=seed),
        len(x),
        replicates=replicates,
        seed=seed,
        clusters=clusters,
    )
    return halves_interval(value, halves, note)
