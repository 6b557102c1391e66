"""The contract of a quantiser: vectors to one of finitely many codes, and gradients through it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from t2ibench.autoencoders.contract import Codes, Latents

GradientEstimator = Literal["straight_through", "rotation"]

SHORTEST = 1e-6
"""Length below which a vector's direction is not asked for."""


@dataclass(frozen=True)
class Quantised:
    """One training pass through a quantiser.

    Attributes:
        latents: (B, C, h, w) code vectors, with an estimate of the gradient to the latents.
        codes: (B, h w) indices in raster order.
        penalty: scalar; what keeps latents and codes together, 0 where nothing has to.
    """

    latents: Latents
    codes: Codes
    penalty: Float[Tensor, ""]


class Quantizer(nn.Module, ABC):
    """Quantiser of vectors of C numbers to V codes.

    Attributes:
        codebook_size: V.
        width: C.
    """

    codebook_size: int
    width: int

    @abstractmethod
    def nearest(self, vectors: Float[Tensor, "M C"]) -> Int[Tensor, " M"]:
        """Index of the code of each vector."""

    @abstractmethod
    def lookup(self, codes: Int[Tensor, "*M"]) -> Float[Tensor, "*M C"]:
        """The code vectors."""

    @abstractmethod
    def forward(self, latents: Latents) -> Quantised:
        """The training pass; a codebook of averages takes one step in training mode."""

    @property
    @abstractmethod
    def remedy(self) -> str:
        """The settings to turn where codes die, with their values: the end of an alarm."""

    def quantise(self, latents: Latents) -> tuple[Latents, Codes]:
        """The codes' vectors (B, C, h, w) and indices (B, h w) in raster order."""
        b, c, h, w = latents.shape
        codes = self.nearest(as_vectors(latents))
        vectors = self.lookup(codes).reshape(b, h, w, c).permute(0, 3, 1, 2)
        return vectors, codes.reshape(b, h * w)


def as_vectors(latents: Latents) -> Float[Tensor, "M C"]:
    """The vectors of a grid, image by image in raster order."""
    return latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])


def passed(
    latents: Latents, vectors: Latents, gradient: GradientEstimator = "straight_through"
) -> Latents:
    """The code vectors, with an estimate of the gradient to the latents.

    Args:
        latents: z, what was quantised.
        vectors: e, the codes of z; take no gradient here.
        gradient: ``straight_through`` (z + sg[e - z]) or ``rotation`` (``rotated``).

    Source: van den Oord et al. 2017 (VQ-VAE), section 3.2.
    Differs: none.
    """
    if gradient == "rotation":
        return rotated(latents, vectors)
    return latents + (vectors - latents).detach()


def rotated(latents: Latents, vectors: Latents) -> Latents:
    r"""The code vectors as a rotation and a scaling of the latents, both held constant.

    With unit vectors z', e' and r = (z' + e') / \|z' + e'\|:

        e = (\|e\| / \|z\|) R z,    R = I - 2 r r^T + 2 e' z'^T

    so that a gradient g at e arrives at z as (\|e\| / \|z\|) R^T g, turned with the angle between
    them, where the straight-through estimator hands on g itself.

    Args:
        latents: z, (B, C, h, w).
        vectors: e, the same shape; take no gradient.

    Source: Fifty et al. 2024 (rotation trick), section 4.2 and eq. 4.
    Differs: the value is that of e to the last bit, not that of the rotation.
    """
    with torch.no_grad():
        z_norm, e_norm = _length(latents), _length(vectors)
        z_unit, e_unit = latents / z_norm, vectors / e_norm
        r = z_unit + e_unit
        r = r / _length(r)
    along_r = (latents * r).sum(1, keepdim=True)
    along_z = (latents * z_unit).sum(1, keepdim=True)
    turned = (latents - 2 * along_r * r + 2 * along_z * e_unit) * (e_norm / z_norm)
    return turned + (vectors - turned).detach()


def _length(x: Latents) -> Float[Tensor, "B 1 h w"]:
    """Lengths of a grid's vectors, kept from 0."""
    return x.norm(dim=1, keepdim=True).clamp(min=SHORTEST)
