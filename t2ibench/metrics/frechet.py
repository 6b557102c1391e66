"""The Fréchet distance between Gaussian fits of two feature sets, in float64 throughout.

Shapes: N images, D feature width. Called ``fid`` only with the published Inception-v3;
with any other extractor it is ``fd``.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

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

NEGATIVE_TOLERANCE = 1e-6
"""Share of the total variance below zero that rounding can explain."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and centred scatter of features: streams, merges in any order.

    Attributes:
        n: how many images were seen.
        mean: (D,) float64.
        scatter: (D, D) float64, sum of (x - mean)(x - mean)'.
    """

    n: int
    mean: Float[Tensor, " D"]
    scatter: Float[Tensor, "D D"]

    @staticmethod
    def empty(width: int) -> Moments:
        """The moments of no images."""
        zeros = torch.zeros(width, width, dtype=torch.float64)
        return Moments(0, torch.zeros(width, dtype=torch.float64), zeros)

    @staticmethod
    def of(features: Float[Tensor, "N D"]) -> Moments:
        """The moments of one batch, in two passes.

        Raises:
            ScoreError: a feature is not finite.
        """
        features = checked(features)
        if len(features) == 0:
            return Moments.empty(features.shape[1])
        mean = features.mean(0)
        centred = features - mean
        return Moments(len(features), mean, centred.T @ centred)

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets together.

        With n = n1 + n2 and delta = m2 - m1: mean = m1 + delta n2/n and
        scatter = S1 + S2 + delta delta' n1 n2/n.

        Source: Chan, Golub & LeVeque (1983), equation 2.1, for vectors.
        Differs: none.
        """
        if self.n == 0 or other.n == 0:
            return other if self.n == 0 else self
        n = self.n + other.n
        delta = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter = scatter + torch.outer(delta, delta) * (self.n * other.n / n)
        return Moments(n, self.mean + delta * (other.n / n), scatter)

    def update(self, features: Float[Tensor, "N D"]) -> Moments:
        """These moments and one more batch."""
        return self.merge(Moments.of(features))

    @property
    def width(self) -> int:
        """D."""
        return self.mean.shape[0]

    @property
    def covariance(self) -> Float[Tensor, "D D"]:
        """Unbiased covariance (N - 1).

        Raises:
            ScoreError: fewer than two images.
        """
        if self.n < 2:
            raise ScoreError(f"a covariance needs at least 2 images, got {self.n}.")
        return self.scatter / (self.n - 1)


def _size(features: Tensor | Moments) -> tuple[int, int]:
    if isinstance(features, Moments):
        return features.n, features.width
    return features.shape[0], features.shape[1]


def underdetermined(
    x: Float[Tensor, "N D"] | Moments, y: Float[Tensor, "M other"] | Moments
) -> bool:
    """True where a set has no more images than features: its covariance is singular."""
    return min(_size(x)[0], _size(y)[0]) <= _size(x)[1]


def frechet_distance(
    x: Float[Tensor, "N D"] | Moments, y: Float[Tensor, "M other"] | Moments
) -> float:
    """``|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2))``, in float64.

    The trace of the root is computed without a matrix root: from features where N < D as
    the nuclear norm of the centred cross-Gram matrix (exact, and zero for equal sets), from
    full-rank covariances as the root eigenvalues of L' S2 L with S1 = L L', and from
    singular ones as the nuclear norm of F1' F2 with S = F F'.

    Args:
        x: (N, D) features, or their ``Moments``.
        y: (M, D) features, or their ``Moments``.

    Returns:
        The distance, at least 0. ``underdetermined(x, y)`` says when it means little.

    Raises:
        ScoreError: different widths, fewer than two images, features that are not finite,
            or a result more negative than rounding explains.

    Source: Dowson & Landau (1982), equation 4; Heusel et al. (2017), "GANs trained by a two
    time-scale update rule", section 4.
    Differs: none in value; no matrix square root is formed.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> frechet_distance(x, x), frechet_distance(x + 3, x)
        (0.0, 9.0)
    """
    (n, width), (m, other_width) = _size(x), _size(y)
    if width != other_width:
        raise ScoreError(f"features of width {width} and {other_width} cannot be compared.")
    if min(n, m) < 2:
        raise ScoreError(f"a Fréchet distance needs at least 2 images a set, got {n} and {m}.")
    raw = isinstance(x, Tensor) and isinstance(y, Tensor)
    if raw and min(n, m) <= width:
        return _from_features(x, y)  # type: ignore[arg-type]
    first = x if isinstance(x, Moments) else Moments.of(x)
    second = y if isinstance(y, Moments) else Moments.of(y)
    return _from_moments(first, second)


def _from_features(x: Tensor, y: Tensor) -> float:
    x, y = checked(x), checked(y)
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = (x - mean_x) / (len(x) - 1) ** 0.5, (y - mean_y) / (len(y) - 1) ** 0.5
    root_trace = torch.linalg.svdvals(x @ y.T).sum()
    return _assemble(mean_x - mean_y, x.square().sum() + y.square().sum(), root_trace)


def _from_moments(x: Moments, y: Moments) -> float:
    cov_x, cov_y = x.covariance, y.covariance
    lower, failed = torch.linalg.cholesky_ex(cov_x)
    if failed or underdetermined(x, y):
        root_trace = torch.linalg.svdvals(_factor(cov_x).T @ _factor(cov_y)).sum()
    else:
        root_trace = torch.linalg.eigvalsh(lower.T @ cov_y @ lower).clamp(min=0).sqrt().sum()
    return _assemble(x.mean - y.mean, cov_x.trace() + cov_y.trace(), root_trace)


def _factor(covariance: Tensor) -> Tensor:
    """(D, r) with F F' = covariance, keeping only eigenvalues above rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept] * values[kept].sqrt()


def _assemble(shift: Tensor, variance: Tensor, root_trace: Tensor) -> float:
    distance = float(shift.square().sum() + variance - 2 * root_trace)
    if distance < -NEGATIVE_TOLERANCE * float(variance):
        raise ScoreError(
            f"the Fréchet distance came out as {distance:.3g}, below what rounding explains; "
            f"the covariances are not those of real features."
        )
    return max(distance, 0.0)


def frechet_estimate(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M other"],
    *,
    replicates: int = HALF_SAMPLES["fd"],
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
) -> Estimate:
    """The Fréchet distance with its 95% interval over generated samples, reference fixed.

    Args:
        x: (N, D) features of generated images.
        y: (M, D) features of the reference.
        replicates: half-samples of x for the standard deviation.
        seed: of the half-samples.
        clusters: N prompt keys, or None.

    Returns:
        The estimate; its note says ``underdetermined`` where N or M <= D.
    """
    width = x.shape[1]
    note = ""
    if underdetermined(x, y):
        note = f"underdetermined (N={len(x)}, reference {len(y)}, width {width})"
    value = frechet_distance(x, y)
    singular = min(len(x) // 2, len(y)) <= width
    reference = y if singular else Moments.of(y)
    x = checked(x)
    halves = half_sample_values(
        lambda kept: frechet_distance(x[torch.from_numpy(kept)], reference),
        len(x),
        replicates=replicates,
        seed=seed,
        clusters=clusters,
    )
    return halves_interval(value, halves, note)
