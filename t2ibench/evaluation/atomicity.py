"""The atomicity curve: how often everything is right, by the number of objects asked for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from t2ibench.metrics.bootstrap import bootstrap_mean

EXACT = "exact"
"""The skill that is 1 where everything that a caption asks for is right."""


@dataclass(frozen=True)
class AtomicityPoint:
    """Share of images that are right in everything, of those that ask for so many objects.

    Attributes:
        objects: number of objects in the caption.
        value: share of images, from 0 to 1.
        ci_low: lower end of its 95% interval over prompts.
        ci_high: upper end.
        n: number of images.
    """

    objects: int
    value: float
    ci_low: float
    ci_high: float
    n: int


def atomicity_curve(
    exact: Float[np.ndarray, " N"], objects: Sequence[int], clusters: Sequence[Hashable]
) -> list[AtomicityPoint]:
    """Points of the curve, from few objects to many.

    Args:
        exact: (N,) 1 where an image is right in everything, 0 where not, NaN where not asked.
        objects: N numbers of objects.
        clusters: N prompt keys.

    Source: GenEval 2 (2025, arXiv 2512.16853), accuracy by a prompt's atomicity.
    Differs: objects are counted, not objects, attributes and relations together.

    Example:
        >>> points = atomicity_curve(np.array([1.0, 1.0, 0.0, 1.0]), [1, 1, 2, 2], "abcd")
        >>> [(point.objects, point.value, point.n) for point in points]
        [(1, 1.0, 2), (2, 0.5, 2)]
    """
    counts, points = np.asarray(objects), []
    for count in sorted(set(objects)):
        rows = np.flatnonzero((counts == count) & ~np.isnan(exact))
        if len(rows):
            found = bootstrap_mean(exact[rows], [clusters[int(row)] for row in rows])
            points.append(
                AtomicityPoint(count, found.value, found.ci_low, found.ci_high, len(rows))
            )
    return points
