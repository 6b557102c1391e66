"""Features of a frozen text encoder, encoded once and kept on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from t2ibench.core.errors import ConfigError
from t2ibench.core.files import atomic_path, exclusive
from t2ibench.core.hashing import hash_json
from t2ibench.core.types import TextFeatures
from t2ibench.text.contract import TextEncoder

log = logging.getLogger(__name__)

CAPTIONS_A_SHARD = 8192
"""Captions in memory at once while a set is warmed: 8192 x 77 x 768 floats are 1.8 GiB."""


class FrozenTextCache:
    """Cache from captions to features on the CPU: read from disk, else encoded and kept.

    A shard is one safetensors file, whole or absent, named by the captions that it holds, in a
    folder named by the encoder's fingerprint: features of other weights, tokenisers or options
    are never mixed. Tokens lie end to end without padding and are read by slice, so a data set
    larger than memory can be cached.

    Args:
        encoder: a frozen encoder.
        root: the folder of all text caches.
        batch_size: captions encoded at a time by ``warm``.

    Raises:
        ConfigError: the encoder is trained, so its features do not stay the same.
    """

    def __init__(self, encoder: TextEncoder, root: str | Path, batch_size: int = 64) -> None:
        if encoder.trainable:
            raise ConfigError(
                f"{type(encoder).__name__} is trained with the generator, so its features cannot "
                "be cached; give it a frozen one."
            )
        self.encoder = encoder
        self.folder = Path(root) / encoder.fingerprint
        self.batch_size = batch_size
        self._shards: list[Any] = []
        self._opened: set[str] = set()
        self._where: dict[str, tuple[int, int, int, int]] = {}
        self._open_new_shards()

    def __len__(self) -> int:
        return len(self._where)

    def warm(self, captions: Iterable[str]) -> None:
        """Encodes every caption that is not there yet, in an order that depends on the set alone.

        Best called with all captions of a data set before the first batch: then a feature does
        not depend, not even in its last bit, on the batch that first asked for it.
        """
        wanted = set(captions)
        if wanted <= self._where.keys():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / ".lock"):
            self._open_new_shards()
            # Captions of like length share a batch: less padding.
            missing = sorted(wanted - self._where.keys(), key=lambda c: (len(c), c))
            left = iter(missing)
            while shard := list(islice(left, CAPTIONS_A_SHARD)):
                self._write(shard)
                self._open_new_shards()

    def __call__(self, captions: Sequence[str]) -> TextFeatures:
        """Features of B captions, padded to the longest, on the CPU."""
        self.warm(captions)
        places = [self._where[caption] for caption in captions]
        longest = max(stop - start for _, _, start, stop in places)
        tokens = torch.zeros(len(places), longest, self.encoder.width)
        mask = torch.zeros(len(places), longest, dtype=torch.bool)
        pooled = torch.empty(len(places), self.encoder.width)
        for i, (shard, row, start, stop) in enumerate(places):
            tokens[i, : stop - start] = self._shards[shard].get_slice("tokens")[start:stop]
            mask[i, : stop - start] = True
            pooled[i] = self._shards[shard].get_slice("pooled")[row]
        return TextFeatures(tokens, mask, pooled)

    def _write(self, captions: list[str]) -> None:
        tokens, pooled, lengths = [], [], []
        for start in range(0, len(captions), self.batch_size):
            features = self.encoder.encode(captions[start : start + self.batch_size]).to("cpu")
            tokens.append(features.tokens[features.mask])
            lengths.append(features.mask.sum(1))
            pooled.append(features.pooled)
        text = json.dumps(captions, ensure_ascii=True).encode()
        tensors = {
            "tokens": torch.cat(tokens).contiguous(),
            "pooled": torch.cat(pooled).contiguous(),
            "lengths": torch.cat(lengths),
            "captions": torch.frombuffer(bytearray(text), dtype=torch.uint8),
        }
        with atomic_path(self.folder / f"{hash_json(captions, 16)}.safetensors") as aside:
            save_file(tensors, aside)

    def _open_new_shards(self) -> None:
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            if path.name in self._opened:
                continue
            try:
                shard = safe_open(path, framework="pt")
                captions = json.loads(bytes(shard.get_tensor("captions").tolist()))
                stops = shard.get_tensor("lengths").cumsum(0).tolist()
            except (OSError, ValueError, SafetensorError) as error:
                log.warning("text cache %s cannot be read (%s); encoding again", path, error)
                path.unlink(missing_ok=True)
                continue
            self._opened.add(path.name)
            self._shards.append(shard)
            starts = [0, *stops[:-1]]
            for row, (caption, start, stop) in enumerate(zip(captions, starts, stops, strict=True)):
                self._where.setdefault(caption, (len(self._shards) - 1, row, start, stop))
