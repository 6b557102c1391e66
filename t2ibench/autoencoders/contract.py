"""The contract of a first stage: images to a small grid of latents, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from t2ibench.core.types import Images

Kind = Literal["kl", "vq"]
Latents = Float[Tensor, "B C h w"]
Codes = Int[Tensor, "B N"]


@dataclass(frozen=True)
class Reconstruction:
    """One training pass through an autoencoder.

    Attributes:
        images: (B, 3, H, W) what the decoder made.
        penalty: scalar; what keeps the latents simple (KL, or codebook commitment).
        logs: detached scalars worth a learning curve.
        codes: (B, N) of all ranks, where the autoencoder has a codebook.
    """

    images: Images
    penalty: Float[Tensor, ""]
    logs: dict[str, Tensor] = field(default_factory=dict)
    codes: Codes | None = None


class Autoencoder(nn.Module, ABC):
    """First stage: images (B, 3, H, W) in [-1, 1] to latents (B, C, H / f, W / f) and back.

    Attributes:
        kind: ``kl`` has continuous latents, ``vq`` also discrete codes.
        spatial_factor: f, pixels a latent position spans along each side.
        latent_channels: C.
    """

    kind: Kind
    spatial_factor: int
    latent_channels: int

    @abstractmethod
    def encode(self, images: Images) -> Latents:
        """The latents, without randomness (KL: the posterior mean; VQ: before quantising)."""

    def moments(self, images: Images) -> tuple[Latents, Latents]:
        """Mean and variance of the latents that training decodes, each (B, C, h, w).

        By default ``encode``'s latents, without variance.
        """
        latents = self.encode(images)
        return latents, torch.zeros_like(latents)

    @abstractmethod
    def decode(self, latents: Latents) -> Images:
        """Images of latents (VQ: of their nearest codes); may leave [-1, 1] slightly."""

    @abstractmethod
    def reconstruct(self, images: Images) -> Reconstruction:
        """Encodes, samples or quantises, and decodes, with gradients: the training pass."""

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """The decoder's last weights, where an adversarial loss is balanced."""
