"""Precision, recall, density and coverage by nearest-neighbour balls, in blocks.

Fidelity (precision, density) asks whether a generated image lies where real ones do;
diversity (recall, coverage) whether real images lie where generated ones do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from t2ibench.core.errors import ScoreError
from t2ibench.metrics.features import checked

PRECISION_K = 3
"""Neighbourhood size of precision and recall (Kynkäänniemi et al. 2019, section 3)."""
DENSITY_K = 5
"""Neighbourhood size of density and coverage (Naeem et al. 2020, section 3)."""
BLOCK = 1024


@dataclass(frozen=True)
class Neighbours:
    """Values of single images; each metric is the mean of its field.

    Attributes:
        precision: (N,) generated image inside a real ball (k = 3).
        recall: (M,) real image inside a generated ball (k = 3).
        density: (N,) number of real balls around the generated image over k (k = 5).
        coverage: (M,) real ball that holds a generated image (k = 5).
    """

    precision: Bool[Tensor, " N"]
    recall: Bool[Tensor, " M"]
    density: Float[Tensor, " N"]
    coverage: Bool[Tensor, " M"]

    def means(self) -> dict[str, float]:
        """The four metrics by name."""
        return {
            name: float(getattr(self, name).double().mean())
            for name in ("precision", "recall", "density", "coverage")
        }


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances (N, M) of float64 rows."""
    squared = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T
    return squared.clamp(min=0).sqrt()


def _radii(x: Tensor, ks: tuple[int, ...]) -> list[Tensor]:
    """Distance of each row to its k-th nearest other row, for each k."""
    found: list[list[Tensor]] = [[] for _ in ks]
    for start in range(0, len(x), BLOCK):
        distances = _distances(x[start : start + BLOCK], x)
        distances.diagonal(start).fill_(float("inf"))
        nearest = distances.topk(max(ks), dim=1, largest=False).values
        for radii, k in zip(found, ks, strict=True):
            radii.append(nearest[:, k - 1])
    return [torch.cat(radii) for radii in found]


def neighbours(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M other"],
    *,
    precision_k: int = PRECISION_K,
    density_k: int = DENSITY_K,
) -> Neighbours:
    """Precision, recall, density and coverage, image by image.

    With B(z) the ball around z up to its k-th nearest neighbour in its own set:
    precision_i = [x_i in some B(y_j)], recall_j = [y_j in some B(x_i)],
    density_i = #{j: x_i in B(y_j)} / k, coverage_j = [some x_i in B(y_j)].

    Args:
        x: (N, D) features of generated images.
        y: (M, D) features of the reference; N = M for published numbers.
        precision_k: k of precision and recall.
        density_k: k of density and coverage.

    Returns:
        Values an image in [0, 1], on the CPU; density may exceed 1.

    Raises:
        ScoreError: different widths, features that are not finite, or a set with no more
            than k images.

    Source: Kynkäänniemi et al. (2019), "Improved precision and recall metric", equations 1-2;
    Naeem et al. (2020), "Reliable fidelity and diversity metrics", equations 2-3.
    Differs: closed balls and float64 distances.

    Example:
        >>> grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
        >>> [neighbours(grid + shift, grid).means()["precision"] for shift in (0, 100)]
        [1.0, 0.0]
    """
    if x.shape[1] != y.shape[1]:
        raise ScoreError(f"features of width {x.shape[1]} and {y.shape[1]} cannot be compared.")
    needed = max(precision_k, density_k)
    if min(len(x), len(y)) <= needed:
        raise ScoreError(
            f"precision and recall need more than {needed} images a set, got {len(x)} and {len(y)}."
        )
    x, y = checked(x), checked(y)
    (generated_radii,) = _radii(x, (precision_k,))
    precision_radii, density_radii = _radii(y, (precision_k, density_k))
    precision, density = [], []
    recall = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    coverage = torch.zeros_like(recall)
    for start in range(0, len(x), BLOCK):
        distances = _distances(x[start : start + BLOCK], y)
        precision.append((distances <= precision_radii).any(1))
        inside = distances <= density_radii
        density.append(inside.sum(1) / density_k)
        coverage |= inside.any(0)
        recall |= (distances <= generated_radii[start : start + BLOCK, None]).any(0)
    found = (torch.cat(precision), recall, torch.cat(density), coverage)
    return Neighbours(*(values.cpu() for values in found))
