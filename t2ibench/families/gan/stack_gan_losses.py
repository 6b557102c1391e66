"""Losses of StackGAN's players, and the pairs that they are of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from t2ibench.core.types import Images
from t2ibench.families.gan.augment import DiffAugment
from t2ibench.families.gan.balance import balance
from t2ibench.families.gan.losses import Adversary
from t2ibench.families.gan.pairs import next_rows
from t2ibench.families.gan.stack_gan_networks import Condition, Discriminator, divergence


class Made(NamedTuple):
    """Images that a generator made of a part of the batch, and their conditions.

    Attributes:
        images: (B, 3, H, W) in (-1, 1).
        condition: the sentences' distributions.
    """

    images: Images
    condition: Condition


class Losses:
    r"""Losses of both players of a stage.

    With logits of real images with their conditions :math:`r`, of image i with condition i + 1
    :math:`w` (B - 1 pairs) and of generated images :math:`f`; hats are of the unconditional head:

        D, stage I   E[softplus(-r)] + (E[softplus(w)] + E[softplus(f)]) / 2
        D, stage II  (E[softplus(-r)] + E[softplus(-r^)]) / 2
                     + (E[softplus(w)] + E[softplus(f)] + E[softplus(f^)]) / 3
        G            E[softplus(-f)] [+ E[softplus(-f^)]] + kl_weight * KL

    The discriminator reads the mean of a condition, through which no gradient flows.

    Args:
        discriminator: the stage's.
        adversary: the loss of a logit.
        augment: changes of what the discriminator sees.
        kl_weight: weight of the condition's divergence.

    Source: Zhang et al. 2017 (StackGAN), eq. 3-6; weights and pairs of the authors' PyTorch code.
    Differs: relativistic penalties, which the paper does not have, see running statistics.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        adversary: Adversary,
        augment: DiffAugment,
        kl_weight: float,
    ) -> None:
        self.discriminator = discriminator
        self.adversary = adversary
        self.augment = augment
        self.kl_weight = kl_weight

    def of_discriminator(self, real_images: Images, made: Made) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the discriminator and what is logged of it."""
        judge, mean = self.discriminator, made.condition.mean.detach()
        fake_images = made.images.detach()
        real = judge.features(self.augment(real_images))
        fake = judge.features(self.augment(fake_images))
        right = judge.judge(real, mean)
        following, pairs, share = next_rows(mean)
        wrong = judge.judge(real[:pairs], following)
        generated = judge.judge(fake, mean)
        both = judge.unconditional_logit is not None
        weight = 1 / 3 if both else 0.5
        loss = self.adversary.discriminator_loss(
            right, [(share * weight, wrong), (weight, generated)], 0.5 if both else 1.0
        )
        if both:
            kinds = [(weight, judge.realism(fake))]
            loss = loss + self.adversary.discriminator_loss(judge.realism(real), kinds, 0.5)
        logs = balance(right, generated, real_images, fake_images)
        logs |= {"loss": loss, "wrong": share * wrong.mean()}
        if self.adversary.penalised:
            logs["penalty"] = self._penalty(real_images, fake_images, mean)
            loss = loss + logs["penalty"]
        return loss, logs

    def of_generator(self, real_images: Images, made: Made) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the generator and what is logged of it."""
        judge, mean = self.discriminator, made.condition.mean.detach()
        features = judge.features(self.augment(made.images))
        real = None
        if self.adversary.relativistic:
            with torch.no_grad():
                real = judge.features(self.augment(real_images))
        right = None if real is None else judge.judge(real, mean).detach()
        adversarial = self.adversary.generator_loss(judge.judge(features, mean), right)
        if judge.unconditional_logit is not None:
            against = None if real is None else judge.realism(real).detach()
            realism = judge.realism(features)
            adversarial = adversarial + self.adversary.generator_loss(realism, against)
        kl = divergence(made.condition)
        loss = adversarial + self.kl_weight * kl
        return loss, {"loss": loss, "adversarial": adversarial, "kl": kl}

    def _penalty(self, real: Images, fake: Images, mean: Tensor) -> Tensor:
        """Penalties of the relativistic loss, by running statistics: each image's own gradient."""
        judge = self.discriminator
        judge.eval()
        try:
            return self.adversary.penalty(
                lambda images: judge.judge(judge.features(images), mean), real, fake
            )
        finally:
            judge.train()
