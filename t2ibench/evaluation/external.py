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

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from safetensors import safe_open
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

Headers = dict[str, tuple[np.dtype, tuple[int, ...]]]
"""Type and shape of each array of a file."""


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
        sizes: of the images before they were brought to the size at which they are compared.
        left_out: sentences on what of the folder is not used, and why.
    """

    samples: SampleSet
    prompted: bool
    sizes: PictureSizes
    left_out: tuple[str, ...] = ()


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
    _check_images(path, {name: (array.dtype, array.shape) for name, array in arrays.items()})
    images = arrays["arr_0"]
    captions = _captions(path, arrays, len(images), prompts)
    pixels = np.stack([recipe(Image.fromarray(image)) for image in images])
    samples = _sample_set(torch.from_numpy(pixels), captions or [""] * len(images), path)
    return ExternalImages(samples, captions is not None, _sizes_of(images.shape))


def external_sizes(path: str | Path) -> PictureSizes | None:
    """Number and sizes of the images that a path holds, from headers alone; None for features.

    Raises:
        DataError: a file that cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return sizes_in(path)
    headers = _headers(path)
    if "features" in headers:
        return None
    _check_images(path, headers)
    return _sizes_of(headers["arr_0"][1])


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
    sizes = PictureSizes.of([image.size for image in images if image is not None])
    return ExternalImages(samples, bool(prompts or parts), sizes)


def _captioned_folder(folder: Path, recipe: ResizeRecipe, cache_dir: Path) -> ExternalImages:
    """The images of a captioned data set, and what of it is left out."""
    source = FolderSource(
        root=folder, resolution=recipe.resolution, filter=recipe.filter, cache_dir=cache_dir
    )
    whole = source.everything()
    captions = [record.captions[0] for record in whole.records]
    pixels, keys = whole.pixels(slice(None)), [record.key for record in whole.records]
    samples = _sample_set(pixels, captions, folder, keys)
    return ExternalImages(samples, True, sizes_in(folder), tuple(source.left_out()))


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
    with _plain_arrays(path):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                arrays = {name: file.get_tensor(name).float().numpy() for name in file.keys()}  # noqa: SIM118
                return arrays, str((file.metadata() or {}).get("extractor", ""))
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays, str(arrays["extractor"]) if "extractor" in arrays else ""


def _headers(path: Path) -> Headers:
    """Type and shape of a file's arrays, as ``_arrays`` reads them."""
    with _plain_arrays(path):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                shapes = [tuple(file.get_slice(name).get_shape()) for name in names]
            return {n: (np.dtype(np.float32), s) for n, s in zip(names, shapes, strict=True)}
        found: Headers = {}
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as array:
                    first = np.lib.format.read_magic(array) == (1, 0)
                    read = "read_array_header_1_0" if first else "read_array_header_2_0"
                    shape, _, dtype = getattr(np.lib.format, read)(array)
                found[name.removesuffix(".npy")] = (dtype, shape)
        return found


@contextmanager
def _plain_arrays(path: Path) -> Iterator[None]:
    """Turns errors of reading a file of arrays into one sentence.

    Raises:
        DataError: a file of another kind, or one that cannot be read.
    """
    if not path.is_file() or path.suffix not in (".npz", ".safetensors"):
        raise DataError(
            f"{path} is neither a run, a folder of images nor a .npz or .safetensors file."
        )
    try:
        yield
    except Exception as error:  # zipfile, numpy and safetensors each have errors of their own
        raise DataError(
            f"{path} cannot be read without unpickling ({error}); save plain arrays with "
            "numpy.savez or safetensors."
        ) from error


def _captions(
    path: Path, arrays: dict[str, np.ndarray], count: int, prompts: Sequence[Prompt]
) -> list[str] | None:
    """The images' captions: of the file, of the prompts, or None."""
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


def _check_images(path: Path, headers: Headers) -> None:
    """Refuses a file whose arrays hold no images.

    Raises:
        DataError: no ``arr_0``, or one that is not (N, H, W, 3) uint8.
    """
    if "arr_0" not in headers:
        raise DataError(
            f"{path} holds {', '.join(headers) or 'nothing'}; give arr_0 (images, (N, H, W, 3) "
            "uint8) or features ((N, D) floats)."
        )
    dtype, shape = headers["arr_0"]
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or not shape[0]:
        raise DataError(f"{path}: arr_0 must be (N, H, W, 3) uint8, not {dtype} {shape}.")


def _sizes_of(shape: tuple[int, ...]) -> PictureSizes:
    """Number and sizes of images in an array of shape (N, H, W, 3)."""
    return PictureSizes.of([(shape[2], shape[1])] * shape[0])


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
