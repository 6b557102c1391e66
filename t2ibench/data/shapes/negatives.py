"""Hard negatives of the shapes world: captions with one attribute or relation changed.

Each is false wherever the true caption holds: the world's own parser reads both, and a change
that some scene could satisfy together with the caption is thrown away.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np

from t2ibench.core.hashing import derive_seed
from t2ibench.data.shapes.captions import NUMBERS, parse
from t2ibench.data.shapes.world import (
    BACKGROUNDS,
    COLOURS,
    OPPOSITE,
    ObjectPhrase,
    Parse,
    ShapesWorld,
)

_TOKENS = re.compile(r"\w+|\W+")
_OPPOSITE_WORDS = (("left", "right"), ("above", "below"), ("over", "under"), ("higher", "lower"))
_SIZE_WORDS = (("small", "large"), ("little", "big"), ("tiny", "huge"))


def hard_negatives(
    caption: str, world: ShapesWorld, count: int = 9, seed: int = 0
) -> tuple[str, ...]:
    """Captions that differ in one word, or in two exchanged ones, and contradict the caption.

    Kinds of change take turns (exchange, relation, colour, shape, size, number, background), so
    that no kind crowds out the others. The draw belongs to the caption and the seed.

    Args:
        caption: within the world's vocabulary.
        world: whose shapes and counts may be put in.
        count: at most so many.
        seed: of the draw.

    Raises:
        DataError: a caption outside the world's vocabulary.
    """
    truth = parse(caption)
    rng = np.random.default_rng(derive_seed("hard negatives", seed, caption))
    kinds: dict[str, list[str]] = {}
    for kind, changed in _changes(caption, world):
        kinds.setdefault(kind, []).append(changed)
    turns = [[found[i] for i in rng.permutation(len(found))] for found in kinds.values()]
    chosen: dict[Parse, str] = {}
    while len(chosen) < count and any(turns):
        for waiting in turns:
            while waiting and len(chosen) < count:
                changed = waiting.pop()
                meaning = parse(changed)
                if meaning not in chosen and contradict(truth, meaning):
                    chosen[meaning] = changed
                    break
    return tuple(chosen.values())


def contradict(one: Parse, other: Parse) -> bool:
    """True where no scene can satisfy both meanings.

    Example:
        >>> contradict(parse("a red circle"), parse("a blue circle"))
        True
        >>> contradict(parse("a red circle"), parse("a small red circle"))
        False
    """
    if None not in (one.background, other.background) and one.background != other.background:
        return True
    slots, others = _slots(one), _slots(other)
    if len(slots) != len(others):
        return True
    return not any(
        _agree(one, other, slots, [others[i] for i in order])
        for order in permutations(range(len(others)))
    )


def _slots(meaning: Parse) -> list[int]:
    return [i for i, phrase in enumerate(meaning.objects) for _ in range(phrase.count)]


def _agree(one: Parse, other: Parse, slots: list[int], others: list[int]) -> bool:
    """True where objects can satisfy both meanings, object k being slot k of both."""
    pairs = zip(slots, others, strict=True)
    if any(_clash(one.objects[i], other.objects[j]) for i, j in pairs):
        return False
    if one.relation is None or other.relation is None:
        return True
    subject, relation, _ = one.relation
    their_subject, their_relation, _ = other.relation
    same_way = slots.index(subject) == others.index(their_subject)
    return relation != (OPPOSITE[their_relation] if same_way else their_relation)


def _clash(one: ObjectPhrase, other: ObjectPhrase) -> bool:
    fields = ((one.shape, other.shape), (one.colour, other.colour), (one.size, other.size))
    return any(None not in pair and pair[0] != pair[1] for pair in fields)


def _changes(caption: str, world: ShapesWorld) -> Iterator[tuple[str, str]]:
    """Yields (kind, caption) for every word of a class replaced and every pair exchanged."""
    tokens = _TOKENS.findall(caption)
    words = [token.lower() for token in tokens]
    for kind, members in _classes(world):
        places = [i for i, word in enumerate(words) if word in members]
        for at in places:
            for rival in members:
                if rival != words[at]:
                    yield kind, "".join([*tokens[:at], rival, *tokens[at + 1 :]])
        for first, second in ((a, b) for a in places for b in places if a < b):
            if words[first] != words[second]:
                swapped = list(tokens)
                swapped[first], swapped[second] = tokens[second], tokens[first]
                yield "exchange", "".join(swapped)


def _classes(world: ShapesWorld) -> list[tuple[str, Sequence[str]]]:
    """Words that may stand for one another in a caption, by kind of change."""
    counts = range(2, world.max_count + 1)
    plurals = tuple("crosses" if shape == "cross" else f"{shape}s" for shape in world.shapes)
    return [
        *(("relation", pair) for pair in _OPPOSITE_WORDS),
        ("colour", tuple(COLOURS)),
        ("shape", world.shapes),
        ("shape", plurals),
        *(("size", pair) for pair in _SIZE_WORDS),
        ("number", tuple(NUMBERS[n - 1] for n in counts)),
        ("number", tuple(str(n) for n in counts)),
        ("background", tuple(BACKGROUNDS)),
    ]
