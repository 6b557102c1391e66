"""A folder of pictures as the reference: what ``reference=FOLDER`` stands for, in overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2ibench.cli.compose import compose_spec
from t2ibench.core.errors import ConfigError
from t2ibench.data.pictures import PictureSizes
from t2ibench.engine.edits import rgb_picture
from t2ibench.evaluation.external import external_sizes

FOLDERS = "folders"
"""The protocol of two folders; it has no number of images of its own."""


def sizes_of(images: Any) -> PictureSizes:
    """Number and sizes of images, of a path or in memory.

    Raises:
        ConfigError: the path holds features.
    """
    if not isinstance(images, (str, Path)):
        return PictureSizes.of([rgb_picture(image).size for image in images])
    found = external_sizes(images)
    if found is None:
        raise ConfigError(f"{images} holds features; reference= needs the images.")
    return found


def reference_words(
    generated: PictureSizes, reference: str | Path, words: Sequence[str]
) -> list[str]:
    """Overrides under which images are compared with all pictures of a folder.

    The size is the one that the user typed, else the protocol's, else the generated images' own.

    Args:
        generated: number and sizes of the generated images.
        reference: the folder.
        words: the user's overrides, which come last.

    Raises:
        ConfigError: the reference is named twice, or its folder is not there.
    """
    typed = {word.split("=", 1)[0] for word in words}
    if "data" in typed:
        raise ConfigError("reference= and data= both name what is compared with; give one of them.")
    root = Path(reference).expanduser().resolve()
    if not root.is_dir():
        raise ConfigError(f"reference={reference} is no folder; give one with pictures.")
    found = ["data=pictures", f"data.root={root}"]
    side = generated.smallest
    if "protocol" not in typed or f"protocol={FOLDERS}" in words:
        found += [f"protocol={FOLDERS}", f"protocol.test.num_images={generated.count}"]
    else:
        chosen = [word for word in words if word.split("=", 1)[0].split(".")[0] == "protocol"]
        images = compose_spec(chosen).protocol.images
        side = images.resolution or side
        found += [f"data.source.filter={images.resize}"] if images.resize else []
    if "data.resolution" not in typed:
        found.append(f"data.resolution={side}")
    return [*found, *words]
