"""Edits as users specify them: by name, with pictures as files or in memory.

``EDITS`` lists the options that each edit reads; ``make_edit`` makes the edit of N prompts that a
family's ``generate`` takes (``core/edits.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.Image import Resampling

from t2ibench.core import edits
from t2ibench.core.errors import ConfigError, DataError
from t2ibench.core.noise import SeededNoise, sample_seeds
from t2ibench.core.pixels import to_pixels
from t2ibench.data.decode import Decoder, DecodeReport
from t2ibench.families.contract import TextToImageModule

EDITS = {
    "img2img": ("image", "strength"),
    "inpainting": ("image", "mask"),
    "outpainting": ("image", "sides"),
    "prompt_mixing": ("with", "switch", "by"),
    "style_mixing": ("style", "switch"),
    "interpolation": ("with", "weight"),
    "variations": ("image",),
    "image_interpolation": ("image", "other", "weight"),
    "upscaling": ("image",),
}
"""Options that each edit reads; ``by`` and ``style`` have a default."""

OPTIONS = tuple(dict.fromkeys(name for own in EDITS.values() for name in own))
"""Names of all options of all edits."""

DEFAULTS = {"by": "", "style": "0"}
"""Values of options that are not given; ``by`` is the first of what the model can do."""

WITHOUT_PROMPT = ("variations", "image_interpolation", "upscaling")
"""Edits that need no prompt."""

Size = tuple[int, int]
Picture = str | Path | Image.Image | np.ndarray | torch.Tensor
"""A picture: a file, a PIL image, or a uint8 array of (H, W, 3) or (3, H, W)."""


def check_options(edit: str, options: Mapping[str, Any]) -> None:
    """Checks that the edit is known and that its options, and no others, are given.

    Args:
        edit: name of the edit; empty: none.
        options: the given options.

    Raises:
        ConfigError: an unknown edit, or an option missing or too many.
    """
    if edit and edit not in EDITS:
        raise ConfigError(f"edit={edit} is unknown; choose {', '.join(EDITS)}.")
    wanted = EDITS.get(edit, ())
    missing = [name for name in wanted if name not in options and name not in DEFAULTS]
    if missing:
        raise ConfigError(f"edit={edit} needs {missing[0]}=…; it reads {', '.join(wanted)}.")
    surplus = [name for name in options if name not in wanted]
    if surplus:
        readers = [name for name, own in EDITS.items() if surplus[0] in own]
        raise ConfigError(f"{surplus[0]}= is for edit={' and edit='.join(readers)}.")


def make_edit(
    edit: str,
    options: Mapping[str, Any],
    module: TextToImageModule,
    count: int,
    size: Size | None,
    seed: int,
) -> edits.Edit | None:
    """The edit of ``count`` prompts, or None.

    Args:
        edit: name of the edit; empty: none.
        options: the edit's options, checked.
        module: the model; images are resized to its resolution.
        count: N, number of prompts.
        size: height and width to which images are resized; None: the resolution.
        seed: seed of the sampling, from which an interpolation's second noise is derived.

    Raises:
        ConfigError: a value out of range, or a mask of another size than its image.
        DataError: an image cannot be read.
    """
    side = module.resolution
    if edit == "upscaling":
        side = getattr(module, "base", module).resolution
    size = size or (side, side)

    def image(name: str) -> torch.Tensor:
        return fitted_picture(options[name], size, count)

    def share(name: str) -> float:
        return number(name, options[name])

    match edit:
        case "img2img":
            return edits.ImageToImage(image("image"), share("strength"))
        case "inpainting":
            mask = read_mask(options["mask"], options["image"], size, count)
            return edits.Inpainting(image("image"), mask)
        case "outpainting":
            return edits.extended(image("image"), read_sides(options["sides"]))
        case "prompt_mixing":
            text = module.encode_captions([options["with"]] * count)
            by = options.get("by") or module.mixings[0]
            return edits.PromptMixing(text, share("switch"), by)
        case "style_mixing":
            # One second latent for all images, so that a sheet of them shows one style.
            style = options.get("style") or DEFAULTS["style"]
            seeds = sample_seeds([f"style {style}"], seed) * count
            return edits.StyleMixing(SeededNoise(seeds), share("switch"))
        case "interpolation":
            text = module.encode_captions([options["with"]] * count)
            seeds = sample_seeds([f"{options['with']}#{i}" for i in range(count)], seed)
            return edits.Interpolation(text, SeededNoise(seeds), share("weight"))
        case "variations":
            return edits.Variation(image("image"))
        case "image_interpolation":
            return edits.ImageInterpolation(image("image"), image("other"), share("weight"))
        case "upscaling":
            return edits.Upscaling(image("image"))
    return None


def pictures_of(edit: edits.Edit) -> dict[str, torch.Tensor]:
    """Pictures of an edit's first sample, by field: (3, H, W) uint8; a mask is white where True."""
    found = {}
    for field in fields(edit):
        value = getattr(edit, field.name)
        if isinstance(value, torch.Tensor):
            images = value.float() * 2 - 1 if value.dtype == torch.bool else value
            found[field.name] = to_pixels(images[:1].expand(-1, 3, -1, -1))[0].cpu()
    return found


