"""The one-stage text-conditional GAN as a family: two players, one image batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import Noise, TrainingNoise
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.contract import OptimizerFactory
from t2ibench.families.gan.augment import Augmentation, DiffAugment
from t2ibench.families.gan.balance import BALANCE, balance
from t2ibench.families.gan.fast_painter import Judgement
from t2ibench.families.gan.inversion import Paint
from t2ibench.families.gan.losses import (
    AdversarialLoss,
    Adversary,
    Matching,
    caption_words,
    gradient_penalty,
    matching_loss,
    redescription_loss,
)
from t2ibench.families.gan.pairs import halfway, next_caption
from t2ibench.families.gan.players import TwoPlayers
from t2ibench.families.gan.steps import Step, named, parts_of
from t2ibench.text.contract import TextEncoder

NUDGE = 0.02
"""Sigma of the approximate gradient penalty, in units of [-1, 1] images."""


class Drawn(NamedTuple):
    """A part of the batch as the generator's step finds it.

    Attributes:
        batch: the part.
        text: its features before the discriminator's step, without gradients.
        noise: its latents.
        images: what the generator made of them, kept where the batch is one part.
    """

    batch: Batch
    text: TextFeatures
    noise: Tensor
    images: Tensor | None


class TextConditionalGAN(TwoPlayers):
    """GAN family: a generator against a discriminator that judges realism and matching.

    The text encoder learns from the discriminator's matching loss on real images; the
    generator reads its features without changing it.

    Args:
        text_encoder: see ``TextToImageModule``.
        generator: factory, called with ``resolution`` and ``text_width``.
        discriminator: factory, called with ``text_width``.
        generator_optimizer: factory of the generator's optimiser.
        discriminator_optimizer: factory of the discriminator's and text encoder's.
        resolution: H = W of the images.
        null_text_probability: 0 for a GAN: it is not guided.
        gradient_clip_norm: see ``TextToImageModule``.
        adversarial_loss: loss of both players.
        relativistic_gamma: weight of R1 and R2; of ``adversarial_loss=relativistic`` alone.
        matching: which wrong pairs the matching loss takes.
        wrong_weight: weight of real images with wrong captions in the adversarial loss.
        matching_weight: weight of the matching loss, in both players.
        redescription_weight: weight of the words read off the image, in both players; 0 is off,
            without a word head. It is supervision that no other family has.
        gradient_penalty_weight: gamma of the approximate R1, every step; 0 is off.
        interpolation_weight: weight of the generator's loss on captions halfway between two of the
            batch (INT); 0 is off.
        augment: changes of what the discriminator sees (``DiffAugment``); [] is none.
        accumulation: parts of a batch whose gradients are summed; wrong captions are of a part.
        truncation_psi: default truncation.

    Raises:
        ConfigError: there is a word head without a weight, or a weight without a word head; see
            also ``Adversary``, ``DiffAugment`` and ``TwoPlayers``.

    Source: Reed et al. 2016 (GAN-INT-CLS), algorithm 1 and section 4.3.
    Differs: a contrast within the batch (XMC-GAN) and the words read off the image (MirrorGAN)
        stand beside the matching-aware loss; the text encoder is trained along; both players
        see the same generated images.
    """

    held_back_by: ClassVar[str] = "model.module.gradient_penalty_weight"

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        generator: Callable[..., nn.Module],
        discriminator: Callable[..., nn.Module],
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        resolution: int,
        null_text_probability: float,
        gradient_clip_norm: float,
        adversarial_loss: AdversarialLoss,
        relativistic_gamma: float,
        matching: Matching,
        wrong_weight: float,
        matching_weight: float,
        redescription_weight: float,
        gradient_penalty_weight: float,
        interpolation_weight: float,
        augment: Sequence[Augmentation],
        accumulation: int,
        truncation_psi: float,
    ) -> None:
        super().__init__(
            text_encoder=text_encoder,
            generator_optimizer=generator_optimizer,
            discriminator_optimizer=discriminator_optimizer,
            resolution=resolution,
            null_text_probability=null_text_probability,
            gradient_clip_norm=gradient_clip_norm,
            accumulation=accumulation,
            truncation_psi=truncation_psi,
        )
        self.generator: Any = generator(resolution=resolution, text_width=text_encoder.width)
        self.discriminator: Any = discriminator(text_width=text_encoder.width)
        buckets = self.discriminator.word_buckets
        if (redescription_weight > 0) != (buckets > 0):
            raise ConfigError(
                f"model.module.redescription_weight={redescription_weight:g} and "
                f"model.module.discriminator.word_buckets={buckets} must both be 0 or both be "
                "more: model=gan/fast_painter has no word labels, model=gan/fast_painter_words has."
            )
        self.adversary = Adversary(adversarial_loss, relativistic_gamma)
        self.matching = matching
        self.wrong_weight = wrong_weight
        self.matching_weight = matching_weight
        self.redescription_weight = redescription_weight
        self.gradient_penalty_weight = gradient_penalty_weight
        self.interpolation_weight = interpolation_weight
        self.augment = DiffAugment(augment)

    def extra_supervision(self) -> tuple[str, ...]:
        """Word labels of each image from its caption, where the redescription loss is on."""
        return ("word labels",) if self.redescription_weight > 0 else ()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs the discriminator's step, then the generator's, on the same generated images.

        Source: Reed et al. 2016 (GAN-INT-CLS), algorithm 1.
        Differs: see the class.
        """
        of_generator, of_discriminator = cast(list[Any], self.optimizers())
        parts, kept = parts_of(batch, self.accumulation), list[Drawn]()
        step = Step(self, of_discriminator, self.judging_parameters())
        judged = step.take(self._discriminator_losses(batch, parts, kept), len(parts))
        with self.judges_held():
            step = Step(self, of_generator, self.drawing_parameters())
            drawn = step.take(self._generator_losses(kept), len(parts))
        return named("discriminator", judged, BALANCE) | named("generator", drawn, ("loss",))

    def _discriminator_losses(
        self, batch: Batch, parts: Sequence[Batch], kept: list[Drawn]
    ) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
        """Loss and logs of each part of the batch, which is kept for the generator's step."""
        noise = TrainingNoise(len(batch), batch.image.device).normal(self.generator.noise_width)
        for part, latents in zip(parts, noise.chunk(len(parts)), strict=True):
            text = self.encode_text(part)
            known = text.detach()
            with torch.set_grad_enabled(len(parts) == 1):
                images = self.generator(known, latents)
            kept.append(Drawn(part, known, latents, images if len(parts) == 1 else None))
            yield self._judged(part, text, images.detach())

    def _judged(
        self, batch: Batch, text: TextFeatures, fake_images: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the discriminator on a part of the batch, and what is logged of it."""
        judge, known = self.discriminator, text.detach()
        real, fake = judge(self.augment(batch.image)), judge(self.augment(fake_images))
        right, false = judge.belief(real, known), judge.belief(fake, known)
        wrong = judge.belief(real, next_caption(known))
        adversarial = self.adversary.discriminator_loss(
            right, [(1.0, false), (self.wrong_weight, wrong)]
        )
        told, matching = self._told(real, judge.embed_text(text), batch)
        loss = adversarial + told
        logs = {"loss": adversarial, "matching": matching}
        if self.gradient_penalty_weight > 0:
            penalty = gradient_penalty(partial(self._believes, known), batch.image, NUDGE)
            logs["penalty"] = 0.5 * self.gradient_penalty_weight * penalty
            loss = loss + logs["penalty"]
        if self.adversary.penalised:
            judged = partial(self._believes, known)
            logs["penalty"] = self.adversary.penalty(judged, batch.image, fake_images)
            loss = loss + logs["penalty"]
        return loss, logs | balance(right, false, batch.image, fake_images)

    def _believes(self, text: TextFeatures, images: Images) -> Tensor:
        """Logits of images as they are, with their captions."""
        return self.discriminator.belief(self.discriminator(images), text)

    def _generator_losses(
        self, kept: Sequence[Drawn]
    ) -> Iterator[tuple[Tensor, Mapping[str, Tensor]]]:
        """Loss and logs of each part of the batch."""
        for batch, text, noise, images in kept:
            drawn = self.generator(text, noise) if images is None else images
            fake = self.discriminator(self.augment(drawn))
            told, matching = self._told(fake, self.discriminator.embed_text(text), batch)
            belief = self.discriminator.belief(fake, text)
            adversarial = self.adversary.generator_loss(belief, self._real_logits(batch, text))
            loss = adversarial + told
            logs = {"adversarial": adversarial, "matching": matching}
            if self.interpolation_weight > 0:
                logs["interpolated"] = self._interpolated(batch, text)
                loss = loss + self.interpolation_weight * logs["interpolated"]
            yield loss, logs | {"loss": loss}

    def _told(self, judged: Judgement, wanted: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Caption losses of judged images: the weighted sum, and matching alone."""
        scale = self.discriminator.scale
        matching = matching_loss(self.matching, judged.embedding, wanted, scale)
        told = self.matching_weight * matching
        if self.redescription_weight > 0:
            words = caption_words(batch.caption, self.discriminator.word_buckets)
            described = redescription_loss(judged.words, words.to(judged.words.device))
            told = told + self.redescription_weight * described
        return told, matching

    def _real_logits(self, batch: Batch, text: TextFeatures) -> Tensor | None:
        """Logits of the real images, where the generator's loss compares with them."""
        if not self.adversary.relativistic:
            return None
        with torch.no_grad():
            return self._believes(text, self.augment(batch.image))

    def _interpolated(self, batch: Batch, text: TextFeatures) -> Tensor:
        """Loss of the generator on captions halfway between two of the batch."""
        between = halfway(text)
        fake = self.discriminator(self.augment(self.generator(between, self._noise(text))))
        wanted = self.discriminator.embed_text(between)
        matching = matching_loss(self.matching, fake.embedding, wanted, self.discriminator.scale)
        belief = self.discriminator.belief(fake, between)
        adversarial = self.adversary.generator_loss(belief, self._real_logits(batch, text))
        return adversarial + self.matching_weight * matching

    def invertible(self, noise: Noise, knobs: Mapping[str, float]) -> tuple[Paint, list[Tensor]]:
        """The generator as a function of text and z.

        Source: Brock et al. 2019 (BigGAN), section 3.1 (truncation).
        Differs: z is scaled by psi, not resampled, so that its direction is kept.
        """

        def paint(text: TextFeatures, latents: Sequence[Tensor]) -> Images:
            return self.generator(text, knobs["truncation_psi"] * latents[0])

        return paint, [noise.normal(self.generator.noise_width)]

    def _noise(self, text: TextFeatures) -> Tensor:
        return TrainingNoise(len(text), text.pooled.device).normal(self.generator.noise_width)
