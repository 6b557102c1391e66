"""Tests and resamplings of many models on the same prompts, each set of prompts drawn once for all.

A mean over images is linear in them: with (K, C) sums of C columns over K prompts, one matrix
product answers a block of resamplings for every column, and a pair's difference is that of its
two columns. So a comparison of many models draws what a comparison of two does, and gives each
pair the same numbers as if it stood alone.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from t2ibench.core.errors import ScoreError
from t2ibench.metrics.bootstrap import cluster_ids

PERMUTATIONS = 4999

SIGNS_AT_ONCE = 8_000_000
"""Signs drawn in a block; another number draws others."""

NUMBERS_AT_ONCE = 4_000_000
"""Numbers of the left factor of a matrix product: 32 MB, reused so that nothing is paged anew."""

PAIRS_AT_ONCE = 1024
"""Pairs looked at together; with the blocks it bounds the memory."""

HARDLY_EVER = 0.05
"""Bound on the expected number of sign patterns as extreme below which none is drawn."""

GAUSSIAN_FACTOR = 1 / (2 * math.erfc(1))
"""Sums of random signs exceed x standard deviations at most so many times as often as a normal.

1 / (4 P(normal >= sqrt 2)) = 3.1787: no less, as two equal weights reach sqrt 2 in one of their
four sign patterns, and by the theorem no more for any weights.
"""


@dataclass(frozen=True)
class PromptSums:
    """Values of C columns (models, metrics) on the same N images, summed over each of K prompts.

    Attributes:
        sums: (K, C) of each prompt's images.
        sizes: (K,) images a prompt.
    """

    sums: Float[np.ndarray, "K C"]
    sizes: Float[np.ndarray, " K"]

    @staticmethod
    def of(
        columns: Sequence[Float[np.ndarray, " N"]], clusters: Sequence[Hashable] | None = None
    ) -> PromptSums:
        """Sums columns of N values by N prompt keys; None: each row is its own prompt.

        Raises:
            ScoreError: no values, columns of different lengths, or values that are not finite.
        """
        lengths = sorted({len(column) for column in columns})
        if len(lengths) != 1 or not lengths[0]:
            raise ScoreError(
                "a comparison over the same prompts needs columns of one length above 0, got "
                f"{', '.join(map(str, lengths)) or 'none'}."
            )
        values = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
        refused = int((~np.isfinite(values)).any(axis=1).sum())
        if refused:
            raise ScoreError(f"{refused} of {len(values)} values are not finite.")
        ids, k = cluster_ids(len(values), clusters)
        sums = np.stack([np.bincount(ids, weights=v, minlength=k) for v in values.T], axis=1)
        return PromptSums(sums, np.bincount(ids, minlength=k).astype(np.float64))

    @property
    def means(self) -> Float[np.ndarray, " C"]:
        """Mean of each column over its images."""
        return self.sums.sum(axis=0) / self.sizes.sum()

    def select(self, columns: Int[np.ndarray, " _"]) -> PromptSums:
        """Some of the columns."""
        return PromptSums(self.sums[:, columns], self.sizes)


def resampled_means(
    table: PromptSums, replicates: int = 2000, seed: int = 0
) -> Float[np.ndarray, "R C"]:
    """Means of every column over whole prompts drawn with replacement, the same for all.

    Args:
        table: the columns.
        replicates: R.
        seed: of the draw.
    """
    k = len(table.sizes)
    rng = np.random.default_rng(seed)
    means = np.empty((replicates, table.sums.shape[1]))
    counts = np.empty((min(replicates, max(1, NUMBERS_AT_ONCE // k)), k))
    for start in range(0, replicates, len(counts)):
        block = counts[: replicates - start]
        for row, drawn in zip(block, rng.integers(0, k, size=block.shape), strict=True):
            row[:] = np.bincount(drawn, minlength=k)
        means[start : start + len(block)] = (block @ table.sums) / (block @ table.sizes)[:, None]
    return means


def sign_flip_p_values(
    table: PromptSums,
    pairs: Int[np.ndarray, "T 2"],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Float[np.ndarray, " T"]:
    """Two-sided paired permutation tests of equal means: whole prompts swap their models.

    Under the null the two models are exchangeable on each prompt, so the sum of a - b over each
    prompt keeps or changes its sign with equal chance. Exact where all 2^K sign patterns are no
    more than ``permutations``, else by random patterns, the same for all pairs, and valid at any
    number of them. Where the Gaussian bound P(|sum| >= s) <= 6.357 P(normal >= s / sqrt(sum of
    squares)) says that hardly any such pattern would turn up, the bound is the p-value.

    Args:
        table: the columns.
        pairs: (T, 2) columns of each test.
        permutations: sign patterns drawn.
        seed: of the draw.

    Returns:
        (T,) p-values; by random patterns at least 1 / (permutations + 1), by the bound less.

    Source: Phipson & Smyth (2010), "Permutation p-values should never be zero", section 3;
    Bentkus & Dzindzalieta (2015), "A tight Gaussian bound for weighted sums of Rademacher random
    variables", theorem 1.1.
    Differs: none.
    """
    k = len(table.sizes)
    # Centring changes no difference and keeps rounding small beside it.
    sums = table.sums - table.sums.mean(axis=1, keepdims=True)
    observed = np.abs(sums.sum(axis=0)[pairs[:, 0]] - sums.sum(axis=0)[pairs[:, 1]])
    sizes = np.abs(sums).sum(axis=0)
    least = observed - 1e-12 * (sizes[pairs[:, 0]] + sizes[pairs[:, 1]])
    if k <= np.log2(permutations):
        patterns = (np.arange(2**k)[:, None] >> np.arange(k)) & 1
        return _extreme(sums, pairs, least, iter([patterns])) / 2**k
    found = _bound(sums, pairs, observed)
    open_ones = np.flatnonzero(found * permutations >= HARDLY_EVER)
    if len(open_ones):
        used, tested = np.unique(pairs[open_ones], return_inverse=True)
        counts = _extreme(
            sums[:, used],
            tested.reshape(-1, 2),
            least[open_ones],
            _random_signs(k, permutations, seed),
        )
        found[open_ones] = (counts + 1) / (permutations + 1)
    return found


def _random_signs(k: int, permutations: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of (rows, K) zeros and ones: whether a prompt's models are swapped."""
    rng = np.random.default_rng(seed)
    at_once = max(1, SIGNS_AT_ONCE // k)
    for start in range(0, permutations, at_once):
        rows = min(at_once, permutations - start)
        yield rng.integers(0, 2, size=(rows, k), dtype=np.int8)


def _extreme(
    sums: np.ndarray, pairs: np.ndarray, least: np.ndarray, blocks: Iterator[np.ndarray]
) -> np.ndarray:
    """(T,) how many sign patterns give at least as large a sum of differences."""
    counts, whole = np.zeros(len(pairs), dtype=np.int64), sums.sum(axis=0)
    at_once = max(1, NUMBERS_AT_ONCE // len(sums))
    buffer = np.empty((at_once, len(sums)))
    for swapped in blocks:
        for start in range(0, len(swapped), at_once):
            block = buffer[: len(swapped) - start]
            block[:] = swapped[start : start + at_once]
            signed = whole - 2 * (block @ sums)
            for first in range(0, len(pairs), PAIRS_AT_ONCE):
                part = slice(first, first + PAIRS_AT_ONCE)
                gaps = signed[:, pairs[part, 0]] - signed[:, pairs[part, 1]]
                counts[part] += (np.abs(gaps, out=gaps) >= least[part]).sum(axis=0)
    return counts


def _bound(sums: np.ndarray, pairs: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """(T,) the Gaussian bound of each exact p-value."""
    from scipy.special import ndtr

    squares = np.empty(len(pairs))
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        gaps = sums[:, pairs[part, 0]] - sums[:, pairs[part, 1]]
        squares[part] = np.einsum("kt,kt->t", gaps, gaps)
    deviations = np.divide(observed, squares**0.5, out=np.zeros(len(pairs)), where=squares > 0)
    return np.minimum(1.0, 2 * GAUSSIAN_FACTOR * ndtr(-deviations))
