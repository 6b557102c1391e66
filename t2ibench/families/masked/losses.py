"""The masked objective."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy


def masked_code_loss(
    logits: Float[Tensor, "B N V"],
    codes: Int[Tensor, "B N"],
    masked: Bool[Tensor, "B N"],
    label_smoothing: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of the masked codes: mean over images of the mean over masked positions, nats.

    Args:
        logits: (B, N, V); V may hold more than the codes (MaskGIT's mask token).
        codes: (B, N), the true ones.
        masked: (B, N) True where a code was hidden; at least one of each image.
        label_smoothing: share of the target spread evenly over all V.

    Source: Chang et al. 2022 (MaskGIT), eq. 1; authors' code for the mean of each image.
    Differs: none.
    """
    losses = cross_entropy(
        logits.flatten(0, 1).float(),
        codes.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
    ).view_as(codes)
    weights = masked.to(losses.dtype)
    return ((losses * weights).sum(1) / weights.sum(1)).mean()
