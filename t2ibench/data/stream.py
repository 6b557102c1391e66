"""The training stream: batches that are a pure function of (seed, images_seen).

Stopping at any image and starting again with that ``images_seen`` yields exactly the batches
that an uninterrupted stream yields, so a resumed run equals one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from t2ibench.core.errors import ConfigError, DataError
from t2ibench.core.hashing import derive_seed
from t2ibench.core.pixels import from_pixels
from t2ibench.core.types import Batch, TextFeatures
from t2ibench.data.records import PreparedSplit


class BatchStream(Iterator[Batch]):
    """An endless iterator of training batches.

    Epoch e is the permutation drawn from (seed, e); a batch may straddle two epochs, so
    every image is seen once an epoch whatever the batch size. Image i of epoch e has the
    caption ``derive_seed(seed, e, key) % len(captions)``.

    Args:
        split: the images and captions.
        batch_size: the GLOBAL batch, over all ranks.
        seed: of order, captions and flips.
        images_seen: where to start; the global count of images already yielded.
        rank: this process's rank; it takes its contiguous slice of each global batch.
        world_size: number of processes.
        flip: mirror half of the images, again by key and epoch. Only for data whose captions
            say nothing of left and right, and not with cached targets.
        targets: name -> (N, …) what frozen parts made of each image, in the order of the split.
        text: frozen captions -> features (usually a cache), or None: the module encodes.

    Raises:
        ConfigError: a batch that ranks cannot share, a negative start, or flips of targets.
        DataError: an empty split, or targets of another length than the split.
    """

    def __init__(
        self,
        split: PreparedSplit,
        *,
        batch_size: int,
        seed: int,
        images_seen: int = 0,
        rank: int = 0,
        world_size: int = 1,
        flip: bool = False,
        targets: Mapping[str, np.ndarray | Tensor] | None = None,
        text: Callable[[list[str]], TextFeatures] | None = None,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ConfigError(
                f"batch_size={batch_size} must be a positive multiple of the number of "
                f"processes ({world_size})."
            )
        if not 0 <= rank < world_size or images_seen < 0:
            raise ConfigError(
                f"rank={rank} must be in [0, {world_size}) and images_seen={images_seen} "
                "must not be negative."
            )
        targets = targets or {}
        if flip and targets:
            raise ConfigError(
                f"data.flip=true needs images: cached {' and '.join(targets)} cannot be flipped; "
                "set data.flip=false."
            )
        if not len(split):
            raise DataError(f"{split.name} is empty; prepare the data set again.")
        for what, cached in targets.items():
            if len(cached) != len(split):
                raise DataError(
                    f"{len(cached)} cached {what} for the {len(split)} images of {split.name}; "
                    "delete the cache entry and run again."
                )
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.images_seen = images_seen
        self.rank = rank
        self.world_size = world_size
        self.flip = flip
        self.targets = targets
        self.text = text
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    @property
    def epoch(self) -> int:
        """The epoch of the next image."""
        return self.images_seen // len(self.split)

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Batch:
        share = self.batch_size // self.world_size
        start = self.images_seen + self.rank * share
        places = [self._place(position) for position in range(start, start + share)]
        self.images_seen += self.batch_size
        index = np.array([i for _, i in places], dtype=np.int64)
        captions = [self._caption(epoch, i) for epoch, i in places]
        return Batch(
            image=self._images(places, index),
            caption=captions,
            index=torch.from_numpy(index),
            text=self.text(captions) if self.text else None,
            targets={name: _rows(target, index) for name, target in self.targets.items()},
        )

    def _place(self, position: int) -> tuple[int, int]:
        """Epoch and index in the split of the image at a global position."""
        epoch, within = divmod(position, len(self.split))
        if epoch != self._epoch:
            key = derive_seed("order", self.seed, epoch)
            self._order = np.random.Generator(np.random.Philox(key)).permutation(len(self.split))
            self._epoch = epoch
        return epoch, int(self._order[within])

    def _caption(self, epoch: int, index: int) -> str:
        record = self.split.records[index]
        if len(record.captions) == 1:
            return record.captions[0]
        return record.captions[derive_seed(self.seed, epoch, record.key) % len(record.captions)]

    def _images(self, places: list[tuple[int, int]], index: np.ndarray) -> Tensor:
        images = from_pixels(self.split.pixels(index))
        if not self.flip:
            return images
        keys = [self.split.records[i].key for i in index]
        mirrored = torch.tensor(
            [
                derive_seed("flip", self.seed, epoch, key) % 2 == 1
                for (epoch, _), key in zip(places, keys, strict=True)
            ]
        )
        return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def _rows(array: np.ndarray | Tensor, index: np.ndarray) -> Tensor:
    """Rows as float32 or int64."""
    if isinstance(array, Tensor):
        rows = array[torch.from_numpy(index)]
    else:
        rows = torch.from_numpy(np.array(array[index]))
    return rows.float() if rows.is_floating_point() else rows.long()
