"""A DAMSM as a judge: R-precision as AttnGAN's paper measured it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from t2ibench.core.errors import MissingWeightsError
from t2ibench.core.files import read_json_object
from t2ibench.core.pixels import from_pixels
from t2ibench.core.types import PixelImages
from t2ibench.engine.build import instantiate
from t2ibench.engine.components import read_component
from t2ibench.engine.parts.damsm import CARD, WEIGHTS, load_damsm
from t2ibench.metrics.causal_text import text_features
from t2ibench.metrics.extractors.contract import FeatureExtractor
from t2ibench.text.word import split_words


class DAMSMJudge(FeatureExtractor):
    """Whole images and sentences of a DAMSM, as a dual encoder.

    A generator that was trained against the same DAMSM is rewarded for pleasing it: the leakage
    guard flags its scores.

    Args:
        path: folder of a DAMSM, ``parts/damsm`` of a run.

    Raises:
        MissingWeightsError: it is not there.

    Source: Xu et al. 2018 (AttnGAN), section 4 (R-precision by DAMSM's global vectors).
    Differs: none.
    """

    batch_size = 64

    def __init__(self, path: str | None) -> None:
        super().__init__()
        if path is None or not (Path(path) / WEIGHTS).is_file():
            raise MissingWeightsError(
                f"evaluator.dual_encoders.damsm.path={path} is no folder of a DAMSM; give "
                "RUN/parts/damsm of a run of model=gan/attn_gan."
            )
        card = read_json_object(Path(path) / CARD, "sha256", "network")
        component = read_component(card["network"], "evaluator.dual_encoders.damsm")

        def made(vocabulary: Sequence[str]) -> Any:
            return instantiate(component, vocabulary=list(vocabulary))

        self.network = load_damsm(made, Path(path))
        self.name = f"damsm-{card['sha256'][:8]}"
        self.width = self.network.text.width
        self.preprocessing = f"bilinear-{getattr(self.network.image, 'side', 0)}"

    def forward(self, pixels: PixelImages) -> Float[Tensor, "B D"]:
        """Vectors of whole images, of unit length."""
        return normalize(self.network.see(from_pixels(pixels)).whole, dim=1)

    def image_features(self, pixels: PixelImages) -> Float[Tensor, "B D"]:
        """Vectors of (B, 3, H, W) uint8 images, on the CPU."""
        return self.features(pixels)

    def encode_captions(self, captions: Sequence[str]) -> Float[Tensor, "B D"]:
        """Vectors of one batch of sentences, of unit length, on the network's device."""
        return normalize(self.network.text.encode(captions).pooled, dim=1)

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str]) -> Float[Tensor, "B D"]:
        """Vectors of sentences, on the CPU."""
        self.eval()
        return text_features(self.encode_captions, captions, self.batch_size, self.width)

    @property
    def context_length(self) -> int:
        """Longest caption in words."""
        return self.network.text.max_length

    def caption_lengths(self, captions: Sequence[str]) -> list[int]:
        """Words of each caption before any cut."""
        return [len(split_words(caption)) for caption in captions]

    @property
    def kernel_distance_name(self) -> str:
        """Name of its kernel distance: CMMD is defined with another network."""
        return "cmmd-style"
