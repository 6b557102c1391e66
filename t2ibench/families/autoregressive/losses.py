"""The autoregressive objective."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy


def next_code_loss(
    logits: Float[Tensor, "B N V"], codes: Int[Tensor, "B N"], label_smoothing: float
) -> Float[Tensor, ""]:
    """Cross-entropy of the codes: -mean log p(code_n | codes before n, text), in nats a code.

    Args:
        logits: (B, N, V).
        codes: (B, N).
        label_smoothing: share of the target spread evenly over the codebook.

    Source: Esser et al. 2021 (VQGAN), eq. 9.
    Differs: label smoothing is allowed.
    """
    return cross_entropy(
        logits.flatten(0, 1).float(), codes.flatten(), label_smoothing=label_smoothing
    )
