"""A frozen CLIP: images and captions as unit vectors of one space.

A generator is conditioned on it (unCLIP) or trained against it.

E is the width of that space. The towers are a dual encoder that was trained for this purpose
alone, or a published CLIP; never those of the evaluator, which would reward its own likeness.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from t2ibench.core.frozen import FrozenHolder
from t2ibench.core.pixels import to_pixels
from t2ibench.core.types import Images

QUANTILES = 100
"""Number of intervals between the stored quantiles of true pairs' dot products."""


class FrozenClip(FrozenHolder):
    """Unit-length embeddings of a frozen CLIP, and their measured statistics.

    The statistics are measured on training pairs and kept with the generator; the towers'
    weights are not in the state dict, as those of a frozen text encoder are not.

        scaled(z) = (z - mean) / std, dimension by dimension
        scaled(z) ~ sum_k c_k spread_k axes_k, the principal axes with the widest first

    Args:
        towers: a ``metrics.dual_encoder.DualEncoder`` or one of ``metrics.extractors.clip``;
            frozen and put in eval mode; the caller's object, not a copy.

    Source: Ramesh et al. 2022 (unCLIP), section 2.2 (principal axes).
    Differs: the paper does not say how embeddings are scaled; here each dimension has unit
        variance.
    """

    mean: Float[Tensor, " E"]
    std: Float[Tensor, " E"]
    axes: Float[Tensor, "E E"]
    spread: Float[Tensor, " E"]
    dot_quantiles: Float[Tensor, " Q"]

    def __init__(self, towers: nn.Module) -> None:
        super().__init__()
        self.hold("towers", towers)
        width = self.width = int(towers.width)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.full((width,), width**-0.5))
        self.register_buffer("axes", torch.eye(width))
        self.register_buffer("spread", torch.ones(width))
        self.register_buffer("dot_quantiles", torch.linspace(-1, 1, QUANTILES + 1))

    @property
    def towers(self) -> nn.Module:
        """The frozen networks; their parameters and FLOPs are counted with the generator's."""
        return self._frozen["towers"]

    @property
    def fingerprint(self) -> str:
        """Content hash of the towers' weights."""
        return str(self.towers.fingerprint)

    @torch.no_grad()
    def embed_images(self, images: Images) -> Float[Tensor, "B E"]:
        """Unit vectors of images in [-1, 1], which are rounded to pixels first."""
        with torch.autocast(images.device.type, enabled=False):
            return normalize(self.towers(to_pixels(images)).float(), dim=1)

    def embed_generated(self, images: Images) -> Float[Tensor, "B E"]:
        """Unit vectors of images in [-1, 1], not rounded, with gradients to them."""
        with torch.autocast(images.device.type, enabled=False):
            return normalize(self.towers.embed(images.float()).float(), dim=1)

    @torch.no_grad()
    def embed_texts(self, captions: Sequence[str]) -> Float[Tensor, "B E"]:
        """Unit vectors of captions."""
        with torch.autocast("cuda" if self.mean.is_cuda else "cpu", enabled=False):
            return normalize(self.towers.encode_captions(list(captions)).float(), dim=1)

    def scaled(self, embeddings: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
        """Embeddings with zero mean and unit variance in each dimension."""
        return (embeddings - self.mean) / self.std

    def unscaled(self, scaled: Float[Tensor, "*B E"]) -> Float[Tensor, "*B E"]:
        """Inverse of ``scaled``."""
        return scaled * self.std + self.mean

    def measure(self, images: Float[Tensor, "N E"], captions: Float[Tensor, "N E"]) -> FrozenClip:
        """Measures and stores the statistics of N training pairs' embeddings; returns itself.

        Args:
            images: output of ``embed_images``.
            captions: output of ``embed_texts`` for one of each image's own captions.
        """
        images = images.double()
        self.mean.copy_(images.mean(0))
        self.std.copy_(images.std(0, correction=0).clamp(min=1e-6))
        scaled = self.scaled(images)
        variances, vectors = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
        self.axes.copy_(vectors.flip(1).T)
        self.spread.copy_(variances.flip(0).clamp(min=1e-12).sqrt())
        dots = (images * captions.double()).sum(1)
        places = torch.linspace(0, 1, QUANTILES + 1, dtype=torch.float64)
        self.dot_quantiles.copy_(torch.quantile(dots, places))
        return self
