"""Intervals: how far a score would move with other prompts or other samples.

Two kinds of score need two kinds of interval. A *mean over images* (CLIP-score, grader
accuracy, precision) gets a percentile bootstrap that resamples whole prompts. A *distance
between sets* (Fréchet, kernel) is biased by its sample size, and resampling with
replacement makes duplicates that shrink the effective size, so its bootstrap percentiles
lie off the point estimate; it gets ``point +- t sd`` with the standard deviation of
half-samples drawn without replacement (the delete-half jackknife).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from t2ibench.core.errors import ScoreError

HALF_SAMPLES = {
    "fid": 8,
    "fd": 8,
    "vendi": 8,
    "inception_score": 8,
    "fid_inf": 6,
    "fd_inf": 6,
    "kid": 64,
    "cmmd": 64,
    "cmmd-style": 64,
}
"""Half-samples behind the interval of each set statistic: its degrees of freedom and one."""


class Estimate(NamedTuple):
    """A value with its 95% interval.

    Attributes:
        value: the point estimate.
        ci_low: lower end.
        ci_high: upper end.
        note: what a reader must know, else empty.
        halves: values of the half-samples that the interval of a distance comes from.
    """

    value: float
    ci_low: float
    ci_high: float
    note: str = ""
    halves: tuple[float, ...] = ()


def cluster_ids(n: int, clusters: Sequence[Hashable] | None) -> tuple[np.ndarray, int]:
    """The cluster number of each of n values, in the order of their keys, and the count.

    So a seeded resampling draws the same clusters in whatever order the values come.
    """
    if clusters is None:
        return np.arange(n), n
    if len(clusters) != n:
        raise ScoreError(
            f"{n} values came with {len(clusters)} cluster keys; give one prompt key a value."
        )
    numbers = {key: number for number, key in enumerate(sorted(set(clusters), key=repr))}
    ids = np.array([numbers[key] for key in clusters])
    return ids, len(numbers)


def _resampled_means(
    values: np.ndarray, clusters: Sequence[Hashable] | None, replicates: int, seed: int
) -> np.ndarray:
    """Means of ``replicates`` resamplings of whole clusters with replacement."""
    ids, k = cluster_ids(len(values), clusters)
    sums = np.bincount(ids, weights=values, minlength=k)
    sizes = np.bincount(ids, minlength=k).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(replicates)
    at_once = max(1, 4_000_000 // k)
    for start in range(0, replicates, at_once):
        drawn = rng.integers(0, k, size=(min(at_once, replicates - start), k))
        means[start : start + len(drawn)] = sums[drawn].sum(1) / sizes[drawn].sum(1)
    return means


def bootstrap_mean(
    values: Float[np.ndarray, " N"] | Bool[np.ndarray, " N"],
    clusters: Sequence[Hashable] | None = None,
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A mean and its 95% percentile-bootstrap interval, clustered by prompt.

    Args:
        values: (N,) one value an image.
        clusters: N prompt keys; images of one prompt are resampled together. None: every
            image is its own cluster.
        replicates: how many resamplings.
        seed: of the resampling; the same inputs give the same interval.

    Raises:
        ScoreError: no values, a value that is not finite, or keys that do not match.

    Example:
        >>> found = bootstrap_mean(np.array([0.0, 1.0] * 50))
        >>> found.value, found.ci_low < 0.5 < found.ci_high
        (0.5, True)
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        raise ScoreError("a mean of no values has no interval; score at least one image.")
    if not np.isfinite(values).all():
        raise ScoreError(f"{(~np.isfinite(values)).sum()} of {len(values)} values are not finite.")
    means = _resampled_means(values, clusters, replicates, seed)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def half_samples(
    n: int, replicates: int, seed: int = 0, clusters: Sequence[Hashable] | None = None
) -> Bool[np.ndarray, "R N"]:
    """Random halves of n images without replacement: rows of True for the images kept.

    Args:
        n: how many images.
        replicates: R, how many halves.
        seed: of the draw.
        clusters: n prompt keys; a prompt's images stay together. None: each image alone.

    Raises:
        ScoreError: fewer than four clusters.
    """
    ids, k = cluster_ids(n, clusters)
    if k < 4:
        raise ScoreError(f"half-samples need at least 4 prompts, got {k}; score more images.")
    rng = np.random.default_rng(seed)
    keep = np.zeros((replicates, k), dtype=bool)
    for row in keep:
        row[rng.permutation(k)[: k // 2]] = True
    return keep[:, ids]


def half_sample_values(
    statistic: Callable[[np.ndarray], float],
    n: int,
    *,
    replicates: int = 10,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> Float[np.ndarray, " R"]:
    """Values of a set statistic on halves without replacement; their spread is that at size n.

    With m = n/2 of n kept, Var(half) = (1 - m/n) s^2/m = s^2/n, so the spread of the halves is
    that of the statistic at the full n, without any rescaling and without duplicates.

    Args:
        statistic: maps the kept image indices (m,) to a value.
        n: how many images there are.
        replicates: how many halves.
        seed: of the draw.
        clusters: n prompt keys, or None.

    Source: Wu (1990), "On the asymptotic properties of the jackknife histogram": the
    delete-d jackknife with d = n/2.
    Differs: a random few halves rather than all of them.
    """
    keep = half_samples(n, replicates, seed, clusters)
    return np.array([statistic(np.flatnonzero(row)) for row in keep])


def halves_interval(value: float, halves: Float[np.ndarray, " R"], note: str = "") -> Estimate:
    """95% interval ``value +- t sd`` of a distance between sets, sd that of its R halves.

    The standard deviation is itself estimated, from few half-samples; Student's quantile with
    one degree of freedom less than half-samples pays for that (8 of them: 2.36 in place of
    1.96, with which a Fréchet distance's interval covers 90.5% in simulation, not 95.2%).

    Args:
        value: point estimate.
        halves: from ``half_sample_values``.
        note: what a reader must know.
    """
    from scipy.stats import t

    half = float(t.ppf(0.975, len(halves) - 1)) * float(np.std(halves, ddof=1))
    kept = tuple(float(one) for one in halves)
    return Estimate(value, value - half, value + half, note, kept)


def halves_p_value(
    a: float, b: float, a_halves: Sequence[float], b_halves: Sequence[float]
) -> float:
    """Two-sided p-value of equal distances of two sets that share prompts and seeds.

    The halves of both were drawn by the same seed from the same prompts, so the spread of their
    differences leaves out what the prompts do to both: ``t = (a - b) / sd(a_r - b_r)``, Student
    with R - 1 degrees of freedom.

    Args:
        a: distance of the first set to the reference.
        b: distance of the second to the same reference.
        a_halves: values of the first on R halves (``Estimate.halves``).
        b_halves: values of the second on the same halves.

    Raises:
        ScoreError: fewer than two halves, or another number of them.
    """
    if len(a_halves) != len(b_halves) or len(a_halves) < 2:
        raise ScoreError(
            f"a paired difference of distances needs the same halves of both sets, got "
            f"{len(a_halves)} and {len(b_halves)}."
        )
    from scipy.stats import t

    sd = float(np.std(np.subtract(a_halves, b_halves), ddof=1))
    if sd == 0:
        return 1.0 if a == b else 0.0
    return float(2 * t.sf(abs(a - b) / sd, len(a_halves) - 1))
