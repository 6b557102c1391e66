"""Features of real images: read from memory, from the cache, or extracted in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from t2ibench.core.hashing import hash_json
from t2ibench.core.types import PixelImages
from t2ibench.data.records import PreparedSplit
from t2ibench.data.resize import Filter, ResizeRecipe
from t2ibench.evaluation.interfaces import FeatureCache

CHUNK = 256
"""Images handed to a network at a time."""

FEATURE_VERSION = 1
"""Part of the cache key of features; raised when their meaning changes."""


class RealFeatures:
    """Features of splits' images under several networks, each extracted once.

    Args:
        cache: keeps features between processes; None: in memory only.
        side: pixels of the reference's square images, to which larger ones are brought.
        filter: of the protocol's resize.
    """

    def __init__(self, cache: FeatureCache | None, side: int, filter: Filter) -> None:
        self.cache = cache
        self.recipe = ResizeRecipe(side, filter)
        self._kept: dict[tuple[str, str, str], Tensor] = {}

    def fitted(self, pixels: PixelImages) -> UInt8[Tensor, "B 3 side side"]:
        """Images of another size brought to the reference's by the protocol's filter."""
        if pixels.shape[-1] == self.recipe.resolution:
            return pixels
        pictures = map(Image.fromarray, pixels.permute(0, 2, 3, 1).numpy())
        return torch.from_numpy(np.stack([self.recipe(picture) for picture in pictures]))

    def of(
        self,
        split: PreparedSplit,
        indices: Sequence[int],
        key: str,
        fingerprint: str,
        extract: Callable[..., Tensor],
    ) -> Tensor:
        """Features (len(indices), D) of some images of a split.

        Args:
            split: the split.
            indices: positions in it.
            key: of the network.
            fingerprint: of its weights.
            extract: function from (B, 3, H, W) uint8 to (B, D).
        """
        chosen = hash_json(list(indices))
        place = (split.fingerprint, chosen, key)
        if place in self._kept:
            return self._kept[place]

        def build() -> dict[str, np.ndarray]:
            parts = [
                extract(self.fitted(split.pixels(indices[start : start + CHUNK]))).float().cpu()
                for start in range(0, len(indices), CHUNK)
            ]
            return {"features": torch.cat(parts).numpy()}

        if self.cache is None:
            arrays = build()
        else:
            identity: dict[str, Any] = {
                "what": "reference features",
                "version": FEATURE_VERSION,
                "split": split.fingerprint,
                "indices": chosen,
                "extractor": key,
                "weights": fingerprint,
            }
            if split.resolution != self.recipe.resolution:
                identity["resized"] = [self.recipe.resolution, self.recipe.filter]
            arrays = self.cache.get_or_build(f"reference-{hash_json(identity, 16)}", build)
        features = torch.from_numpy(np.array(arrays["features"], dtype=np.float32))
        self._kept[place] = features
        return features
