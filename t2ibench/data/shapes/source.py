"""The procedural world as a data source: rendered once, cached, memory-mapped.

A cached split is three files named after the configuration's hash: the images (``.npy``),
the records (``.jsonl``) and a seal (``.json``) with their hashes, written last. A split
without a matching seal is built again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t2ibench.core.errors import ConfigError
from t2ibench.core.files import atomic_path, read_json, write_json
from t2ibench.core.hashing import hash_file, hash_json
from t2ibench.data.records import (
    PreparedSplit,
    Record,
    fingerprint_of,
    read_records,
    unknown_split,
    write_records,
)
from t2ibench.data.shapes.captions import captions_of, parse, possible_words, words_of
from t2ibench.data.shapes.render import render
from t2ibench.data.shapes.scenes import check_holdout, sample_scene
from t2ibench.data.shapes.world import WORLD_VERSION, Scene, ShapesWorld

log = logging.getLogger(__name__)


class ShapesSource:
    """Scenes of the procedural world with their captions, in splits.

    Args:
        level: one level or several: ``"L1"``, ``"L1+L2"`` or ``["L1", "L2"]``.
        resolution: side of the images in pixels, 8 to 1024; graded at 32 to 128
            (``ShapesWorld``).
        num_train: images of ``train``.
        num_val: images of ``val``.
        num_test: images of ``test``, and of ``test_heldout`` where there is one.
        seed: of the data set; training seeds never change the data.
        cache_dir: folder of the cache; made when absent.
        holdout: ``iid``, or what to keep out of training (see ``scenes.holds_out``); then
            ``test_heldout`` shows only what was kept out, and the other splits nothing of it.
        captions_per_image: captions a record; the first is canonical and full.

    Raises:
        ConfigError: a level, hold-out, resolution or count is impossible.
    """

    def __init__(
        self,
        level: str | Sequence[str] = "L1",
        resolution: int = 32,
        num_train: int = 4000,
        num_val: int = 500,
        num_test: int = 500,
        seed: int = 0,
        cache_dir: str | Path = "data_cache/shapes",
        holdout: str = "iid",
        captions_per_image: int = 5,
    ) -> None:
        joined = level if isinstance(level, str) else "+".join(level)
        self.world = ShapesWorld(joined, resolution)
        check_holdout(self.world, holdout)
        self._counts = {"train": num_train, "val": num_val, "test": num_test}
        if holdout != "iid":
            self._counts["test_heldout"] = num_test
        counts = {"num_train": num_train, "num_val": num_val, "num_test": num_test}
        for key, count in (counts | {"captions_per_image": captions_per_image}).items():
            if count < 1:
                raise ConfigError(f"data.source.{key}={count} must be at least 1.")
        self.name = "shapes"
        self.resolution = resolution
        self.seed = seed
        self.holdout = holdout
        self.captions_per_image = captions_per_image
        self.splits = tuple(self._counts)
        self._cache_dir = Path(cache_dir)
        self._prepared: dict[str, PreparedSplit] = {}
        self.fingerprint = hash_json([self._identity(name) for name in self.splits])

    def split(self, name: str) -> PreparedSplit:
        """The split of that name, from the cache or rendered now.

        Raises:
            DataError: there is no such split.
        """
        if name not in self._counts:
            raise unknown_split("data=shapes", name, self.splits)
        if name not in self._prepared:
            stem = self._cache_dir / f"{name}-{hash_json(self._identity(name))}"
            found = _read(stem, f"shapes/{name}")
            self._prepared[name] = found or self._build(stem, name)
        return self._prepared[name]

    def count(self, name: str) -> int:
        """Images of a split; see ``DataSource``.

        Raises:
            DataError: there is no such split.
        """
        if name not in self._counts:
            raise unknown_split("data=shapes", name, self.splits)
        return self._counts[name]

    def split_fingerprint(self, name: str) -> str:
        """Content hash of the description that a split is rendered from; see ``DataSource``.

        Raises:
            DataError: there is no such split.
        """
        if name not in self._counts:
            raise unknown_split("data=shapes", name, self.splits)
        return hash_json(self._identity(name))

    def scenes(self, name: str) -> list[Scene]:
        """The scenes of a split, in order, without rendering."""
        return list(self._scenes(name))

    def captions_with_every_word(self, name: str) -> Iterator[str]:
        """Captions of a split's scenes, without rendering, up to the last new word of the world.

        Raises:
            DataError: there is no such split.
        """
        unseen = set(possible_words(self.world))
        for index, scene in enumerate(self._scenes(name)):
            for caption in self._captions(name, index, scene):
                unseen.difference_update(words_of(caption))
                yield caption
            if not unseen:
                return

    def _scenes(self, name: str) -> Iterator[Scene]:
        if name not in self._counts:
            raise unknown_split("data=shapes", name, self.splits)
        for index in range(self._counts[name]):
            yield sample_scene(self.world, self.seed, name, index, self.holdout)

    def _identity(self, name: str) -> dict[str, Any]:
        return {
            "version": WORLD_VERSION,
            "level": self.world.level,
            "resolution": self.resolution,
            "count": self._counts[name],
            "seed": self.seed,
            "holdout": self.holdout,
            "captions": self.captions_per_image,
            "split": name,
        }

    def _build(self, stem: Path, name: str) -> PreparedSplit:
        """Renders a split, writes it to the cache and reads it back as a memmap."""
        log.info("Rendering %d images of shapes/%s into %s.", self._counts[name], name, stem)
        scenes = self.scenes(name)
        side = self.resolution
        images = np.empty((len(scenes), 3, side, side), dtype=np.uint8)
        records = []
        for index, scene in enumerate(scenes):
            images[index] = render(scene, side)
            records.append(self._record(name, index, scene))
        with atomic_path(stem.with_name(f"{stem.name}.npy")) as aside:
            np.save(aside, images)
        with atomic_path(stem.with_name(f"{stem.name}.jsonl")) as aside:
            write_records(aside, records)
        seal = _hashes(stem) | {"content": fingerprint_of(images, records)}
        write_json(stem.with_name(f"{stem.name}.json"), seal | {"made_from": self._identity(name)})
        prepared = _read(stem, f"shapes/{name}")
        assert prepared is not None, "a split was written and cannot be read back"
        return prepared

    def _key(self, name: str, index: int) -> str:
        return f"shapes-{self.world.level}-s{self.seed}-{name}-{index:06d}"

    def _captions(self, name: str, index: int, scene: Scene) -> tuple[str, ...]:
        heldout = name == "test_heldout" and self.holdout == "paraphrase"
        return captions_of(scene, self._key(name, index), self.captions_per_image, heldout)

    def _record(self, name: str, index: int, scene: Scene) -> Record:
        key, captions = self._key(name, index), self._captions(name, index, scene)
        meta = {
            "source": "shapes",
            "licence": "Apache-2.0",
            "scene": scene.to_dict(),
            "parses": [parse(caption).to_dict() for caption in captions],
        }
        return Record(key=key, captions=captions, group=key, split=name, meta=meta)


def _hashes(stem: Path) -> dict[str, str]:
    return {
        suffix: hash_file(stem.with_name(f"{stem.name}.{suffix}")) for suffix in ("npy", "jsonl")
    }


def _read(stem: Path, name: str) -> PreparedSplit | None:
    """A cached split, or None where it is absent or is not what its seal says."""
    seal_path = stem.with_name(f"{stem.name}.json")
    if not seal_path.exists():
        return None
    try:
        seal = read_json(seal_path)
        whole = _hashes(stem) == {suffix: seal[suffix] for suffix in ("npy", "jsonl")}
        content = seal["content"]
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        log.warning("The cached split %s is corrupt; it is rendered again.", seal_path)
        return None
    images = np.load(stem.with_name(f"{stem.name}.npy"), mmap_mode="r", allow_pickle=False)
    records = read_records(stem.with_name(f"{stem.name}.jsonl"))
    return PreparedSplit(name, images, records, fingerprint=content)
