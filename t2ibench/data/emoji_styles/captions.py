"""Captions of emoji_styles: a style and a label in a few fixed forms, and their parse.

Every caption names both, so what is asked can always be read back: a picture of the label,
drawn in the style.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from t2ibench.data.emoji_styles.concepts import Concept

_FORMS = (
    "{label}, {style} style",
    "a {style} emoji of {label}",
    "{style} drawing of {label}",
    "an icon showing {label} in {style} style",
)
_TAGGED = "{label}, {style} style: {tags}"


def captions_of(concept: Concept, style: str) -> tuple[str, ...]:
    """The captions of one drawing; the first is the one used in evaluation.

    The last carries up to two tags that add something to the label.
    """
    captions = [form.format(label=concept.label, style=style) for form in _FORMS]
    words = set(concept.label.lower().split())
    tags = [tag for tag in concept.tags if not set(tag.lower().split()) <= words][:2]
    if tags:
        captions.append(_TAGGED.format(label=concept.label, style=style, tags=", ".join(tags)))
    return tuple(captions)


def parse_caption(caption: str, styles: Sequence[str]) -> tuple[str, str] | None:
    """Style and label of a caption of this data set; None for any other sentence."""
    style = "|".join(map(re.escape, styles))
    patterns = (
        rf"an icon showing (?P<label>.+) in (?P<style>{style}) style",
        rf"a (?P<style>{style}) emoji of (?P<label>.+)",
        rf"(?P<style>{style}) drawing of (?P<label>.+)",
        rf"(?P<label>.+), (?P<style>{style}) style(?:: .+)?",
    )
    for pattern in patterns:
        match = re.fullmatch(pattern, caption)
        if match:
            return match["style"], match["label"]
    return None