def number(name: str, value: Any) -> float:
    """A number from an option's value; an error is one sentence."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name}={value} must be a number.") from None


def read_sides(given: str | Sequence[int]) -> tuple[int, int, int, int]:
    """Sides to extend by: left, right, top and bottom in pixels.

    Raises:
        ConfigError: not four whole numbers.
    """
    parts = given.split(",") if isinstance(given, str) else [str(side) for side in given]
    if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
        raise ConfigError(f"sides={given} must be LEFT,RIGHT,TOP,BOTTOM in pixels: sides=8,8,0,0.")
    left, right, top, bottom = (int(part) for part in parts)
    return left, right, top, bottom


def fitted_picture(picture: Picture, size: Size, count: int) -> torch.Tensor:
    """The greatest centred part of a picture in the given shape, N times: (N, 3, H, W) in [-1, 1].

    Raises:
        DataError: it cannot be read.
    """
    cut = ImageOps.fit(rgb_picture(picture), (size[1], size[0]), Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(cut)).permute(2, 0, 1)
    return (pixels.float() / 127.5 - 1).expand(count, -1, -1, -1)


def read_mask(mask: Picture, image: Picture, size: Size, count: int) -> torch.Tensor:
    """Mask (N, 1, H, W), True where the picture is white, cropped as its image is.

    Raises:
        ConfigError: it is not of the image's size.
        DataError: it cannot be read.
    """
    drawn, under = rgb_picture(mask), rgb_picture(image)
    if drawn.size != under.size:
        raise ConfigError(
            f"mask={picture_label(mask)} is {drawn.size[1]}x{drawn.size[0]} and "
            f"image={picture_label(image)} is {under.size[1]}x{under.size[0]}; draw the mask at "
            "the image's size, white where it is painted."
        )
    cut = ImageOps.fit(drawn.convert("L"), (size[1], size[0]), Resampling.NEAREST)
    return (torch.from_numpy(np.array(cut)) > 127)[None, None].expand(count, -1, -1, -1)


def rgb_picture(picture: Picture) -> Image.Image:
    """A picture as a PIL image in RGB.

    Raises:
        DataError: it cannot be read, or has another shape or type.
    """
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if isinstance(picture, (str, Path)):
        if not Path(picture).is_file():
            raise DataError(f"image {picture} is not there; give the path of a picture.")
        whole = Decoder(policy="raise")(picture, str(picture), DecodeReport())
        assert whole is not None, "the policy raises"
        return whole
    array = np.asarray(picture.cpu() if isinstance(picture, torch.Tensor) else picture)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[-1] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3):
        raise DataError(
            f"a picture is {array.dtype} {array.shape}; give (H, W, 3) or (3, H, W) uint8."
        )
    return Image.fromarray(np.broadcast_to(array, (*array.shape[:2], 3)).copy())


def picture_label(picture: Picture) -> str:
    """Description of a picture for an error: its path, or that it has none."""
    return str(picture) if isinstance(picture, (str, Path)) else "(in memory)"
