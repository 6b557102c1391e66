"""torchmetrics faces of the distances, for a training loop: update, compute, reset, sync.

Thin: the arithmetic is that of ``frechet`` and ``kernel``. Moments travel between processes
as sums, so padding that a distributed sampler repeats counts twice; the evaluator's own
pass has no such repeats and is what reported numbers come from.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from t2ibench.core.types import PixelImages
from t2ibench.metrics.extractors.base import FeatureExtractor
from t2ibench.metrics.frechet import Moments, frechet_distance
from t2ibench.metrics.kernel import kid


class FrechetDistance(Metric):
    """Streaming Fréchet distance: keeps a count, a sum and a sum of outer products a side.

    Args:
        extractor: network of the features.

    Source: Heusel et al. (2017), section 4.
    Differs: none; all sums are float64.
    """

    higher_is_better = False
    full_state_update = False

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.extractor = extractor
        width = extractor.width
        for side in ("real", "generated"):
            for name, shape in (("count", ()), ("sum", (width,)), ("outer", (width, width))):
                zeros = torch.zeros(shape, dtype=torch.float64)
                self.add_state(f"{side}_{name}", default=zeros, dist_reduce_fx="sum")

    def update(self, pixels: PixelImages, real: bool) -> None:
        """Adds a batch of real or generated pixels."""
        features = self.extractor.features(pixels).double()
        side = "real" if real else "generated"
        for name, value in (
            ("count", torch.tensor(float(len(features)), dtype=torch.float64)),
            ("sum", features.sum(0)),
            ("outer", features.T @ features),
        ):
            state = getattr(self, f"{side}_{name}")
            setattr(self, f"{side}_{name}", state + value.to(state.device))

    def compute(self) -> Float[Tensor, ""]:
        """The distance of what was seen so far."""
        moments = [self._moments(side) for side in ("generated", "real")]
        return torch.tensor(frechet_distance(*moments), dtype=torch.float64)

    def _moments(self, side: str) -> Moments:
        count = getattr(self, f"{side}_count").cpu()
        mean = getattr(self, f"{side}_sum").cpu() / count.clamp(min=1)
        scatter = getattr(self, f"{side}_outer").cpu() - count * torch.outer(mean, mean)
        return Moments(int(count), mean, scatter)


class KernelDistance(Metric):
    """KID over kept features.

    Args:
        extractor: network of the features.

    Source: Binkowski et al. (2018), section 4.
    Differs: see ``kernel.kid``.
    """

    higher_is_better = False
    full_state_update = False

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.extractor = extractor
        self.add_state("real", default=[], dist_reduce_fx="cat")
        self.add_state("generated", default=[], dist_reduce_fx="cat")

    def update(self, pixels: PixelImages, real: bool) -> None:
        """Adds a batch of real or generated pixels."""
        getattr(self, "real" if real else "generated").append(self.extractor.features(pixels))

    def compute(self) -> Float[Tensor, ""]:
        """The distance of what was seen so far."""
        sides: tuple[Any, Any] = (self.generated, self.real)
        generated, real = (torch.cat(s) if isinstance(s, list) else s for s in sides)
        return torch.tensor(kid(generated, real), dtype=torch.float64)
