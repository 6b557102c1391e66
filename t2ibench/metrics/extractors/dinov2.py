"""DINOv2 ViT-L/14: self-supervised features whose Fréchet distance follows human judgement best.

Weights come from this machine only: a folder in transformers' format, given, named by
``T2IBENCH_DINOV2``, or put there by ``t2ibench fetch dinov2``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from t2ibench.core.errors import CheckpointError
from t2ibench.core.types import PixelImages
from t2ibench.metrics.extractors.contract import FeatureExtractor
from t2ibench.metrics.extractors.published import DINOV2_L14, PublishedWeights

SIZE = 224
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's channel statistics, in [0, 1]."""


class Dinov2(FeatureExtractor):
    """The normalised class token of a DINOv2.

    Args:
        folder: with config.json and model.safetensors; None: the environment's, else the
            fetched one.
        name: as the scores' keys say it; None: the folder's name.

    Raises:
        MissingWeightsError: there is no such folder.
        CheckpointError: the folder holds another architecture.

    Source: Oquab et al. (2023), "DINOv2"; Stein et al. (2023), "Exposing flaws of generative
    model evaluation metrics", section 3 and appendix B, for its use and preprocessing.
    Differs: none.
    """

    preprocessing = f"pil-bicubic-{SIZE}"
    batch_size = 32
    weights_argument: ClassVar[str] = "folder"

    def __init__(self, folder: str | Path | None = None, name: str | None = None) -> None:
        super().__init__()
        path = DINOV2_L14.locate(folder)
        from transformers import AutoConfig, Dinov2Model

        config = AutoConfig.from_pretrained(path, local_files_only=True)
        if config.model_type != "dinov2":
            raise CheckpointError(
                f"{path} holds a {config.model_type}, not a dinov2; give the folder of DINOv2 "
                "ViT-L/14 in transformers' format."
            )
        model: Any = Dinov2Model.from_pretrained(path, local_files_only=True)
        self.model = model
        self.width = int(config.hidden_size)
        self.name = name or path.name
        self.eval().requires_grad_(False)

    @staticmethod
    def weights_of(**arguments: Any) -> PublishedWeights:
        """Entry of the published weights."""
        return DINOV2_L14

    def forward(self, pixels: PixelImages) -> Float[Tensor, "B D"]:
        """Resizes to 224 px with PIL, normalises, and takes the class token."""
        images = [
            np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
            for image in pixels.permute(0, 2, 3, 1).cpu().numpy()
        ]
        device = next(self.parameters()).device
        scaled = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (MEAN, STD))
        return self.model(pixel_values=(scaled - mean) / std).pooler_output
