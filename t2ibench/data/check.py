"""Checks of ``t2ibench data check``: the promises that every source makes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field

from t2ibench.core.errors import DataError
from t2ibench.data.records import DataSource, PreparedSplit, clean_caption


@dataclass
class SourceReport:
    """The outcome of a check; ``str()`` prints it.

    Attributes:
        name: of the source.
        counts: split -> images.
        problems: broken promises, one sentence each; empty is good.
        notes: what a reader may want to know and what breaks nothing.
    """

    name: str
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True where no promise is broken."""
        return not self.problems

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        lines = [f"{self.name}: {counts or 'no images'}"]
        lines += [f"  problem: {problem}" for problem in self.problems]
        lines += [f"  note: {note}" for note in self.notes]
        lines.append("  ok" if self.ok else f"  {len(self.problems)} problems")
        return "\n".join(lines)


def check_source(source: DataSource) -> SourceReport:
    """Reads every split and checks keys, captions, groups and rasters.

    Keys are unique over all splits, every image has a caption, captions are clean (NFC, no
    control characters, not empty), and no identical image is in two splits. Groups must not
    cross splits unless the source says ``groups_cross_splits = True`` (a protocol that holds
    out combinations, and not groups). The procedural world is exempt from the last two: with
    few factors it draws the same picture twice by design, and its hold-outs are by factor.
    """
    report = SourceReport(source.name)
    splits: dict[str, PreparedSplit] = {}
    for name in source.splits:
        try:
            splits[name] = source.split(name)
        except DataError as error:
            report.problems.append(str(error))
            continue
        report.counts[name] = len(splits[name])
        if splits[name].resolution != source.resolution:
            report.problems.append(
                f"{name} has {splits[name].resolution} px images, the source says "
                f"{source.resolution}."
            )
        _check_captions(name, splits[name], report)
    report.notes += left_out(source)
    _check_keys(splits, report)
    crossing = bool(getattr(source, "groups_cross_splits", False))
    procedural = source.world is not None
    _check_groups(splits, report, crossing or procedural)
    _check_rasters(splits, report, procedural)
    return report


def left_out(source: DataSource) -> list[str]:
    """Sentences on what a source does not use of what it was given; of some sources none."""
    tell = getattr(source, "left_out", None)
    return [] if tell is None else [f"left out: {sentence}" for sentence in tell()]


def _check_captions(name: str, split: PreparedSplit, report: SourceReport) -> None:
    bare = [r.key for r in split.records if not r.captions]
    unclean = [
        r.key for r in split.records if any(not c or clean_caption(c) != c for c in r.captions)
    ]
    if bare:
        report.problems.append(f"{name}: {len(bare)} images have no caption{_first(bare)}.")
    if unclean:
        report.problems.append(
            f"{name}: {len(unclean)} images have an empty caption or one with control "
            f"characters, stray spaces or decomposed letters{_first(unclean)}."
        )
    total = sum(len(r.captions) for r in split.records)
    if split.records:
        report.notes.append(f"{name}: {total / len(split):.1f} captions an image")


def _check_keys(splits: dict[str, PreparedSplit], report: SourceReport) -> None:
    seen: set[str] = set()
    twice: list[str] = []
    for split in splits.values():
        for record in split.records:
            if record.key in seen:
                twice.append(record.key)
            seen.add(record.key)
    if twice:
        report.problems.append(f"{len(twice)} keys occur more than once{_first(twice)}.")


def _check_groups(splits: dict[str, PreparedSplit], report: SourceReport, may_cross: bool) -> None:
    where: dict[str, set[str]] = defaultdict(set)
    for name, split in splits.items():
        for record in split.records:
            where[record.group].add(name)
    torn = sorted(group for group, names in where.items() if len(names) > 1)
    if torn and may_cross:
        report.notes.append(f"{len(torn)} of {len(where)} groups are in several splits by design")
    elif torn:
        report.problems.append(f"{len(torn)} groups are in more than one split{_first(torn)}.")


def _check_rasters(
    splits: dict[str, PreparedSplit], report: SourceReport, may_repeat: bool
) -> None:
    where: dict[bytes, dict[str, str]] = defaultdict(dict)
    repeated = 0
    for name, split in splits.items():
        for image, record in zip(split.images, split.records, strict=True):
            digest = hashlib.sha256(image.tobytes()).digest()
            repeated += name in where[digest]
            where[digest].setdefault(name, record.key)
    shared = [names for names in where.values() if len(names) > 1]
    if shared:
        pair = " and ".join(list(shared[0].values())[:2])
        sentence = f"{len(shared)} identical images are in more than one split (first: {pair})"
        if may_repeat:
            report.notes.append(f"{sentence}, drawn twice by chance")
        else:
            report.problems.append(f"{sentence}.")
    if repeated:
        report.notes.append(f"{repeated} images repeat another of their own split")


def _first(keys: list[str]) -> str:
    return f" (first: {', '.join(keys[:3])})"
