"""External images or features, of any origin, as the evaluator reads them.

* a folder of images with captions (``metadata.jsonl``, csv, parquet, or a ``.txt`` beside each),
  or with a prompts file: image after image in the order of names, k of each prompt in a row;
* a folder of images without captions, for distances alone;
* GenEval's folders (``00000/metadata.jsonl`` and ``00000/samples/``);
* ``.npz`` with ``arr_0``, (N, H, W, 3) uint8, as ADM's evaluator reads it, and optionally
  ``captions``;
* ``.npz`` or ``.safetensors`` with ``features``, (N, D) floats, and optionally ``extractor``.

Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from t2ibench.core.errors import DataError, ScoreError
from t2ibench.core.hashing import derive_seed
from t2ibench.data.caption_cells import captions_in_cell
from t2ibench.data.captioned_files import Reading, list_captioned_files
from t2ibench.data.decode import Decoder, DecodeReport
from t2ibench.data.folder import FolderSource
from t2ibench.data.folder_files import key_of
from t2ibench.data.pictures import PictureSizes, pictures_in, sizes_in
from t2ibench.data.prompts import Prompt, read_prompts
from t2ibench.data.resize import ResizeRecipe
from t2ibench.evaluation.protocol import Protocol
from t2ibench.evaluation.samples import SampleSet


@dataclass(frozen=True)
class ExternalFeatures:
    """Features that were extracted elsewhere.

    Attributes:
        features: (N, D).
        extractor: the extractor that the file names, or empty.
    """

    features: Float[Tensor, "N D"]
    extractor: str


@dataclass(frozen=True)
class ExternalImages:
    """Images that were made elsewhere.

    Attributes:
        samples: the set; its captions are empty where they are unknown.
        prompted: whether the captions are known.
        left_out: how many images of the folder are left out and why; empty for none.
    """

    samples: SampleSet
    prompted: bool
    left_out: str = ""


def read_external(
    path: str | Path, recipe: ResizeRecipe, cache_dir: Path, prompts: Sequence[Prompt] = ()
) -> ExternalImages | ExternalFeatures:
    """Images or features, whichever the path holds.

    Args:
        path: a folder, ``.npz`` or ``.safetensors``.
        recipe: by which images are brought to the size at which they are compared.
        cache_dir: where decoded folders are kept.
        prompts: of images that carry no captions.

    Raises:
        DataError: neither, or a file that cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return read_folder(path, recipe, cache_dir, prompts)
    arrays, extractor = _arrays(path)
    if "features" in arrays:
        features = arrays["features"]
        if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
            raise DataError(
                f"{path}: features must be (N, D) floats, not {features.dtype} {features.shape}."
            )
        return ExternalFeatures(torch.from_numpy(features.astype(np.float32)), extractor)
    captions = _captions(path, arrays, prompts)
    pixels = _squares(path, arrays, recipe)
    samples = _sample_set(pixels, captions or [""] * len(pixels), path)
    return ExternalImages(samples, captions is not None)


