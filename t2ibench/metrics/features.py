"""Features as distances read them: checked, in float64, on the device where they lie."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from t2ibench.core.errors import ScoreError


def checked(features: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    """Float64 features without gradients; a device that has no float64 gives way to the CPU.

    Raises:
        ScoreError: a feature is not finite.
    """
    if not torch.isfinite(features).all():
        raise ScoreError("features hold NaN or infinity; look at the images and the extractor.")
    device = torch.device("cpu") if features.device.type == "mps" else features.device
    return features.detach().to(device, torch.float64)
