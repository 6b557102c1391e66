"""Features of real images: read from memory, from the cache, or extracted in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from t2ibench.core.hashing import hash_json
from t2ibench.data.records import PreparedSplit
from t2ibench.evaluation.interfaces import FeatureCache

CHUNK = 256
"""Images handed to a network at a time."""

FEATURE_VERSION = 1
"""Part of the cache key of features; raised when their meaning changes."""


class RealFeatures:
    """Features of splits' images under several networks, each extracted once.

    Args:
        cache: keeps features between processes; None: in memory only.
    """

    def __init__(self, cache: FeatureCache | None) -> None:
        self.cache = cache
        self._kept: dict[tuple[str, str, str], Tensor] = {}

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
                extract(split.pixels(indices[start : start + CHUNK])).float().cpu()
                for start in range(0, len(indices), CHUNK)
            ]
            return {"features": torch.cat(parts).numpy()}

        if self.cache is None:
            arrays = build()
        else:
            identity = {
                "what": "reference features",
                "version": FEATURE_VERSION,
                "split": split.fingerprint,
                "indices": chosen,
                "extractor": key,
                "weights": fingerprint,
            }
            arrays = self.cache.get_or_build(f"reference-{hash_json(identity, 16)}", build)
        features = torch.from_numpy(np.array(arrays["features"], dtype=np.float32))
        self._kept[place] = features
        return features
