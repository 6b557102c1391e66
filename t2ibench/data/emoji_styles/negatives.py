"""Hard negatives of emoji_styles: the same picture asked for in each other style."""

from __future__ import annotations

from t2ibench.data.emoji_styles.captions import parse_caption
from t2ibench.data.emoji_styles.packages import STYLES

STYLE_NAMES = tuple(sorted({package.style for package in STYLES}))


def style_negatives(caption: str) -> tuple[str, ...]:
    """The caption with each other style; none where the style cannot be read or stands twice.

    A drawing has one style, so none of them is true of it.
    """
    found = parse_caption(caption, STYLE_NAMES)
    if found is None or caption.count(found[0]) != 1:
        return ()
    return tuple(caption.replace(found[0], other) for other in STYLE_NAMES if other != found[0])
