"""What `t2ibench sample RUN edit=…` was asked for, from typed options to an edit of N prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from t2ibench.cli.arguments import number
from t2ibench.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from t2ibench.core.edits import Edit
    from t2ibench.families.contract import TextToImageModule

OPTIONS = {
    "img2img": ("image", "strength"),
    "inpainting": ("image", "mask"),
    "outpainting": ("image", "sides"),
    "prompt_mixing": ("with", "switch", "by"),
    "interpolation": ("with", "weight"),
    "variations": ("image",),
    "image_interpolation": ("image", "other", "weight"),
    "upscaling": ("image",),
}
"""The options that each edit reads, ``by`` among them with a default."""

NAMES = tuple(dict.fromkeys(name for own in OPTIONS.values() for name in own))
"""Every option of any edit."""

DEFAULTS = {"by": "step"}

WITHOUT_PROMPT = ("variations", "image_interpolation", "upscaling")
"""Edits that make sense without words."""

Size = tuple[int, int]


def check_options(edit: str, options: Mapping[str, str]) -> None:
    """The edit is known and its options are all there, and no other edit's.

    Args:
        edit: as typed; empty: none.
        options: every option of any edit, empty where it was not typed.

    Raises:
        ConfigError: otherwise.
    """
    if edit and edit not in OPTIONS:
        raise ConfigError(f"edit={edit} is unknown; choose {', '.join(OPTIONS)}.")
    wanted = OPTIONS.get(edit, ())
    missing = [name for name in wanted if not options[name] and name not in DEFAULTS]
    if missing:
        raise ConfigError(f"edit={edit} needs {missing[0]}=…; it reads {', '.join(wanted)}.")
    surplus = [name for name, value in options.items() if value and name not in wanted]
    if surplus:
        readers = [name for name, own in OPTIONS.items() if surplus[0] in own]
        raise ConfigError(f"{surplus[0]}= is for edit={' and edit='.join(readers)}.")


def read_size(typed: str) -> Size | None:
    """``HEIGHTxWIDTH`` in pixels, or None where nothing was typed.

    Raises:
        ConfigError: not two positive numbers.
    """
    if not typed:
        return None
    parts = typed.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"size={typed} must be HEIGHTxWIDTH in pixels, for example size=64x96.")
    return int(parts[0]), int(parts[1])


def make_edit(
    edit: str,
    options: Mapping[str, str],
    module: TextToImageModule,
    count: int,
    size: Size | None,
    seed: int,
) -> Edit | None:
    """The edit of ``count`` prompts.

    Args:
        edit: as typed; empty: none.
        options: as typed.
        module: whose resolution an image is brought to.
        count: N.
        size: height and width that the image is brought to; None: the resolution.
        seed: of the sampling; a second image of an interpolation has the next one.

    Raises:
        ConfigError: a value out of range, or a mask of another size than its image.
        DataError: an image cannot be read.
    """
    from t2ibench.core import edits
    from t2ibench.core.noise import Noise, sample_seeds

    side = module.resolution
    if edit == "upscaling":
        side = getattr(getattr(module, "base", module), "resolution", side)
    size = size or (side, side)

    def image(name: str) -> torch.Tensor:
        return read_image(options[name], size, count)

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
            by = options["by"] or DEFAULTS["by"]
            return edits.PromptMixing(text, share("switch"), by)
        case "interpolation":
            text = module.encode_captions([options["with"]] * count)
            seeds = sample_seeds([f"{options['with']}#{i}" for i in range(count)], seed)
            return edits.Interpolation(text, Noise(seeds), share("weight"))
        case "variations":
            return edits.Variation(image("image"))
        case "image_interpolation":
            return edits.ImageInterpolation(image("image"), image("other"), share("weight"))
        case "upscaling":
            return edits.Upscaling(image("image"))
    return None


def read_sides(typed: str) -> tuple[int, int, int, int]:
    """Left, right, top, bottom in pixels.

    Raises:
        ConfigError: not four whole numbers.
    """
    parts = typed.split(",")
    if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
        raise ConfigError(f"sides={typed} must be LEFT,RIGHT,TOP,BOTTOM in pixels: sides=8,8,0,0.")
    left, right, top, bottom = (int(part) for part in parts)
    return left, right, top, bottom


def read_image(path: str, size: Size, count: int) -> torch.Tensor:
    """(N, 3, H, W) in [-1, 1]: the file's greatest centred part of that shape, N times.

    Raises:
        DataError: it cannot be read.
    """
    import torch
    from PIL import ImageOps
    from PIL.Image import Resampling

    fitted = ImageOps.fit(decoded(path), (size[1], size[0]), Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(fitted)).permute(2, 0, 1)
    return (pixels.float() / 127.5 - 1).expand(count, -1, -1, -1)


def read_mask(path: str, image: str, size: Size, count: int) -> torch.Tensor:
    """(N, 1, H, W) bool, True where the file is white, cut as its image is.

    Raises:
        ConfigError: it is not of the image's size.
        DataError: it cannot be read.
    """
    import torch
    from PIL import ImageOps
    from PIL.Image import Resampling

    mask = decoded(path)
    mask_size, image_size = mask.size, decoded(image).size
    if mask_size != image_size:
        raise ConfigError(
            f"mask={path} is {mask_size[1]}x{mask_size[0]} and image={image} is "
            f"{image_size[1]}x{image_size[0]}; draw the mask at the image's size, white where it "
            "is painted."
        )
    fitted = ImageOps.fit(mask.convert("L"), (size[1], size[0]), Resampling.NEAREST)
    return (torch.from_numpy(np.array(fitted)) > 127)[None, None].expand(count, -1, -1, -1)


def decoded(path: str) -> Image:
    """A picture in RGB.

    Raises:
        DataError: it cannot be read.
    """
    from t2ibench.data.decode import Decoder, DecodeReport

    if not Path(path).is_file():
        raise DataError(f"image {path} is not there; give the path of a picture.")
    whole = Decoder(policy="raise")(path, path, DecodeReport())
    assert whole is not None, "the policy raises"
    return whole
