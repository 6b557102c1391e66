"""Protocols: which prompts, how many images, which seeds, against which reference.

A protocol fixes everything that two models must share to be comparable. Its prompts are
chosen by a hash of their keys: by rule, not by taste, and the same for every model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from t2ibench.core.errors import ScoreError
from t2ibench.core.hashing import derive_seed
from t2ibench.core.noise import sample_seeds
from t2ibench.core.types import PixelImages
from t2ibench.data.records import PreparedSplit, Record
from t2ibench.evaluation.samples import SampleSet

CaptionChoice = Literal["first", "seeded"]


@dataclass(frozen=True)
class Prompts:
    """What a model is asked to draw.

    Attributes:
        indices: position of each prompt's real image in the split.
        keys: prompt keys.
        captions: prompts.
        seeds: per-sample seeds, a function of the prompt's key and the sampling seed.
    """

    indices: tuple[int, ...]
    keys: tuple[str, ...]
    captions: tuple[str, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def answered_by(self, pixels: PixelImages, meta: dict[str, Any] | None = None) -> SampleSet:
        """The sample set of images drawn (or reconstructed) for these prompts."""
        return SampleSet(pixels, self.captions, self.keys, self.seeds, meta or {})


@dataclass(frozen=True)
class Protocol:
    """How images are asked for and judged.

    Attributes:
        name: as typed by the user (``protocol=quick``).
        split: the split whose captions are the prompts.
        num_images: N, images a model draws.
        sampling_seed: of the noise, and of a seeded caption.
        caption: which caption of a record is its prompt: the first, or one drawn by key.
        reference_split: the split whose real images the distances compare with; empty: the
            prompts' split.
        reference_size: M, how many of them; 0: N, as published comparisons have it.

    Raises:
        ScoreError: sizes that are not positive, or an unknown caption choice.
    """

    name: str
    split: str
    num_images: int
    sampling_seed: int
    caption: CaptionChoice = "first"
    reference_split: str = ""
    reference_size: int = 0

    def __post_init__(self) -> None:
        if self.num_images < 1 or self.reference_size < 0:
            raise ScoreError(
                f"protocol.num_images={self.num_images} must be at least 1 and "
                f"protocol.reference_size={self.reference_size} at least 0 (0: as many)."
            )
        if self.caption not in get_args(CaptionChoice):
            raise ScoreError(
                f"protocol.caption={self.caption} is unknown; choose "
                f"{' or '.join(get_args(CaptionChoice))}."
            )
        object.__setattr__(self, "reference_split", self.reference_split or self.split)
        object.__setattr__(self, "reference_size", self.reference_size or self.num_images)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)

    def prompts(self, split: PreparedSplit) -> Prompts:
        """The protocol's prompts from its split.

        Where N exceeds the split, prompts repeat with new seeds and keep their key, so that
        intervals resample a prompt's images together.

        Raises:
            ScoreError: another split than the protocol's is given.
        """
        if bare_name(split.name) != bare_name(self.split):
            raise ScoreError(
                f"protocol {self.name} draws prompts from split {self.split}, got {split.name}."
            )
        order = hashed_order(split)
        indices = [order[i % len(order)] for i in range(self.num_images)]
        records = [split.records[i] for i in indices]
        names = [
            record.key if i < len(order) else f"{record.key}#{i // len(order)}"
            for i, record in enumerate(records)
        ]
        return Prompts(
            tuple(indices),
            tuple(record.key for record in records),
            tuple(self._caption(record) for record in records),
            tuple(sample_seeds(names, self.sampling_seed)),
        )

    def reference(self, split: PreparedSplit) -> tuple[int, ...]:
        """Which M real images the distances compare with.

        Raises:
            ScoreError: another split than the protocol's, or one with fewer than M images.
        """
        if bare_name(split.name) != bare_name(self.reference_split):
            raise ScoreError(
                f"protocol {self.name} compares with split {self.reference_split}, "
                f"got {split.name}."
            )
        return real_subset(split, self.reference_size)

    def check(self, samples: SampleSet) -> None:
        """Refuses a set that was not made under this protocol.

        Raises:
            ScoreError: another N, split or sampling seed.
        """
        if len(samples) != self.num_images:
            raise ScoreError(
                f"protocol {self.name} scores {self.num_images} images, the set has "
                f"{len(samples)}; scores at different N are not comparable (set "
                f"protocol.num_images={len(samples)} for every model, or sample again)."
            )
        made = samples.meta.get("protocol", {})
        for field in ("split", "sampling_seed", "caption"):
            if field in made and made[field] != getattr(self, field):
                raise ScoreError(
                    f"the set was sampled with protocol.{field}={made[field]}, the protocol "
                    f"{self.name} says {getattr(self, field)}; sample again."
                )

    def _caption(self, record: Record) -> str:
        if self.caption == "first":
            return record.captions[0]
        drawn = derive_seed("prompt caption", self.sampling_seed, record.key)
        return record.captions[drawn % len(record.captions)]


def bare_name(split: str) -> str:
    """The split alone: ``test`` of ``shapes/test`` and of ``shapes/test[:500]``."""
    return split.rsplit("/", 1)[-1].split("[", 1)[0]


def hashed_order(split: PreparedSplit) -> list[int]:
    """Positions of a split in the order of a hash of their keys."""
    return sorted(range(len(split)), key=lambda i: derive_seed("protocol", split.records[i].key))


def real_subset(split: PreparedSplit, count: int) -> tuple[int, ...]:
    """The first ``count`` positions in hashed order.

    Raises:
        ScoreError: the split has fewer images.
    """
    if len(split) < count:
        raise ScoreError(
            f"split {split.name} has {len(split)} images and {count} are asked for; lower "
            "protocol.reference_size (and protocol.num_images) or prepare more data."
        )
    return tuple(hashed_order(split)[:count])
