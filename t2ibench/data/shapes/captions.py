"""Captions of a scene and their meanings: writer and parser.

``captions_of`` writes, ``parse`` reads back, ``satisfies`` compares a meaning with a scene:
for every caption c of a scene s, ``satisfies(parse(c), s)`` holds (a test keeps it so).
The parser is a lexicon, not a list of templates, so users may phrase prompts freely within
the vocabulary.
"""

from __future__ import annotations

import re
from itertools import permutations

import numpy as np

from t2ibench.core.errors import DataError
from t2ibench.core.hashing import derive_seed
from t2ibench.data.shapes.world import (
    BACKGROUNDS,
    COLOURS,
    OPPOSITE,
    SHAPES_64,
    ObjectPhrase,
    Parse,
    Relation,
    Scene,
    ShapesWorld,
    relation_holds,
)

NUMBERS = ("one", "two", "three", "four")
SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
}
RELATION_PHRASES: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "left of", "on the left side of"),
    "right": ("to the right of", "right of", "on the right side of"),
    "above": ("above", "higher than", "over"),
    "below": ("below", "lower than", "under"),
}
FORMS_WITH_BACKGROUND = (
    "{objects} on a {background} background",
    "{objects} against a {background} background",
    "{objects}, {background} background",
    "a {background} background with {objects}",
    "an image of {objects} on {background}",
    "a picture of {objects} on a {background} background",
)
FORMS_WITHOUT_BACKGROUND = ("{objects}", "a picture of {objects}", "an image of {objects}")
HELDOUT_FORMS_WITH_BACKGROUND = (
    "on a {background} backdrop, {objects}",
    "a drawing that shows {objects} before a {background} backdrop",
)
HELDOUT_FORMS_WITHOUT_BACKGROUND = ("a drawing that shows {objects}", "showing {objects}")

_FILLER = frozenset(
    re.findall(
        r"\w+",
        "a an the of on in with and is are there against before image picture drawing photo shape "
        "shapes that shows showing background backdrop gradient textured to side",
    )
)
_NUMBER_WORDS = {word: i + 1 for i, word in enumerate(NUMBERS)} | {
    str(i + 1): i + 1 for i in range(len(NUMBERS))
}
_SIZE_OF = {word: size for size, words in SIZE_WORDS.items() for word in words}
_SHAPE_OF = {shape: shape for shape in SHAPES_64}
_PLURAL = {"cross": "crosses"} | {s: f"{s}s" for s in SHAPES_64 if s != "cross"}
_SHAPE_OF |= {plural: shape for shape, plural in _PLURAL.items()}
_BACKGROUND_OF = {name: name for name in BACKGROUNDS} | {"gray": "grey"}
_RELATION_OF = sorted(
    ((phrase, name) for name, phrases in RELATION_PHRASES.items() for phrase in phrases),
    key=lambda item: -len(item[0]),
)


def words_of(caption: str) -> list[str]:
    """A caption's words in lower case."""
    return re.findall(r"[a-z0-9]+", caption.lower())


def possible_words(world: ShapesWorld) -> frozenset[str]:
    """Words that training captions of a world may have; a set of scenes may show fewer."""
    levels = set(world.levels)
    phrases = ["a", "an", *world.shapes, *COLOURS, *_BACKGROUND_OF, *_SIZE_OF]
    for form in (*FORMS_WITH_BACKGROUND, *FORMS_WITHOUT_BACKGROUND):
        phrases.append(form.format(objects="", background=""))
    if levels & {"L2", "L4"}:
        phrases += [phrase for phrases_of in RELATION_PHRASES.values() for phrase in phrases_of]
    if levels & {"L3", "L4"}:
        counts = range(2, world.max_count + 1)
        phrases += ["and", *(NUMBERS[n - 1] for n in counts), *map(str, counts)]
        phrases += [_PLURAL[shape] for shape in world.shapes]
    if "L4" in levels:
        phrases += ["gradient", "textured"]
    return frozenset(word for phrase in phrases for word in words_of(phrase))


def captions_of(scene: Scene, key: str, count: int = 5, heldout: bool = False) -> tuple[str, ...]:
    """Writes ``count`` captions; the first is canonical and says everything.

    Args:
        scene: what is shown.
        key: the image's key; wording is a pure function of (key, position).
        count: how many captions.
        heldout: draw from the templates that training never uses (all captions, the first
            too), for robustness to paraphrase.
    """
    captions = []
    for position in range(count):
        seed = derive_seed("caption", key, position, heldout)
        rng = np.random.Generator(np.random.Philox(key=seed))
        if position == 0 and not heldout:
            captions.append(canonical_caption(scene))
            continue
        captions.append(_write(scene, rng, heldout, full=position == 0))
    return tuple(captions)


def canonical_caption(scene: Scene) -> str:
    """The plain full caption: sizes, colours, counts, relation and background."""
    parse = meaning_of(scene)
    words = [_phrase(phrase, phrase.size, phrase.count) for phrase in parse.objects]
    backdrop = _background_words(scene, scene.backdrop.colour)
    return FORMS_WITH_BACKGROUND[0].format(
        objects=_join(words, scene.relation, RELATION_PHRASES, 0), background=backdrop
    )


def meaning_of(scene: Scene) -> Parse:
    """Everything that a caption could say of a scene, kinds counted in order."""
    kinds: dict[tuple[str, str, str], int] = {}
    for item in scene.objects:
        kind = (item.shape, item.colour, item.size)
        kinds[kind] = kinds.get(kind, 0) + 1
    phrases = tuple(ObjectPhrase(s, c, z, n) for (s, c, z), n in kinds.items())
    return Parse(phrases, scene.relation, scene.backdrop.colour)


