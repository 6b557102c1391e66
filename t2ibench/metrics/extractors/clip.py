"""Published CLIP models, as dual encoders and as feature extractors.

Weights come from this machine only: a folder in transformers' format, or an open_clip
checkpoint with the name of its architecture. ``T2IBENCH_CLIP`` may name the folder.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from t2ibench.core.errors import MissingWeightsError
from t2ibench.core.types import PixelImages
from t2ibench.metrics.extractors.contract import FeatureExtractor
from t2ibench.metrics.extractors.published import CLIP_L14, OPEN_CLIP_B32

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

    @property
    def normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and deviation by channel, in [0, 1]."""
        return MEAN, STD

    def images(self, pixels: PixelImages) -> Float[Tensor, "B 3 side side"]:
        """Resized, cropped and normalised pixels."""
        device = next(self.parameters()).device
        scaled = resize_and_crop(pixels, self.size).to(device).float() / 255
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in self.normalisation)
        return (scaled - mean) / std

    def image_features(self, pixels: PixelImages) -> Float[Tensor, "B D"]:
        """Embeds (B, 3, H, W) uint8 images as (B, D), on the CPU."""
        return self.features(pixels)

    @abstractmethod
    def encode_captions(self, captions: list[str]) -> Float[Tensor, "B D"]:
        """Embeds one batch of captions; those over the context keep their end token."""

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str]) -> Float[Tensor, "B D"]:
        """Embeds B captions as (B, D), on the CPU."""
        self.eval()
        found = [
            self.encode_captions(list(captions[start : start + self.batch_size])).float().cpu()
            for start in range(0, len(captions), self.batch_size)
        ]
        return torch.cat(found) if found else torch.empty(0, self.width)


class TransformersClip(ClipTowers):
    """A CLIP in transformers' folder format.

    Args:
        folder: with config.json, weights, tokenizer and preprocessor; None: ``T2IBENCH_CLIP``,
            else the one that ``t2ibench fetch clip`` put.
        name: as the scores' keys say it; None: the folder's name.

    Raises:
        MissingWeightsError: no folder is given, or it has no config.json.

    Source: Radford et al. (2021), "Learning transferable visual models", section 2.4.
    Differs: none.
    """

    def __init__(self, folder: str | Path | None = None, name: str | None = None) -> None:
        super().__init__()
        path = CLIP_L14.locate(folder)
        from transformers import CLIPModel, CLIPTokenizer

        model: Any = CLIPModel.from_pretrained(path, local_files_only=True)
        self.model = model
        self.tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True)
        self.model.eval().requires_grad_(False)
        self.name = name or f"clip-{path.resolve().name}"
        config: Any = self.model.config
        self.width = int(config.projection_dim)
        self.size = int(config.vision_config.image_size)
        self.context_length = int(config.text_config.max_position_embeddings)
        self.preprocessing = f"pil-bicubic-{self.size}"

    def forward(self, pixels: PixelImages) -> Float[Tensor, "B D"]:
        """Projected image features."""
        return _tensor(self.model.get_image_features(pixel_values=self.images(pixels)))

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


class OpenClip(ClipTowers):
    """A CLIP of open_clip.

    Args:
        architecture: open_clip's model name, for example ``ViT-B-32``.
        weights: the checkpoint file.
        tag: who trained it, for example ``laion2b_s34b_b79k``; part of the key.

    Raises:
        MissingWeightsError: the file is absent.

    Source: Radford et al. (2021), "Learning transferable visual models", section 2.4.
    Differs: none.
    """

    def __init__(self, architecture: str, weights: str | Path, tag: str) -> None:
        super().__init__()
        if not Path(weights).is_file():
            raise MissingWeightsError(
                f"the open_clip checkpoint {weights} of {architecture} is not a file; "
                f"{OPEN_CLIP_B32.missing(OPEN_CLIP_B32.target)} Another checkpoint's path goes "
                f"into the evaluator's weights."
            )
        import open_clip

        self.model = open_clip.create_model(architecture, pretrained=str(weights))
        self.tokenizer = open_clip.get_tokenizer(architecture)
        self.model.eval().requires_grad_(False)
        self.name = f"clip-{architecture}/{tag}"
        self.width = int(self.model.text_projection.shape[-1])
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

    def forward(self, pixels: PixelImages) -> Float[Tensor, "B D"]:
        """Projected image features."""
        return self.model.encode_image(self.images(pixels))

    def encode_captions(self, captions: list[str]) -> Float[Tensor, "B D"]:
        """Projected text features."""
        device = next(self.parameters()).device
        return self.model.encode_text(self.tokenizer(captions).to(device))


def _tensor(output: Any) -> Tensor:
    """The features alone, which transformers 5 wraps in an output object."""
    return output if isinstance(output, Tensor) else output.pooler_output
