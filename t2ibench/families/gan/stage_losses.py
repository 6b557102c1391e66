"""Losses of the stages of AttnGAN and StackGAN-v2, each judged alone and with its caption."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.core.types import Images
from t2ibench.families.gan.attn_gan_networks import Discriminators, Judged
from t2ibench.families.gan.losses import Adversary


def generator_loss_of_stages(
    adversary: Adversary, fake: Judged, real: Judged | None
) -> Float[Tensor, ""]:
    """Adversarial loss of the generator: the sum over stages, alone and with the caption.

    Args:
        adversary: the loss.
        fake: logits of generated images.
        real: logits of real images without gradients; of the relativistic loss.

    Source: Xu et al. 2018 (AttnGAN), eq. 5; Zhang et al. 2018 (StackGAN-v2), eq. 6.
    Differs: without the papers' factor 1/2, as in the authors' code.
    """
    terms = []
    for i in range(len(fake.alone)):
        alone, told = (None, None) if real is None else (real.alone[i], real.told[i])
        terms.append(adversary.generator_loss(fake.alone[i], alone))
        terms.append(adversary.generator_loss(fake.told[i], told))
    return torch.stack(terms).sum()


def penalty_of_stages(
    adversary: Adversary,
    discriminators: Discriminators,
    real: Sequence[Tensor],
    fake: Sequence[Tensor],
    sentence: Float[Tensor, "B D"],
) -> Float[Tensor, ""]:
    """Penalties of the relativistic loss, summed over stages.

    They see running statistics: each image's own gradient.

    Args:
        adversary: the loss.
        discriminators: one a stage.
        real: (B, 3, h, w) real images of each stage.
        fake: generated ones.
        sentence: condition of the discriminators.
    """
    found = []
    discriminators.eval()
    try:
        for judge, r, f in zip(discriminators.of_side.values(), real, fake, strict=True):
            found.append(adversary.penalty(partial(both_logits, judge, sentence), r, f))
    finally:
        discriminators.train()
    return torch.stack(found).sum()


def both_logits(judge: nn.Module, sentence: Tensor, images: Images) -> Float[Tensor, "2 B"]:
    """A discriminator's logits of images, alone and with their captions."""
    return torch.stack(judge(images, sentence)[:2])
