"""Protocols: which prompts, how many images, which seeds, against which reference.

A protocol fixes everything that two models must share to be comparable. Its prompts are
chosen by a hash of their keys: by rule, not by taste, and the same for every model.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast, get_args

from t2ibench.core.errors import ScoreError
from t2ibench.core.hashing import derive_seed
from t2ibench.core.noise import sample_seeds
from t2ibench.core.types import PixelImages
from t2ibench.data.records import DataSource, PreparedSplit, Record
from t2ibench.data.resize import Filter
from t2ibench.evaluation.samples import SampleSet
from t2ibench.metrics.alignment import DISTRACTORS

CaptionChoice = Literal["first", "seeded", "every"]

ReferenceRecords = Literal["auto", "disjoint", "shared"]

WHOLE_SPLIT = -1
"""A reference size: every image of the split."""


@dataclass(frozen=True)
class Prompts:
    """Prompts of a protocol, with the seed of each image.

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
    """Rules that two models must share to be comparable: prompts, N, seeds, reference.

    Attributes:
        name: as typed by the user (``protocol=quick``).
        split: the split whose captions are the prompts.
        num_images: N, images a model draws.
        sampling_seed: of the noise, and of a seeded caption.
        caption: which captions of a record are prompts: the first; one drawn by key; or every
            one, each a prompt of its own, for sets with fewer images than N.
        reference_split: the split whose real images the distances compare with; empty: the
            prompts' split.
        reference_size: M, how many of them; 0: N, as published comparisons have it; -1: all.
        reference_records: whether images of the prompts' own records may be among them.
            ``disjoint``: none, so that other real images of the prompts score what a perfect
            model does; ``shared``: as they come, as published comparisons have it; ``auto``:
            disjoint where the split is large enough, also for the R-precision that the protocol
            promises.
        resolution: side in pixels at which images are compared; 0: the data set's.
        crop: how a real image becomes a square (``centre``); empty: as the data set has it.
        resize: filter to that resolution (``lanczos``); empty: as the data set has it.
        extractor: key of the network that the distance must be measured with; empty: any.
        r_precision_folds: folds over which R-precision is also averaged; 0: none.
        memorisation: whether images are compared with their nearest training images.

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
    reference_records: ReferenceRecords = "auto"
    resolution: int = 0
    crop: str = ""
    resize: str = ""
    extractor: str = ""
    r_precision_folds: int = 0
    memorisation: bool = False

    def __post_init__(self) -> None:
        if self.num_images < 1 or self.reference_size < WHOLE_SPLIT:
            raise ScoreError(
                f"protocol.num_images={self.num_images} must be at least 1 and "
                f"protocol.reference_size={self.reference_size} at least 0 (0: as many), or "
                f"{WHOLE_SPLIT} (all)."
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

    def resolved(self, split: PreparedSplit) -> Protocol:
        """The protocol with ``reference_records`` decided for its reference split."""
        if self.reference_records != "auto":
            return self
        fits = self.reference_split != self.split or (
            self._prompt_records(len(split)) is not None and not self._loses_r_precision(split)
        )
        return replace(self, reference_records="disjoint" if fits else "shared")

    def _loses_r_precision(self, split: PreparedSplit) -> bool:
        """True where R-precision is promised and only a shared reference leaves its captions."""
        if not self.r_precision_folds:
            return False

        def suffices(records: ReferenceRecords) -> bool:
            captions = replace(self, reference_records=records).prompts(split).captions
            return len({caption.casefold() for caption in captions}) > DISTRACTORS

        return suffices("shared") and not suffices("disjoint")

    def first_reference(self, split: PreparedSplit) -> int:
        """Place in hashed order at which the reference begins: 0, or after the prompts' records.

        Raises:
            ScoreError: a disjoint reference is asked for and the split is too small for it.
        """
        return self.resolved(split).first_place(split.name, len(split))

    def first_place(self, name: str, size: int) -> int:
        """``first_reference`` of a reference split of which only its name and size are known."""
        if self.reference_split != self.split or self.reference_records == "shared":
            return 0
        records = self._prompt_records(size)
        if records is None and self.reference_records == "auto":
            return 0
        if records is None:
            raise ScoreError(
                f"split {name} has {size} images, too few for {self.num_images} "
                f"prompts and {self.reference_size} reference images that are not theirs; lower "
                "protocol.test.num_images and protocol.test.reference_size, prepare more data, or "
                "set protocol.test.reference_records=shared."
            )
        return records

    def _prompt_records(self, size: int) -> int | None:
        """Records that give the prompts beside a disjoint reference; None where they do not fit.

        As many as there are images to draw, or the half of the split where it has fewer than
        twice as many; prompts then repeat with new seeds.
        """
        half = min(self.num_images, size // 2)
        if self.reference_size == WHOLE_SPLIT:
            return half or None
        rest = size - self.reference_size
        return min(self.num_images, rest) if half and rest >= half else None

    def prompts(self, split: PreparedSplit) -> Prompts:
        """The protocol's prompts from its split.

        Where N exceeds the records for prompts (the split's, or those that a disjoint reference
        leaves), prompts repeat with new seeds and keep their key, so that intervals resample a
        prompt's images together.

        Raises:
            ScoreError: another split than the protocol's is given, or one that is too small.
        """
        if bare_name(split.name) != bare_name(self.split):
            raise ScoreError(
                f"protocol {self.name} draws prompts from split {self.split}, got {split.name}."
            )
        pool = self._pool(split)
        drawn = [pool[i % len(pool)] for i in range(self.num_images)]
        names = [
            name if i < len(pool) else f"{name}#{i // len(pool)}"
            for i, (name, _, _) in enumerate(drawn)
        ]
        return Prompts(
            tuple(index for _, index, _ in drawn),
            tuple(split.records[index].key for _, index, _ in drawn),
            tuple(caption for _, _, caption in drawn),
            tuple(sample_seeds(names, self.sampling_seed)),
        )

    def _pool(self, split: PreparedSplit) -> list[tuple[str, int, str]]:
        """Name, position and caption of each prompt of the split, in the order of a hash."""
        records, order = split.records, hashed_order(split)
        order = order[: self.first_reference(split) or len(order)]
        if self.caption != "every":
            return [(records[i].key, i, self._caption(records[i])) for i in order]
        named = [
            (f"{records[i].key}/{number}", i, caption)
            for i in order
            for number, caption in enumerate(records[i].captions)
        ]
        return sorted(named, key=lambda prompt: derive_seed("protocol", prompt[0]))

    def reference(self, split: PreparedSplit) -> tuple[int, ...]:
        """Positions of the M real images that the distances compare with.

        Raises:
            ScoreError: another split than the protocol's, or one with fewer than M images.
        """
        if bare_name(split.name) != bare_name(self.reference_split):
            raise ScoreError(
                f"protocol {self.name} compares with split {self.reference_split}, "
                f"got {split.name}."
            )
        first = self.first_reference(split)
        if self.reference_size == WHOLE_SPLIT:
            return tuple(hashed_order(split)[first:])
        return real_subset(split, first + self.reference_size)[first:]

    def check_source(self, source: DataSource) -> None:
        """Refuses a data set whose images were not made into squares as the protocol says.

        Raises:
            ScoreError: another resolution, crop or filter, or a data set that does not name them.
        """
        if self.resolution not in (0, source.resolution):
            raise ScoreError(
                f"protocol {self.name} compares images of {self.resolution} px, data "
                f"{source.name} has {source.resolution} px; set data.resolution={self.resolution} "
                "and train at it, or choose another protocol."
            )
        recipe = "-".join(part for part in (self.resize, self.crop) if part)
        own = getattr(source, "recipe", None)
        prepared = getattr(own, "name", "unknown")
        named = {"filter": self.resize, "crop": self.crop}
        if any(wanted and getattr(own, part, "") != wanted for part, wanted in named.items()):
            raise ScoreError(
                f"protocol {self.name} compares images prepared by {recipe}, data {source.name} "
                f"was prepared by {prepared}; prepare it so (for data=folder: "
                f"data.source.filter={self.resize} data.source.crop={self.crop}), or choose "
                "another protocol."
            )

    def check_alignment(self, judged: bool) -> None:
        """Refuses an evaluator without a dual encoder where R-precision is promised.

        Args:
            judged: whether the evaluator has one.

        Raises:
            ScoreError: it has none.
        """
        if self.r_precision_folds and not judged:
            raise ScoreError(
                f"protocol {self.name} promises R-precision (protocol.r_precision_folds="
                f"{self.r_precision_folds}) and the evaluator has no judge of alignment for this "
                "data; choose evaluator=published (its networks: `t2ibench fetch inception "
                "dinov2 clip_336 open_clip`) or one of evaluator/dual_encoder=[NAME], or set "
                "protocol.r_precision_folds=0."
            )

    @property
    def filter(self) -> Filter:
        """Filter of the resize recipe: ``bicubic`` where the protocol names none.

        Raises:
            ScoreError: it names one that is unknown.
        """
        if self.resize not in ("", *get_args(Filter)):
            raise ScoreError(
                f"protocol.images.resize={self.resize} is unknown; choose "
                f"{' or '.join(get_args(Filter))}."
            )
        return cast(Filter, self.resize or "bicubic")

    def check_extractors(self, keys: Collection[str]) -> None:
        """Refuses an evaluator without the network that the protocol's distance is named for.

        Raises:
            ScoreError: the protocol's extractor is not among them.
        """
        if self.extractor and self.extractor not in keys:
            raise ScoreError(
                f"protocol {self.name} measures with {self.extractor}, the evaluator has "
                f"{', '.join(keys) or 'no extractor'}; choose the evaluator that has it "
                "(evaluator=inception, evaluator=clean_fid)."
            )

    def check(self, samples: SampleSet) -> None:
        """Refuses a set that was not made under this protocol.

        Raises:
            ScoreError: another N, split or sampling seed.
        """
        if len(samples) != self.num_images:
            raise ScoreError(
                f"protocol {self.name} scores {self.num_images} images, the set has "
                f"{len(samples)}; scores at different N are not comparable (set "
                f"protocol.test.num_images={len(samples)} for every model, or sample again)."
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
    """The split alone: ``test`` of ``shapes/test`` and of ``shapes/test[:500]``.

    Example:
        >>> bare_name("shapes/test[:500]")
        'test'
    """
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
            "protocol.test.reference_size and protocol.test.num_images (protocol.front for val) "
            "or prepare more data."
        )
    return tuple(hashed_order(split)[:count])
