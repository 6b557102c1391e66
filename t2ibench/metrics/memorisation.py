"""Memorisation: images nearer to a training image than that one is to its own nearest.

Shapes: N generated images, T training images, D feature width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from t2ibench.core.errors import ScoreError
from t2ibench.metrics.features import checked

BLOCK = 1024
"""Rows of a distance matrix held at once."""


@dataclass(frozen=True)
class NearestTraining:
    """The nearest training image of each generated one.

    Attributes:
        index: (N,) row of that training image.
        distance: (N,) Euclidean distance to it.
        own_distance: (N,) distance of that training image to its own nearest other one.
    """

    index: Int[Tensor, " N"]
    distance: Float[Tensor, " N"]
    own_distance: Float[Tensor, " N"]

    @property
    def authentic(self) -> Bool[Tensor, " N"]:
        """True where the image is no copy: farther away than that training image's own nearest."""
        return self.distance > self.own_distance


def nearest_training(x: Float[Tensor, "N D"], train: Float[Tensor, "T other"]) -> NearestTraining:
    """Finds nearest training images, in blocks, in float64.

    ``NearestTraining.authentic`` averaged and times 100 is AuthPct, near 0 where generated images
    are copies. For further draws of the training distribution it is no constant: it depends on
    the dimension of the features and on the number of training images, so it is read beside that
    of held-out real images.

    Args:
        x: (N, D) features of generated images.
        train: (T, D) features of the training images.

    Raises:
        ScoreError: different widths, fewer than two training images, features that are not
            finite.

    Source: Alaa et al. (2022), "How faithful is your synthetic data?", section 5.2; named
    AuthPct by Stein et al. (2023), "Exposing flaws of generative model evaluation metrics".
    Differs: none; ties count as copies.

    Example:
        >>> train = torch.tensor([[0.0], [1.0], [5.0]])
        >>> nearest_training(torch.tensor([[0.1], [9.5]]), train).authentic.tolist()
        [False, True]
    """
    if x.shape[1] != train.shape[1]:
        raise ScoreError(f"features of width {x.shape[1]} and {train.shape[1]} cannot be compared.")
    if len(train) < 2 or len(x) == 0:
        raise ScoreError(
            f"memorisation needs a generated and at least 2 training images, got {len(x)} and "
            f"{len(train)}."
        )
    x, train = checked(x), checked(train)
    index, distance = [], []
    for start in range(0, len(x), BLOCK):
        nearest = torch.cdist(x[start : start + BLOCK], train).min(1)
        index.append(nearest.indices)
        distance.append(nearest.values)
    rows = torch.cat(index)
    used, places = rows.unique(return_inverse=True)
    own = []
    for start in range(0, len(used), BLOCK):
        chosen = used[start : start + BLOCK]
        distances = torch.cdist(train[chosen], train)
        distances.scatter_(1, chosen[:, None], torch.inf)
        own.append(distances.min(1).values)
    found = (rows, torch.cat(distance), torch.cat(own)[places])
    return NearestTraining(*(values.cpu() for values in found))
