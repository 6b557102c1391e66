"""emoji_styles as a data source: the prepared folder under one of its two hold-outs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from t2ibench.core.errors import ConfigError, DataError
from t2ibench.core.files import read_json
from t2ibench.core.hashing import hash_file, hash_json
from t2ibench.data.emoji_styles.packages import LABELS, STYLES, Package
from t2ibench.data.emoji_styles.prepare import (
    DATASET_FILE,
    MANIFEST_FILE,
    images_file,
    recipe_fingerprint,
)
from t2ibench.data.emoji_styles.render import RESOLUTIONS
from t2ibench.data.emoji_styles.splits import HOLDOUTS
from t2ibench.data.records import PreparedSplit, Record, unknown_split


class EmojiStylesSource:
    """Drawn emoji in six styles (a ``DataSource``).

    Args:
        root: the folder that ``prepare_emoji_styles`` made.
        holdout: ``compose`` holds out pairs of concept and style, ``zeroshot`` concepts.
        resolution: 32 or 64 pixels.
        styles: the packages of drawings; part of the fingerprint.
        labels: the package of names; part of the fingerprint.

    Raises:
        ConfigError: another holdout or resolution.
    """

    splits: tuple[str, ...] = ("train", "val", "test")
    world: Any = None

    def __init__(
        self,
        root: str | Path,
        holdout: str = "compose",
        resolution: int = 32,
        styles: tuple[Package, ...] = STYLES,
        labels: Package = LABELS,
    ) -> None:
        if holdout not in HOLDOUTS:
            raise ConfigError(
                f"emoji_styles has no holdout {holdout!r}; give {' or '.join(HOLDOUTS)}."
            )
        if resolution not in RESOLUTIONS:
            raise ConfigError(
                f"emoji_styles is prepared at {' and '.join(map(str, RESOLUTIONS))} pixels, "
                f"not {resolution}; set data.resolution."
            )
        self.root = Path(root)
        self.holdout = holdout
        self.resolution = resolution
        # compose holds out cells of (group, style); zeroshot whole groups.
        self.groups_cross_splits = holdout == "compose"
        self.name = f"emoji_styles_{holdout}"
        self.recipe = recipe_fingerprint(styles, labels)
        self.fingerprint = hash_json([self.recipe, holdout, resolution])
        self._prepared: dict[str, PreparedSplit] = {}

    @cached_property
    def dataset(self) -> dict[str, Any]:
        """Content of ``dataset.json``.

        Raises:
            DataError: the folder is not prepared, or by another version.
        """
        command = "run `t2ibench data prepare emoji_styles`"
        if not (self.root / DATASET_FILE).exists():
            raise DataError(f"emoji_styles is not prepared under {self.root}: {command}.")
        dataset = read_json(self.root / DATASET_FILE)
        if dataset.get("recipe") != self.recipe:
            raise DataError(
                f"emoji_styles under {self.root} was prepared by recipe {dataset.get('recipe')}, "
                f"this version needs {self.recipe}: {command}."
            )
        return dataset

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        manifest = self.root / MANIFEST_FILE
        if not manifest.exists() or hash_file(manifest) != self.dataset["sha256"][MANIFEST_FILE]:
            raise DataError(
                f"{manifest} is not the one that was prepared: delete {self.root / DATASET_FILE} "
                "and run `t2ibench data prepare emoji_styles`."
            )
        lines = manifest.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    def count(self, name: str) -> int:
        """Images of a split; see ``DataSource``.

        Raises:
            DataError: there is no such split, or the folder is not prepared.
        """
        if name not in self.splits:
            raise unknown_split(self.name, name, self.splits)
        return sum(row["splits"][self.holdout] == name for row in self._rows)

    def captions_with_every_word(self, name: str) -> Iterator[str]:
        """Captions of a split, read without its images; see ``DataSource``.

        Raises:
            DataError: there is no such split, or the folder is not prepared.
        """
        if name not in self.splits:
            raise unknown_split(self.name, name, self.splits)
        for row in self._rows:
            if row["splits"][self.holdout] == name:
                yield from row["captions"]

    def split_fingerprint(self, name: str) -> str:
        """Content hash of a prepared split; see ``DataSource``.

        Raises:
            DataError: there is no such split, or the folder is not prepared.
        """
        if name not in self.splits:
            raise unknown_split(self.name, name, self.splits)
        made = [self.dataset["sha256"][f] for f in (MANIFEST_FILE, images_file(self.resolution))]
        return hash_json([self.recipe, self.holdout, self.resolution, name, made])

    def split(self, name: str) -> PreparedSplit:
        """``train``, ``val`` or ``test`` of the holdout, in memory.

        Raises:
            DataError: unknown name, or the folder is not prepared or damaged.
        """
        if name not in self.splits:
            raise unknown_split(self.name, name, self.splits)
        if name not in self._prepared:
            self._prepared[name] = self._read(name)
        return self._prepared[name]

    def _read(self, name: str) -> PreparedSplit:
        chosen, records = [], []
        for i, row in enumerate(self._rows):
            if row["splits"][self.holdout] == name:
                chosen.append(i)
                records.append(Record.from_dict({**row, "split": name}))
        path = self.root / images_file(self.resolution)
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read ({error}): delete {self.root / DATASET_FILE} and run "
                "`t2ibench data prepare emoji_styles`."
            ) from error
        if len(images) != len(self._rows):
            raise DataError(f"{path} holds {len(images)} images for {len(self._rows)} rows.")
        return PreparedSplit(f"{self.name}/{name}", np.ascontiguousarray(images[chosen]), records)
