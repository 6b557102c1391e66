"""The contract of every feature extractor: its name, its input, its features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.core.hashing import hash_tensors
from t2ibench.core.types import PixelImages


class FeatureExtractor(nn.Module, ABC):
    """A frozen network from uint8 pixels to one float32 vector an image.

    A feature depends on its image alone: the network is in evaluation mode, preprocessing
    happens here and nowhere else, and the batch changes only rounding.

    Attributes:
        name: network and training data, for example ``efficientnet-lite0-in1k``.
        preprocessing: resize and size, for example ``bicubic-64``.
        width: D, the feature width.
        batch_size: images a forward pass inside ``features``.
    """

    name: str
    preprocessing: str
    width: int
    batch_size: int = 64

    @property
    def key(self) -> str:
        """The extractor's part of a score's key: ``name@width|preprocessing``."""
        return f"{self.name}@{self.width}|{self.preprocessing}"

    @property
    def distance_name(self) -> str:
        """Name of its Fréchet distance in score keys; only the published Inception-v3 says fid."""
        return "fd"

    @cached_property
    def fingerprint(self) -> str:
        """First 12 hex digits of the SHA-256 of the weights."""
        named = self.state_dict().items()
        return hash_tensors((f"{n} {tuple(t.shape)}", t.reshape(-1)) for n, t in named)

    @abstractmethod
    def forward(self, pixels: PixelImages) -> Float[Tensor, "B D"]:
        """Preprocesses and embeds one batch, with gradients off or on."""

    @torch.inference_mode()
    def features(self, pixels: PixelImages) -> Float[Tensor, "B D"]:
        """Embeds (B, 3, H, W) uint8 as (B, D) float32 on the CPU, ``batch_size`` at a time."""
        self.eval()
        device = next(self.parameters()).device
        found = [
            self(pixels[start : start + self.batch_size].to(device)).float().cpu()
            for start in range(0, len(pixels), self.batch_size)
        ]
        return torch.cat(found) if found else torch.empty(0, self.width)
