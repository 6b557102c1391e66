"""Concepts that are drawn: base emoji with CLDR label and tags, and groups of near-twins.

A concept is one base emoji (no skin tone), identified by its code points without the
variation selector FE0F. Concepts that show nearly the same thing share a group, and no split
that promises unseen concepts tears a group apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from t2ibench.core.errors import DataError
from t2ibench.data.records import clean_caption

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Concept:
    """One base emoji.

    Attributes:
        key: code points in lower-case hex joined by ``-``, without FE0F.
        label: CLDR short name in plain words (``flag of France``).
        tags: CLDR keywords.
        name: the label as the packages spell it in file names, for joining.
    """

    key: str
    label: str
    tags: tuple[str, ...]
    name: str


def concept_key(code_points: str) -> str:
    """Key of an emoji: ``1F441-FE0F-200D-1F5E8`` becomes ``1f441-200d-1f5e8``."""
    return "-".join(part for part in code_points.lower().split("-") if part != "fe0f")


def join_name(name: str) -> str:
    """Letters and digits only, without accents: how labels and file names are compared."""
    plain = unicodedata.normalize("NFKD", name.lower()).replace("&", "and")
    return re.sub(r"[^a-z0-9]", "", plain)


def plain_label(label: str) -> str:
    """A CLDR label as words that a caption can hold.

    ``flag: France`` -> ``flag of France``, ``man: red hair`` -> ``man with red hair``,
    ``man: bald`` -> ``bald man``, ``keycap: 7`` -> ``keycap 7``; no colon and no quotation
    mark is left.

    Example:
        >>> plain_label("flag: France"), plain_label("man: red hair"), plain_label("man: bald")
        ('flag of France', 'man with red hair', 'bald man')
    """
    label = re.sub('[\u201c\u201d"\u2018]', "", label).replace("\u2019", "'")
    head, colon, tail = label.partition(": ")
    if colon:
        tail, aside, turn = tail.partition(": ")
        link = _LINKS.get(head, " with ")
        if tail == "bald":
            label = f"bald {head}"
        elif tail == "facing right":
            label = f"{head} facing right"
        else:
            label = head + link + tail
        label += f" {turn}" if aside else ""
    return clean_caption(label.replace(":", ""))


_LINKS = {
    "flag": " of ",
    "family": " of ",
    "couple with heart": " of ",
    "kiss": " of ",
    "keycap": " ",
}


def read_concepts(table: Iterable[Mapping[str, Any]]) -> dict[str, Concept]:
    """The base concepts of emojibase's ``data.json``, by key.

    Entries without a group (regional indicators, bare skin tones) are no pictures.

    Raises:
        DataError: the table has no usable entry or two entries with one label.
    """
    concepts: dict[str, Concept] = {}
    for entry in table:
        if "group" not in entry or entry["group"] == 2:
            continue
        key = concept_key(entry["hexcode"])
        tags = tuple(clean_caption(tag) for tag in entry.get("tags", ()))
        label = plain_label(entry["label"])
        concepts[key] = Concept(key, label, tags, join_name(entry["label"]))
    if not concepts:
        raise DataError("the label table holds no emoji; prepare the data set again.")
    labels = {concept.label for concept in concepts.values()}
    if len(labels) != len(concepts):
        raise DataError(f"{len(concepts)} emoji share {len(labels)} labels; they must differ.")
    return concepts


def join_icons(
    concepts: Mapping[str, Concept], parents: Mapping[str, str | None], chars: Mapping[str, str]
) -> dict[str, str]:
    """Icon name of each concept key, by code points where the package lists them, else by label.

    Two concepts that only their labels lead to one drawing are both left out: names have
    changed over the years, and one of the two would be a wrong caption.

    Args:
        concepts: by key.
        parents: the package's names; an alias -> the icon it stands for, an icon -> None.
        chars: the package's ``chars.json``: code points -> icon name; may be empty.
    """
    by_code = {concept_key(code): name for code, name in chars.items() if name in parents}
    by_name: dict[str, str] = {}
    for name in sorted(parents):
        by_name.setdefault(join_name(name), name)
    joined: dict[str, str] = {}
    takers: Counter[str] = Counter()
    for key, concept in concepts.items():
        icon = by_code.get(key) or by_name.get(concept.name)
        if icon:
            joined[key] = icon
            takers[parents[icon] or icon] += 1
    return {
        key: name
        for key, name in joined.items()
        if key in by_code or takers[parents[name] or name] == 1
    }


class UnionFind(Generic[T]):
    """Disjoint sets; the representative of a set is its least member."""

    def __init__(self, members: Iterable[T]) -> None:
        self._parent: dict[T, T] = {member: member for member in members}

    def find(self, member: T) -> T:
        """The representative of the set that holds ``member``."""
        while self._parent[member] != member:
            self._parent[member] = self._parent[self._parent[member]]
            member = self._parent[member]
        return member

    def union(self, first: T, second: T) -> None:
        """Merges the two sets."""
        low, high = sorted((self.find(first), self.find(second)))  # type: ignore[type-var]
        self._parent[high] = low


# Skin tones, the joiner, the two gender signs, and "facing right".
_DROPPED = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff", "200d", "2640", "2642", "27a1"}
_PERSON = {"1f468": "1f9d1", "1f469": "1f9d1"}

# Label patterns whose concepts differ by a colour, a direction or a phase only.
_COLOUR = "red|orange|yellow|green|blue|light blue|purple|brown|black|white|grey|pink"
_SIZE = "large|medium|medium-small|small"
_TWINS: tuple[tuple[str, str], ...] = (
    ("clock", r"(\w+ o'clock|\w+-thirty)"),
    ("keycap", r"keycap .+"),
    ("family", r"family( .*)?"),
    ("heart", rf"({_COLOUR}) heart"),
    ("circle", rf"({_COLOUR}) circle"),
    ("square", rf"({_COLOUR}) ({_SIZE} )?square( button)?"),
    ("diamond", r"(large|small) (orange|blue) diamond"),
    ("moon", r".*\bmoon( face)?"),
    (
        "arrow",
        r"(up|down|left|right|up-left|up-right|down-left|down-right|up-down|left-right) arrow",
    ),
    ("bent arrow", r"(right|left) arrow curving (left|right|up|down)"),
    ("pointing hand", r"backhand index pointing (up|down|left|right)"),
    ("pushing hand", r"(leftwards|rightwards) (pushing )?hand"),
    ("fist", r"(left|right)-facing fist"),
    ("book", rf"({_COLOUR}) book"),
    ("globe", r"globe showing .+"),
    ("mailbox", r"(open|closed) mailbox with (raised|lowered) flag"),
    ("speaker", r"(muted speaker|speaker (low|medium|high) volume)"),
    ("triangle", r"red triangle pointed (up|down)"),
    ("hands held", r"(people|women|men|woman and man) holding hands"),
    ("couple", r"couple with heart( of .+)?"),
    ("kiss", r"kiss( of .+)?"),
    ("glass", r"magnifying glass tilted (left|right)"),
    ("hourglass", r"hourglass( not)? done"),
    ("lock", r"(un)?locked"),
    ("double arrow", r"fast (forward|reverse|up|down).*"),
    ("triangle button", r"(upwards|downwards|play|reverse) button"),
)
_TWIN_PATTERNS = tuple((name, re.compile(pattern)) for name, pattern in _TWINS)


def twin_groups(concepts: Mapping[str, Concept]) -> UnionFind[str]:
    """Groups the concepts that differ by person, direction, colour, phase or "face" only.

    Identical drawings are merged into the same sets later, when they are rendered.
    """
    sets = UnionFind(concepts)
    first: dict[str, str] = {}
    by_label = {concept.label: key for key, concept in concepts.items()}
    for key in sorted(concepts):
        label = concepts[key].label
        parts = [_PERSON.get(part, part) for part in key.split("-") if part not in _DROPPED]
        names = ["-".join(parts)] if parts else []
        names += [name for name, pattern in _TWIN_PATTERNS if pattern.fullmatch(label)]
        for name in names:
            sets.union(key, first.setdefault(name, key))
        whole = by_label.get(label.removesuffix(" face"))
        if whole is not None:
            sets.union(key, whole)
    return sets
