"""Metrics of torchmetrics for the distances, for a training loop: update, compute, reset, sync.

Thin: the arithmetic is that of ``frechet``, ``kernel``, ``neighbours`` and ``diversity``. A padding
image that a distributed sampler repeats counts twice; the evaluator's own pass has no such
repeats and is what reported numbers come from.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from t2ibench.core.types import PixelImages
from t2ibench.metrics.diversity import vendi_score
from t2ibench.metrics.extractors.contract import FeatureExtractor
from t2ibench.metrics.frechet import Moments, frechet_distance
from t2ibench.metrics.kernel import cmmd, kid
from t2ibench.metrics.neighbours import neighbours


def pack(moments: Moments) -> Float[Tensor, " P"]:
    """Count, mean and scatter as one vector, P = 1 + D + D*D: what travels between ranks."""
    count = torch.tensor([float(moments.n)], dtype=torch.float64)
    return torch.cat([count, moments.mean, moments.scatter.flatten()])


def unpack(packed: Float[Tensor, " P"]) -> Moments:
    """The inverse of ``pack``."""
    packed = packed.detach().to("cpu", torch.float64)
    width = round((-1 + (4 * len(packed) - 3) ** 0.5) / 2)
    mean, scatter = packed[1 : 1 + width], packed[1 + width :]
    return Moments(int(packed[0]), mean, scatter.unflatten(0, (width, width)))


def merge_packed(ranks: Float[Tensor, "R P"]) -> Float[Tensor, " P"]:
    """The moments of all ranks together, merged about their means: no large sums cancel."""
    total = unpack(ranks[0])
    for row in ranks[1:]:
        total = total.merge(unpack(row))
    return pack(total).to(ranks.device)


class FrechetDistance(Metric):
    """Streaming Fréchet distance: keeps a count, a mean and a scatter matrix a side.

    Args:
        extractor: network of the features.

    Source: Heusel et al. (2017), section 4.
    Differs: none; moments are float64 and merge as ``Moments.merge`` does.
    """

    higher_is_better = False
    full_state_update = False

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.extractor = extractor
        for side in ("real", "generated"):
            empty = pack(Moments.empty(extractor.width))
            self.add_state(side, default=empty, dist_reduce_fx=merge_packed)

    def update(self, pixels: PixelImages, real: bool) -> None:
        """Adds a batch of real or generated pixels."""
        side = "real" if real else "generated"
        state = getattr(self, side)
        moments = unpack(state).update(self.extractor.features(pixels))
        setattr(self, side, pack(moments).to(state.device))

    def compute(self) -> Float[Tensor, ""]:
        """The distance of what was seen so far."""
        state: tuple[Any, Any] = (self.generated, self.real)
        found = frechet_distance(*(unpack(side) for side in state))
        return torch.tensor(found, dtype=torch.float64)


class _KeptFeatures(Metric):
    """A score of features that must be kept: memory grows by 4 D bytes an image."""

    full_state_update = False

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.extractor = extractor
        self.add_state("real", default=[], dist_reduce_fx="cat")
        self.add_state("generated", default=[], dist_reduce_fx="cat")

    def update(self, pixels: PixelImages, real: bool) -> None:
        """Adds a batch of real or generated pixels."""
        found = self.extractor.features(pixels).to(self.device)
        getattr(self, "real" if real else "generated").append(found)

    def features(self, side: str) -> Float[Tensor, "N D"]:
        """Features of one side seen so far, of all ranks after a sync."""
        kept: Any = getattr(self, side)
        return kept if isinstance(kept, Tensor) else torch.cat(kept)

    @abstractmethod
    def compute(self) -> Any:
        """The score of what was seen so far."""


class _KernelMetric(_KeptFeatures):
    higher_is_better = False
    distance: Callable[[Tensor, Tensor], float]

    def compute(self) -> Float[Tensor, ""]:
        """The distance of what was seen so far."""
        found = type(self).distance(self.features("generated"), self.features("real"))
        return torch.tensor(found, dtype=torch.float64)


class KernelDistance(_KernelMetric):
    """KID over kept features.

    Args:
        extractor: network of the features.

    Source: Binkowski et al. (2018), section 4.
    Differs: see ``kernel.kid``.
    """

    distance = staticmethod(kid)


class ClipKernelDistance(_KernelMetric):
    """CMMD over kept features; ``cmmd-style`` unless they are CLIP ViT-L/14-336's.

    Args:
        extractor: network of the features.

    Source: Jayasumana et al. (2024), section 4.
    Differs: see ``kernel.cmmd``.
    """

    distance = staticmethod(cmmd)


class PrecisionRecall(_KeptFeatures):
    """Precision, recall, density and coverage over kept features.

    Args:
        extractor: network of the features.

    Source: Kynkäänniemi et al. (2019); Naeem et al. (2020).
    Differs: see ``neighbours.neighbours``.
    """

    higher_is_better = True

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """The four scores of what was seen so far, by name."""
        means = neighbours(self.features("generated"), self.features("real")).means()
        return {name: torch.tensor(mean, dtype=torch.float64) for name, mean in means.items()}


class Vendi(_KeptFeatures):
    """Vendi score of the generated images; real ones are not looked at.

    Args:
        extractor: network of the features.

    Source: Friedman & Dieng (2023).
    Differs: see ``diversity.vendi_score``.
    """

    higher_is_better = True

    def update(self, pixels: PixelImages, real: bool = False) -> None:
        """Adds a batch of generated pixels; real ones are passed over."""
        if not real:
            super().update(pixels, real=False)

    def compute(self) -> Float[Tensor, ""]:
        """The effective number of images seen so far."""
        return torch.tensor(vendi_score(self.features("generated")), dtype=torch.float64)
