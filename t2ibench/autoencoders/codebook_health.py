"""The health of a codebook: how much of it is in use, and what is said when it is not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from t2ibench.autoencoders.contract import Codes

DEAD_AFTER = 20
"""A code is dead that none of the last 20 V codes was: were all used alike, the chance of that is
e^-20, and of one that is used a tenth as often e^-2."""

MOSTLY_DEAD = 0.8
"""Share of dead codes above which the alarm is raised. A codebook of averages that ends well has
two thirds dead while it settles (measured on vq_f4: 68 % after 2,048 images, 19 % after 12,000)."""

COLLAPSED = 2.0
"""Perplexity below which the codebook says less than one bit a code."""


class CodebookHealth(nn.Module):
    """Share of a codebook that has died, followed over training.

    Args:
        codebook_size: V.

    Attributes:
        unseen: (V,) number of codes drawn since each was last one of them; of a checkpoint, but
            no weight.

    Source: Dhariwal et al. 2020 (Jukebox), section 3.1 (use of the codebook as its health).
    Differs: a window of ``DEAD_AFTER`` codes for each of the codebook.
    """

    unseen: Float[Tensor, " V"]

    def __init__(self, codebook_size: int) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.register_buffer("unseen", torch.zeros(codebook_size), persistent=False)

    @torch.no_grad()
    def forward(self, codes: Codes) -> Float[Tensor, ""]:
        """Counts the codes of a batch (of all ranks); the share of dead codes, 0 to 1."""
        used = code_counts(codes, self.codebook_size) > 0
        self.unseen.add_(codes.numel()).masked_fill_(used, 0.0)
        return (self.unseen > DEAD_AFTER * self.codebook_size).float().mean()


def codebook_alarms(logged: Mapping[str, float], quantizer: str, remedy: str) -> dict[str, str]:
    """Warnings of a codebook that is not used, by kind.

    Args:
        logged: means over a logging interval, with ``codebook_dead`` and ``codebook_perplexity``.
        quantizer: configuration key of the quantiser or of what holds it.
        remedy: what to do, a clause (``Quantizer.remedy``).
    """
    found = {}
    if logged["codebook_dead"] > MOSTLY_DEAD:
        found["dead codes"] = (
            f"{logged['codebook_dead']:.0%} of the codes of {quantizer} are dead, so the codebook "
            f"is larger than what it says; {remedy}."
        )
    if logged["codebook_perplexity"] < COLLAPSED:
        found["collapsed codebook"] = (
            f"the codes of {quantizer} have a perplexity of {logged['codebook_perplexity']:.2g}, "
            f"so they say all but nothing of an image; lower parts.first_stage.module.optimizer.lr "
            f"or parts.first_stage.module.penalty_weight, or {remedy}."
        )
    return found


def code_counts(codes: Int[Tensor, "*M"], codebook_size: int) -> Float[Tensor, " V"]:
    """Number of times that each code occurs."""
    # index_add_ rather than bincount, which waits for the GPU.
    counts = torch.zeros(codebook_size, dtype=torch.float, device=codes.device)
    return counts.index_add_(
        0, codes.flatten(), torch.ones_like(codes.flatten(), dtype=torch.float)
    )


def perplexity(codes: Int[Tensor, "*M"], codebook_size: int) -> Float[Tensor, ""]:
    """Number of codes in effective use, 1 to V: exp(entropy) of the codes' frequencies.

    Source: van den Oord et al. 2017 (VQ-VAE), as its authors' code logs it.
    Differs: none.

    Example:
        >>> codes = torch.tensor([0, 0, 3, 3])
        >>> round(perplexity(codes, 8).item(), 6)
        2.0
    """
    share = code_counts(codes, codebook_size) / max(codes.numel(), 1)
    return torch.special.entr(share).sum().exp()


def usage(codes: Int[Tensor, "*M"], codebook_size: int) -> Float[Tensor, ""]:
    """Share of the codebook that occurs at all in these codes, 0 to 1.

    Example:
        >>> usage(torch.tensor([0, 0, 3, 3]), 8).item()
        0.25
    """
    return (code_counts(codes, codebook_size) > 0).float().mean()