def external_sizes(path: str | Path) -> PictureSizes | None:
    """Number and sizes of the images that a path holds; None for features.

    Raises:
        DataError: a file that cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return sizes_in(path)
    arrays, _ = _arrays(path)
    if "features" in arrays:
        return None
    images = _images(path, arrays)
    return PictureSizes.of([(images.shape[2], images.shape[1])] * len(images))


def read_folder(
    folder: Path, recipe: ResizeRecipe, cache_dir: Path, prompts: Sequence[Prompt] = ()
) -> ExternalImages:
    """A folder's images: with their captions, with the prompts of a file, or without any.

    Raises:
        DataError: no image, a count that prompts do not divide, or an image that cannot be read.
    """
    parts = sorted(
        p.parent for p in folder.glob("*/metadata.jsonl") if (p.parent / "samples").is_dir()
    )
    if not prompts and not parts and list_captioned_files(folder, Reading()).files:
        return _captioned_folder(folder, recipe, cache_dir)
    keys: list[str] | None = None
    if prompts or not parts:
        files = pictures_in(folder)
        captions = _spread(prompts, len(files), folder) if prompts else [""] * len(files)
        keys = None if prompts else [key_of(file, folder) for file in files]
    else:
        found = [
            (file, read_prompts(p / "metadata.jsonl")[0]) for p in parts for file in pictures_in(p)
        ]
        files, captions = [f for f, _ in found], [prompt.text for _, prompt in found]
    if not files:
        raise DataError(f"{folder} holds no picture; give a folder of PNG or JPEG files.")
    decoder, report = Decoder(policy="raise"), DecodeReport()
    images = [decoder(file, key_of(file, folder), report) for file in files]
    squares = np.stack([recipe(image) for image in images if image is not None])
    samples = _sample_set(torch.from_numpy(squares), captions, folder, keys)
    return ExternalImages(samples, bool(prompts or parts))


def _captioned_folder(folder: Path, recipe: ResizeRecipe, cache_dir: Path) -> ExternalImages:
    """The images of a captioned data set, and how many of them are left out."""
    source = FolderSource(
        root=folder, resolution=recipe.resolution, filter=recipe.filter, cache_dir=cache_dir
    )
    whole = source.everything()
    captions = [record.captions[0] for record in whole.records]
    pixels, keys = whole.pixels(slice(None)), [record.key for record in whole.records]
    report = source.report
    left = {
        "without a caption": len(report.without_caption),
        "missing": len(report.missing),
        "unreadable": len(report.decoding.refused),
    }
    left_out = ", ".join(f"{count} {why}" for why, count in left.items() if count)
    return ExternalImages(_sample_set(pixels, captions, folder, keys), True, left_out)


def fitted_rows(count: int, protocol: Protocol) -> list[int] | None:
    """The N of ``count`` rows that the protocol scores, chosen by a hash; None: all of them.

    Raises:
        ScoreError: fewer than N.
    """
    needed = protocol.num_images
    if count < needed:
        raise ScoreError(
            f"protocol {protocol.name} scores {needed} images, here are {count}; scores at "
            f"different N are not comparable: bring {needed}, or set "
            f"protocol.test.num_images={count}, whose scores stand in columns of their own."
        )
    if count == needed:
        return None
    order = sorted(range(count), key=lambda row: derive_seed("foreign subset", row))
    return sorted(order[:needed])


def _arrays(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """A file's arrays, and the extractor that it names."""
    if not path.is_file() or path.suffix not in (".npz", ".safetensors"):
        raise DataError(
            f"{path} is neither a run, a folder of images nor a .npz or .safetensors file."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                arrays = {name: file.get_tensor(name).float().numpy() for name in file.keys()}  # noqa: SIM118
                return arrays, str((file.metadata() or {}).get("extractor", ""))
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, numpy and safetensors each have errors of their own
        raise DataError(
            f"{path} cannot be read without unpickling ({error}); save plain arrays with "
            "numpy.savez or safetensors."
        ) from error
    return arrays, str(arrays["extractor"]) if "extractor" in arrays else ""


def _captions(
    path: Path, arrays: dict[str, np.ndarray], prompts: Sequence[Prompt]
) -> list[str] | None:
    """The images' captions: of the file, of the prompts, or None."""
    count = len(_images(path, arrays))
    if prompts:
        return _spread(prompts, count, path)
    if "captions" not in arrays:
        return None
    if len(arrays["captions"]) != count:
        raise DataError(f"{path} has {len(arrays['captions'])} captions for {count} images.")
    try:
        # UTF-8 where an array of bytes was saved; one caption an image, which may be empty.
        cells = [captions_in_cell(caption) for caption in arrays["captions"].tolist()]
    except DataError as error:
        raise DataError(f"{path} has captions={error}.") from error
    return [" ".join(cell) for cell in cells]


def _images(path: Path, arrays: dict[str, np.ndarray]) -> UInt8[np.ndarray, "N H W 3"]:
    """The images of a file's arrays."""
    if "arr_0" not in arrays:
        raise DataError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; give arr_0 (images, (N, H, W, 3) "
            "uint8) or features ((N, D) floats)."
        )
    images = arrays["arr_0"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise DataError(
            f"{path}: arr_0 must be (N, H, W, 3) uint8, not {images.dtype} {images.shape}."
        )
    return images


def _squares(
    path: Path, arrays: dict[str, np.ndarray], recipe: ResizeRecipe
) -> UInt8[Tensor, "N 3 side side"]:
    """Square pixels of a file's images by the data layer's recipe."""
    pictures = map(Image.fromarray, _images(path, arrays))
    return torch.from_numpy(np.stack([recipe(picture) for picture in pictures]))


def _spread(prompts: Sequence[Prompt], count: int, where: Path) -> list[str]:
    """Captions of all images: each prompt for its k images in a row."""
    if count == 0 or count % len(prompts):
        raise DataError(
            f"{where} has {count} images for {len(prompts)} prompts; it needs one of each prompt "
            "in the order of names, or the same number k of each in a row."
        )
    return [prompt.text for prompt in prompts for _ in range(count // len(prompts))]


def _sample_set(
    pixels: Tensor, captions: Sequence[str], where: Path, keys: Sequence[str] | None = None
) -> SampleSet:
    """A set whose images of one caption share a key, so that intervals resample them together."""
    named = keys or [caption or str(row) for row, caption in enumerate(captions)]
    return SampleSet(
        pixels, tuple(captions), tuple(named), tuple(range(len(pixels))), {"from": str(where)}
    )
