"""Pixels of an Iconify icon set: one picture an icon, cropped to what is drawn."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from t2ibench.core.errors import DataError
from t2ibench.data.resize import ResizeRecipe

RENDER_SIDE = 192
MARGIN = 0.06
RESOLUTIONS = (64, 32)


@dataclass(frozen=True)
class Icon:
    """One icon, its aliases resolved.

    Attributes:
        svg: a whole SVG document.
        turns: quarter turns clockwise after rendering.
        flip_x: mirrored left to right after the turns.
        flip_y: mirrored top to bottom after the turns.
    """

    svg: str
    turns: int
    flip_x: bool
    flip_y: bool


def find_icon(icon_set: Mapping[str, Any], name: str) -> Icon:
    """The icon ``name`` of an ``icons.json``.

    An alias points to its parent and adds turns and mirrorings; sizes not given by the icon
    are the set's.

    Raises:
        DataError: no such icon, or aliases in a circle.
    """
    turns, flip_x, flip_y = 0, False, False
    aliases, icons = icon_set.get("aliases", {}), icon_set["icons"]
    for _ in range(8):
        entry = icons.get(name) or aliases.get(name)
        if entry is None:
            break
        turns += entry.get("rotate", 0)
        flip_x ^= bool(entry.get("hFlip"))
        flip_y ^= bool(entry.get("vFlip"))
        if "body" in entry:
            box = [
                entry.get(side, icon_set.get(side, default))
                for side, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
            ]
            svg = (
                '<svg xmlns="http://www.w3.org/2000/svg" '
                'xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{" ".join(map(str, box))}" width="{box[2]}" height="{box[3]}">'
                f"{entry['body']}</svg>"
            )
            return Icon(svg, turns % 4, flip_x, flip_y)
        name = entry["parent"]
    raise DataError(f"the icon set {icon_set.get('prefix', '')!r} cannot resolve {name!r}.")


def render_icon(icon: Icon) -> dict[int, np.ndarray]:
    """Renders an icon at every resolution, on white.

    The drawing is cropped to its alpha bounding box and centred in a square with a margin of
    6% of its longer side: styles fill their canvas differently, and a model would learn the
    style from the scale.

    Returns:
        Resolution -> (3, resolution, resolution) uint8.

    Raises:
        DataError: the drawing cannot be rendered or shows nothing.
    """
    import resvg_py

    try:
        # System fonts would make the pixels depend on the machine.
        png = resvg_py.svg_to_bytes(
            svg_string=icon.svg, width=RENDER_SIDE, height=RENDER_SIDE, skip_system_fonts=True
        )
    except ValueError as error:
        raise DataError(f"the drawing cannot be rendered: {error}.") from error
    with Image.open(io.BytesIO(bytes(png))) as file:
        layer = file.convert("RGBA")
    if icon.turns:
        layer = layer.rotate(-90 * icon.turns, expand=True)
    if icon.flip_x:
        layer = layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if icon.flip_y:
        layer = layer.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    box = layer.getchannel("A").getbbox()
    if box is None:
        raise DataError("the drawing shows nothing.")
    layer = layer.crop(box)
    side = round(max(layer.size) * (1 + 2 * MARGIN))
    canvas = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    corner = ((side - layer.width) // 2, (side - layer.height) // 2)
    canvas.alpha_composite(layer, corner)
    picture = canvas.convert("RGB")
    images = {resolution: ResizeRecipe(resolution)(picture) for resolution in RESOLUTIONS}
    if min(int(image.max()) - int(image.min()) for image in images.values()) < 16:
        raise DataError("the drawing shows nothing on white.")
    return images
