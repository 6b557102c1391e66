"""Published CLIP models, as dual encoders and as feature extractors.

Weights come from this machine only: a folder in transformers' format, or an open_clip
checkpoint with the name of its architecture; given, named by the environment, or put there by
``t2ibench fetch``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import interpolate

from t2ibench.core.errors import CheckpointError, ConfigError, first_line
from t2ibench.core.hashing import hash_file
from t2ibench.core.types import Images, PixelImages
from t2ibench.metrics.causal_text import encode_to_end_token, text_features
from t2ibench.metrics.extractors.contract import FeatureExtractor
from t2ibench.metrics.extractors.published import (
    CLIP_L14,
    CLIP_L14_336,
    OPEN_CLIP_B32,
    PUBLISHED,
    PublishedWeights,
)

UNREADABLE = (
    OSError, EOFError, RuntimeError, ValueError, KeyError, SafetensorError, UnpicklingError
)  # fmt: skip
"""Errors of the libraries' readers for files that hold something else."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel statistics of CLIP's training images (Radford et al. 2021, released code)."""


def resize_and_crop(pixels: PixelImages, size: int) -> UInt8[Tensor, "B 3 side side"]:
    """Preprocesses as CLIP does: shorter side to ``size`` by PIL's bicubic filter, centre crop.

    Args:
        pixels: (B, 3, H, W) uint8.
        size: side of the square.

    Returns:
        (B, 3, size, size) uint8.
    """
    from PIL import Image

    height, width = pixels.shape[-2:]
    if (height, width) == (size, size):
        return pixels
    short = min(height, width)
    new_height, new_width = size * height // short, size * width // short
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    resized = []
    for image in pixels.permute(0, 2, 3, 1).cpu().numpy():
        picture = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BICUBIC)
        resized.append(np.asarray(picture)[top : top + size, left : left + size])
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(pixels.device)


class ClipTowers(FeatureExtractor):
    """Image and caption towers of one CLIP; features are not normalised."""

    size: int
    context_length: int

    @property
    def kernel_distance_name(self) -> str:
        """Name of its kernel distance: ``cmmd`` with the published ViT-L/14 at 336 px alone."""
        return "cmmd-style"

    @property
    def normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and deviation by channel, in [0, 1]."""
        return MEAN, STD

    def images(self, pixels: PixelImages) -> Float[Tensor, "B 3 side side"]:
        """Resized, cropped and normalised pixels."""
        device = next(self.parameters()).device
        return self.normalised(resize_and_crop(pixels, self.size).to(device).float() / 255)

    def normalised(self, images: Images) -> Float[Tensor, "B 3 H W"]:
        """Input of the network for images in [0, 1]."""
        mean, std = (
            torch.tensor(v, device=images.device)[:, None, None] for v in self.normalisation
        )
        return (images - mean) / std

    def embed(self, images: Images) -> Float[Tensor, "B D"]:
        """Features of images in [-1, 1], with gradients to them.

        They are resized by an antialiased bicubic filter in floats, in place of Pillow's in bytes:
        features of what is scored come from ``forward``.
        """
        size, short = self.size, min(images.shape[-2:])
        sides = [size * side // short for side in images.shape[-2:]]
        scaled = interpolate(images, size=sides, mode="bicubic", antialias=True)
        top, left = (round((side - size) / 2) for side in sides)
        cut = scaled[..., top : top + size, left : left + size]
        return self.projected(self.normalised((cut + 1) / 2))

    @abstractmethod
    def projected(self, scaled: Float[Tensor, "B 3 side side"]) -> Float[Tensor, "B D"]:
        """Projected image features of the network's input."""

    def forward(self, pixels: PixelImages) -> Float[Tensor, "B D"]:
        """Projected image features."""
        return self.projected(self.images(pixels))

    def image_features(self, pixels: PixelImages) -> Float[Tensor, "B D"]:
        """Embeds (B, 3, H, W) uint8 images as (B, D), on the CPU."""
        return self.features(pixels)

    @abstractmethod
    def encode_captions(self, captions: list[str]) -> Float[Tensor, "B D"]:
        """Embeds one batch of captions; those over the context keep their end token."""

    @abstractmethod
    def caption_lengths(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption before any cut, with start and end."""

    def text_features(self, captions: Sequence[str]) -> Float[Tensor, "B D"]:
        """Embeds B captions as (B, D), on the CPU."""
        self.eval()
        return text_features(self.encode_captions, captions, self.batch_size, self.width)


class TransformersClip(ClipTowers):
    """A CLIP in transformers' folder format.

    Args:
        folder: with config.json, weights and tokenizer; None: the one that the environment
            names (``T2IBENCH_CLIP``), else the one that ``t2ibench fetch`` put.
        name: as the scores' keys say it; None: that of the fetched weights, or the folder's.
        published: the weights that are meant where no folder is given, as ``t2ibench fetch``
            calls them.

    Raises:
        ConfigError: ``t2ibench fetch`` knows no such weights.
        MissingWeightsError: no folder is given, or it has no config.json.
        CheckpointError: the folder holds no whole CLIP.

    Source: Radford et al. (2021), "Learning transferable visual models", section 2.4.
    Differs: none.
    """

    weights_argument: ClassVar[str] = "folder"

    def __init__(
        self,
        folder: str | Path | None = None,
        name: str | None = None,
        published: str = CLIP_L14.name,
    ) -> None:
        super().__init__()
        path = self.weights_of(published=published).locate(folder)
        self.model, self.tokenizer = load_transformers_clip(path)
        self.model.eval().requires_grad_(False)
        self.name = name or name_of(path, published)
        self._folder = path
        config: Any = self.model.config
        self.width = int(config.projection_dim)
        self.size = int(config.vision_config.image_size)
        self.context_length = int(config.text_config.max_position_embeddings)
        self.preprocessing = f"pil-bicubic-{self.size}"

    @staticmethod
    def weights_of(**arguments: Any) -> PublishedWeights:
        """Entry of the published weights that the arguments mean.

        Raises:
            ConfigError: ``t2ibench fetch`` knows no such weights.
        """
        named = arguments.get("published", CLIP_L14.name)
        if named not in PUBLISHED:
            raise ConfigError(f"published={named} is unknown; choose {', '.join(PUBLISHED)}.")
        return PUBLISHED[named]

    @cached_property
    def kernel_distance_name(self) -> str:  # type: ignore[override]
        """``cmmd`` where the file is OpenAI's ViT-L/14 at 336 px, else ``cmmd-style``.

        Source: Jayasumana et al. (2024), "Rethinking FID", section 4.
        Differs: resized by Pillow's bicubic filter.
        """
        main, side = CLIP_L14_336.files[0], 336
        file = self._folder / main.name
        same = self.size == side and file.is_file() and hash_file(file) == main.sha256
        return "cmmd" if same else "cmmd-style"

    def projected(self, scaled: Float[Tensor, "B 3 side side"]) -> Float[Tensor, "B D"]:
        """Projected image features of the network's input."""
        return _tensor(self.model.get_image_features(pixel_values=scaled))

    def encode_captions(self, captions: list[str]) -> Float[Tensor, "B D"]:
        """Projected text features."""
        tokens = self.tokenizer(
            captions,
            padding=True,
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        ).to(next(self.parameters()).device)
        return _tensor(self.model.get_text_features(**tokens))

    def caption_lengths(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption before any cut, with start and end."""
        rows = self.tokenizer(list(captions), verbose=False)["input_ids"] if captions else []
        return [len(row) for row in rows]


class OpenClip(ClipTowers):
    """A CLIP of open_clip.

    Args:
        architecture: open_clip's model name, for example ``ViT-B-32``.
        weights: the checkpoint file; None: the one that ``T2IBENCH_OPEN_CLIP`` names, else the
            one that ``t2ibench fetch open_clip`` put.
        tag: who trained it, for example ``laion2b_s34b_b79k``; part of the key.

    Raises:
        MissingWeightsError: the file is absent.
        ConfigError: open_clip has no such architecture.
        CheckpointError: the file holds another architecture.

    Source: Radford et al. (2021), "Learning transferable visual models", section 2.4.
    Differs: none.
    """

    weights_argument: ClassVar[str] = "weights"

    def __init__(self, architecture: str, weights: str | Path | None, tag: str) -> None:
        super().__init__()
        path = OPEN_CLIP_B32.locate(weights)
        import open_clip

        if architecture not in open_clip.list_models():
            raise ConfigError(
                f"architecture={architecture} is no architecture of open_clip; name one, for "
                "example ViT-B-32."
            )
        try:
            self.model = open_clip.create_model(architecture, pretrained=str(path))
        except UNREADABLE as error:
            raise CheckpointError(
                f"{path} does not hold open_clip's {architecture} "
                f"({first_line(error)}); give a checkpoint of that architecture."
            ) from error
        self.tokenizer = open_clip.get_tokenizer(architecture)
        self.model.eval().requires_grad_(False)
        self.name = f"clip-{architecture}/{tag}"
        tower = getattr(self.model, "text", self.model)
        self.context_length = int(getattr(self.model, "context_length", tower.context_length))
        self.width = int(open_clip.get_model_config(architecture)["embed_dim"])
        side = self.model.visual.image_size
        self.size = int(side[0] if isinstance(side, tuple) else side)
        self.preprocessing = f"pil-bicubic-{self.size}"

    @property
    def normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and deviation of the checkpoint's own configuration."""
        visual = self.model.visual
        return getattr(visual, "image_mean", None) or MEAN, getattr(
            visual, "image_std", None
        ) or STD

    @staticmethod
    def weights_of(**arguments: Any) -> PublishedWeights:
        """Entry of the published weights that are meant where no file is given."""
        return OPEN_CLIP_B32

    def projected(self, scaled: Float[Tensor, "B 3 side side"]) -> Float[Tensor, "B D"]:
        """Projected image features of the network's input."""
        return self.model.encode_image(scaled)

    def encode_captions(self, captions: list[str]) -> Float[Tensor, "B D"]:
        """Projected text features."""
        return encode_to_end_token(self.model, self.tokenizer(captions))

    def caption_lengths(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption before any cut, with start and end."""
        if not hasattr(self.tokenizer, "encode"):
            ids = [self.tokenizer.tokenizer(caption)["input_ids"] for caption in captions]
            return [len(row) for row in ids]
        return [len(self.tokenizer.encode(caption)) + 2 for caption in captions]


def load_transformers_clip(folder: Path) -> tuple[Any, Any]:
    """A CLIP and its tokeniser from a folder in transformers' format, without network.

    Raises:
        CheckpointError: a file is damaged, or tensors are missing or of another shape.
    """
    from transformers import CLIPModel, CLIPTokenizer

    cls: Any = CLIPModel
    try:
        model, info = cls.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except UNREADABLE as error:
        raise CheckpointError(
            f"{folder} does not hold a CLIP in transformers' format "
            f"({first_line(error)}); give the folder of one, or fetch it again."
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{folder} does not hold a whole CLIP: {len(missing)} tensors are missing, the first "
            f"is {missing[0]}; give the folder of one, or fetch it again."
        )
    return model, tokenizer


def name_of(folder: Path, published: str) -> str:
    """Name of a CLIP in score keys: that of the fetched weights, or the folder's."""
    weights = PUBLISHED[published]
    if folder == weights.target:
        return weights.network
    own = folder.resolve().name
    return own if own.startswith("clip") else f"clip-{own}"


def _tensor(output: Any) -> Tensor:
    """The features alone, which transformers 5 wraps in an output object."""
    return output if isinstance(output, Tensor) else output.pooler_output
