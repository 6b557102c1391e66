"""Comparison of several models: permutation tests, rank probabilities, fronts.

Arrays are (N,) values an image or (S,) values a training seed; all pure NumPy and seeded.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float

from t2ibench.core.errors import ScoreError
from t2ibench.metrics.prompt_resampling import PERMUTATIONS, PromptSums, sign_flip_p_values


def sign_flip_p_value(
    a: Float[np.ndarray, " N"],
    b: Float[np.ndarray, " M"],
    clusters: Sequence[Hashable] | None = None,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> float:
    """Two-sided paired permutation test of equal means (``sign_flip_p_values``) of one pair.

    Args:
        a: (N,) values of the first model.
        b: (N,) values of the second, row for row on the same prompt and seed.
        clusters: N prompt keys; None: each row is its own prompt.
        permutations: sign patterns drawn.
        seed: of the draw.

    Returns:
        The p-value; by random patterns at least 1 / (permutations + 1), by the bound less.

    Raises:
        ScoreError: different lengths, no values, or values that are not finite.

    Source: Phipson & Smyth (2010), "Permutation p-values should never be zero", section 3.
    Differs: none.

    Example:
        >>> better, worse = np.array([3.0, 4.0, 5.0, 6.0]), np.array([2.0, 2.0, 2.0, 2.0])
        >>> sign_flip_p_value(better, worse)
        0.125
    """
    table, pair = PromptSums.of([a, b], clusters), np.array([[0, 1]])
    return float(sign_flip_p_values(table, pair, permutations=permutations, seed=seed)[0])


def rank_probabilities(draws: Float[np.ndarray, "R K"]) -> Float[np.ndarray, "K K"]:
    """Share of R joint resamplings in which each of K models takes each rank; lower is better.

    Args:
        draws: row r holds all models' resampled scores in world r; negate where higher is
            better.

    Returns:
        (model, rank) probabilities; rows and columns sum to 1. Equal scores share their ranks.
    """
    worlds, models = draws.shape
    below = (draws[:, None, :] < draws[:, :, None]).sum(2)
    equal = (draws[:, None, :] == draws[:, :, None]).sum(2)
    found = np.zeros((models, models))
    for rank in range(models):
        shares = (below <= rank) & (rank < below + equal)
        found[:, rank] = (shares / equal).sum(0) / worlds
    return found


def resampled_group_means(
    groups: Sequence[Float[np.ndarray, " _"]], replicates: int = 4000, seed: int = 0
) -> Float[np.ndarray, "R K"]:
    """Means over training seeds as another set of trainings would give them, a column a group.

    With few seeds a bootstrap of them is far too narrow (two seeds: sd / sqrt 2 of the true
    one), so means are drawn from their Student posterior, mean + t(S - 1) sd / sqrt S.

    Args:
        groups: K arrays of one score each training seed.
        replicates: R.
        seed: of the draws.

    Raises:
        ScoreError: a group has one seed, so that nothing is known of its spread.
    """
    if min(len(group) for group in groups) < 2:
        raise ScoreError("rank probabilities over trainings need at least 2 seeds a model.")
    rng = np.random.default_rng(seed)
    columns = []
    for group in groups:
        error = np.std(group, ddof=1) / len(group) ** 0.5
        columns.append(np.mean(group) + error * rng.standard_t(len(group) - 1, size=replicates))
    return np.stack(columns, axis=1)


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Area between a front and a reference point; both coordinates are to be low.

    Points that are not better than the reference in both coordinates add nothing.

    Args:
        points: (x, y) of each operating point; negate what should be high.
        reference: the worst acceptable (x, y), the same for all that are compared.

    Source: Zitzler & Thiele (1998), "Multiobjective optimization using evolutionary
    algorithms", for two objectives by one sweep.
    Differs: none.

    Example:
        >>> hypervolume([(1, 3), (2, 1)], reference=(4, 4))
        7.0
    """
    inside = sorted(p for p in points if p[0] < reference[0] and p[1] < reference[1])
    area, lowest = 0.0, reference[1]
    for x, y in inside:
        if y < lowest:
            area += (reference[0] - x) * (lowest - y)
            lowest = y
    return area


def at_equal(
    first: Sequence[tuple[float, float]], second: Sequence[tuple[float, float]]
) -> tuple[float, float, float]:
    """Mean gap of two fronts in the lowest y that each reaches with at least a given x.

    The given x runs from the larger of the two smallest to the smaller of the two largest, or
    is the latter alone where the fronts do not overlap: the better aligned model then competes
    at the other's best alignment.

    Args:
        first: (x, y) points, for example (CLIP-score, Fréchet distance).
        second: likewise.

    Returns:
        Mean of first - second, lowest and highest x.
    """
    high = min(max(x for x, _ in first), max(x for x, _ in second))
    low = min(high, max(min(x for x, _ in first), min(x for x, _ in second)))

    def lowest(points: Sequence[tuple[float, float]], least: float) -> float:
        return min(y for x, y in points if x >= least)

    inside = {x for x, _ in [*first, *second] if low < x < high}
    knots = [low, *sorted(inside), high]
    gaps = [lowest(first, knot) - lowest(second, knot) for knot in knots]
    if low == high:
        return gaps[-1], low, high
    steps = zip(knots, knots[1:], gaps[1:], strict=False)
    return sum((end - start) * gap for start, end, gap in steps) / (high - low), low, high