def _write(scene: Scene, rng: np.random.Generator, heldout: bool, full: bool) -> str:
    """One caption with drawn wording; it may leave out sizes or the background."""

    def pick(count: int) -> int:
        return int(rng.random() * count)

    parse = meaning_of(scene)
    says_size = full or rng.random() < 0.7
    says_background = full or rng.random() < 0.7
    digits = rng.random() < 0.25
    words = []
    for phrase in parse.objects:
        size = SIZE_WORDS[phrase.size or "small"][pick(3)] if says_size else None
        words.append(_phrase(phrase, size, phrase.count, digits))
    relation = scene.relation
    if relation and rng.random() < 0.5:
        words.reverse()
        relation = (0, OPPOSITE[relation[1]], 1)
    objects = _join(words, relation, RELATION_PHRASES, pick(3))
    if says_background:
        full_forms = HELDOUT_FORMS_WITH_BACKGROUND if heldout else FORMS_WITH_BACKGROUND
        colour = scene.backdrop.colour
        colour = "gray" if colour == "grey" and rng.random() < 0.25 else colour
        background = _background_words(scene, colour)
        return full_forms[pick(len(full_forms))].format(objects=objects, background=background)
    forms = HELDOUT_FORMS_WITHOUT_BACKGROUND if heldout else FORMS_WITHOUT_BACKGROUND
    return forms[pick(len(forms))].format(objects=objects)


def _background_words(scene: Scene, colour: str) -> str:
    style = {"flat": "", "gradient": " gradient", "texture": " textured"}[scene.backdrop.style]
    return colour + style


def _phrase(phrase: ObjectPhrase, size: str | None, count: int, digits: bool = False) -> str:
    """Noun phrase: ``a large red star``, ``two blue circles``; the article agrees."""
    shape = phrase.shape or "shape"
    noun = shape if count == 1 else _PLURAL[shape]
    words = " ".join(word for word in (size, phrase.colour, noun) if word)
    if count > 1:
        return f"{count if digits else NUMBERS[count - 1]} {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _join(
    words: list[str], relation: Relation | None, phrases: dict[str, tuple[str, ...]], variant: int
) -> str:
    if relation:
        return f"{words[0]} {phrases[relation[1]][variant]} {words[1]}"
    return " and ".join(words)


def parse(caption: str) -> Parse:
    """Reads a caption's meaning.

    Args:
        caption: free wording within the world's vocabulary.

    Returns:
        The canonical parse.

    Raises:
        DataError: a word is not in the vocabulary, no shape is named, or a relation does not
            stand between two objects.

    Example:
        >>> parse("a small red circle to the left of a large blue star").relation
        (0, 'left', 1)
        >>> parse("a little red circle") == parse("a small red circle")
        True
    """
    text = f" {' '.join(words_of(caption))} "
    relation_name = None
    for phrase, name in _RELATION_OF:
        if f" {phrase} " in text:
            text = text.replace(f" {phrase} ", " | ", 1)
            relation_name = name
            break
    objects: list[ObjectPhrase] = []
    background = size = colour = None
    count, before_relation = 1, None
    for word in text.split():
        if word == "|":
            before_relation = len(objects)
        elif word in _NUMBER_WORDS:
            count = _NUMBER_WORDS[word]
        elif word in _SIZE_OF:
            size = _SIZE_OF[word]
        elif word in COLOURS:
            colour = word
        elif word in _BACKGROUND_OF:
            background = _BACKGROUND_OF[word]
        elif word in _SHAPE_OF:
            objects.append(ObjectPhrase(_SHAPE_OF[word], colour, size, count))
            size, colour, count = None, None, 1
        elif word not in _FILLER:
            raise DataError(f"The shapes world has no word {word!r} (in the caption {caption!r}).")
    if not objects:
        raise DataError(f"The caption {caption!r} names no shape of the shapes world.")
    if relation_name is None:
        return Parse(tuple(objects), None, background)
    if before_relation != 1 or len(objects) != 2:
        raise DataError(f"In {caption!r} the relation does not stand between two objects.")
    return Parse(tuple(objects), (0, relation_name, 1), background)


def satisfies(meaning: Parse, scene: Scene) -> bool:
    """True where a scene shows exactly what a caption asks for, no object more or less."""
    slots = [i for i, phrase in enumerate(meaning.objects) for _ in range(phrase.count)]
    if len(slots) != len(scene.objects):
        return False
    if meaning.background not in (None, scene.backdrop.colour):
        return False
    return any(_fits(meaning, scene, slots, order) for order in permutations(range(len(slots))))


def _fits(meaning: Parse, scene: Scene, slots: list[int], order: tuple[int, ...]) -> bool:
    """True where one assignment of scene objects to the caption's slots is right throughout."""
    place = {}
    for slot, position in zip(slots, order, strict=True):
        phrase, item = meaning.objects[slot], scene.objects[position]
        wanted = (
            (phrase.shape, item.shape),
            (phrase.colour, item.colour),
            (phrase.size, item.size),
        )
        if any(asked not in (None, seen) for asked, seen in wanted):
            return False
        place[slot] = item
    if meaning.relation is None:
        return True
    subject, relation, other = meaning.relation
    one, two = place[subject], place[other]
    return relation_holds(one.x - two.x, one.y - two.y, relation)
