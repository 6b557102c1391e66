"""StackGAN: a sketch of 64 px from text and noise, then its redrawing at 256 px.

Zhang et al. 2017, "StackGAN: Text to Photo-realistic Image Synthesis with Stacked Generative
Adversarial Networks", with the losses of its authors' PyTorch code. Both stages have conditioning
augmentation: the sentence becomes a normal distribution, from which the generator's condition is
drawn. The stages are two runs: stage II learns to redraw what a trained, frozen stage I draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import Noise, TrainingNoise
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.contract import OptimizerFactory, TextToImageModule
from t2ibench.families.gan.augment import Augmentation, DiffAugment
from t2ibench.families.gan.balance import BALANCE
from t2ibench.families.gan.inversion import Paint
from t2ibench.families.gan.losses import AdversarialLoss, Adversary
from t2ibench.families.gan.players import TwoPlayers
from t2ibench.families.gan.stack_gan_losses import Losses, Made
from t2ibench.families.gan.stack_gan_networks import (
    Discriminator,
    StageOneGenerator,
    StageTwoGenerator,
    initialise,
)
from t2ibench.families.gan.steps import Step, named, parts_of
from t2ibench.families.gan.upper_stage import UpperStage
from t2ibench.nn.conditioning import ConditioningKind
from t2ibench.text.contract import TextEncoder


def play(module: Any, batch: Batch) -> dict[str, Tensor]:
    """One step of the discriminator, then one of the generator, on the same generated images.

    Where gradients are accumulated, the images are made a second time from the same noise, so that
    memory holds one part.

    Args:
        module: a stage, with ``inputs`` and ``make``.
        batch: the batch.

    Returns:
        Scalars to be logged.
    """
    of_generator, of_discriminator = cast(list[Any], module.optimizers())
    parts, losses = parts_of(batch, module.accumulation), module.losses
    inputs = [module.inputs(part) for part in parts]
    once = len(parts) == 1
    kept: list[Made] = []

    def judged() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for part, given in zip(parts, inputs, strict=True):
            with torch.set_grad_enabled(once):
                made = module.make(part, given)
            if once:
                kept.append(made)
            yield losses.of_discriminator(part.image, made)

    def drawn() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for part, given in zip(parts, inputs, strict=True):
            yield losses.of_generator(part.image, kept[0] if once else module.make(part, given))

    step = Step(module, of_discriminator, module.judging_parameters())
    logs = named("discriminator", step.take(judged(), len(parts)), BALANCE)
    with module.judges_held():
        step = Step(module, of_generator, module.drawing_parameters())
        logs |= named("generator", step.take(drawn(), len(parts)), ("loss",))
    return logs


class StackGANStageOne(TwoPlayers):
    """Stage I: a small image from noise and a sentence.

    A frozen text encoder is the paper's (char-CNN-RNN); one that is trained learns with the
    generator.

    Args:
        text_encoder: see ``TextToImageModule``.
        noise_width: Z.
        condition_width: C, of conditions.
        generator_channels: GF, see ``StageOneGenerator``.
        discriminator_channels: DF, see ``Discriminator``.
        conditioning: see ``StageOneGenerator``.
        heads: number of heads in cross-attention.
        generator_optimizer: factory of the generator's and a trained text encoder's optimiser.
        discriminator_optimizer: factory of the discriminator's.
        resolution: H = W of the images, a power of two.
        null_text_probability: 0 for a GAN: it is not guided.
        gradient_clip_norm: see ``TextToImageModule``.
        adversarial_loss: loss of both players; the paper's is non-saturating.
        relativistic_gamma: weight of R1 and R2; of ``adversarial_loss=relativistic`` alone.
        kl_weight: weight of the conditions' divergence.
        augment: changes of what the discriminator sees (``DiffAugment``); the paper has none.
        accumulation: parts of a batch whose gradients are summed.
        truncation_psi: default truncation.

    Raises:
        ConfigError: an impossible choice (``gan_int_cls.stages``, ``Adversary``, ``DiffAugment``).

    Source: Zhang et al. 2017 (StackGAN), section 3.3; the authors' PyTorch code.
    Differs: none.
    """

    judges_teach_text: ClassVar[bool] = False

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        noise_width: int,
        condition_width: int,
        generator_channels: int,
        discriminator_channels: int,
        conditioning: ConditioningKind,
        heads: int,
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        resolution: int,
        null_text_probability: float,
        gradient_clip_norm: float,
        adversarial_loss: AdversarialLoss,
        relativistic_gamma: float,
        kl_weight: float,
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
        self.noise_width = noise_width
        self.condition_width = condition_width
        self.generator = StageOneGenerator(
            resolution=resolution,
            text_width=text_encoder.width,
            noise_width=noise_width,
            condition_width=condition_width,
            channels=generator_channels,
            conditioning=conditioning,
            heads=heads,
        )
        self.discriminator = Discriminator(
            resolution=resolution,
            condition_width=condition_width,
            channels=discriminator_channels,
            unconditional=False,
        )
        initialise(self.generator)
        initialise(self.discriminator)
        adversary = Adversary(adversarial_loss, relativistic_gamma)
        self.losses = Losses(self.discriminator, adversary, DiffAugment(augment), kl_weight)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs the discriminator's step, then the generator's; see ``play``."""
        return play(self, batch)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Noise of a part of the batch: z, and the conditions'."""
        noise = TrainingNoise(len(batch), batch.image.device)
        return noise.normal(self.noise_width), noise.normal(self.condition_width)

    def make(self, batch: Batch, inputs: tuple[Tensor, Tensor]) -> Made:
        """Images for a part of the batch."""
        return Made(*self.generator(self.encode_text(batch), *inputs))

    def invertible(self, noise: Noise, knobs: Mapping[str, float]) -> tuple[Paint, list[Tensor]]:
        """The generator as a function of text, z and the condition's noise.

        Source: Brock et al. 2019 (BigGAN), section 3.1 (truncation).
        Differs: noise is scaled by psi, not resampled, so that its direction is kept.
        """

        def paint(text: TextFeatures, latents: Sequence[Tensor]) -> Images:
            return self.generator(text, *(knobs["truncation_psi"] * x for x in latents))[0]

        return paint, [noise.normal(self.noise_width), noise.normal(self.condition_width)]


class StackGANStageTwo(UpperStage):
    """Stage II: redraws the small images of a trained run at a higher resolution.

    Both players learn from images that the frozen run draws at each step; the text encoder is that
    run's.

    Args:
        text_encoder: the base's, frozen (``frozen_base.BaseText``).
        base: the trained module whose images are redrawn; frozen here, its weights are not in this
            module's state dict.
        upscale: factor by which each side grows, a power of two; the paper's is 4.
        condition_width: C, of conditions.
        generator_channels: GF, see ``StageTwoGenerator``.
        residual_blocks: number of residual blocks.
        discriminator_channels: DF, see ``Discriminator``.
        conditioning: see ``StageTwoGenerator``.
        heads: number of heads in cross-attention.
        generator_optimizer: factory of the generator's optimiser.
        discriminator_optimizer: factory of the discriminator's.
        resolution: H = W of the images, a power of two.
        null_text_probability: 0 for a GAN: it is not guided.
        gradient_clip_norm: see ``TextToImageModule``.
        adversarial_loss: loss of both players; the paper's is non-saturating.
        relativistic_gamma: weight of R1 and R2; of ``adversarial_loss=relativistic`` alone.
        kl_weight: weight of the conditions' divergence.
        augment: changes of what the discriminator sees (``DiffAugment``); the paper has none.
        accumulation: parts of a batch whose gradients are summed.
        truncation_psi: default truncation of this stage's conditions.

    Raises:
        ConfigError: an impossible choice, or a base of another resolution.

    Source: Zhang et al. 2017 (StackGAN), section 3.4; the authors' PyTorch code.
    Differs: any family may stand below; stage I draws with running statistics, as it is sampled.
    """

    judges_teach_text: ClassVar[bool] = False

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        base: TextToImageModule,
        upscale: int,
        condition_width: int,
        generator_channels: int,
        residual_blocks: int,
        discriminator_channels: int,
        conditioning: ConditioningKind,
        heads: int,
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        resolution: int,
        null_text_probability: float,
        gradient_clip_norm: float,
        adversarial_loss: AdversarialLoss,
        relativistic_gamma: float,
        kl_weight: float,
        augment: Sequence[Augmentation],
        accumulation: int,
        truncation_psi: float,
    ) -> None:
        super().__init__(
            base=base,
            text_encoder=text_encoder,
            generator_optimizer=generator_optimizer,
            discriminator_optimizer=discriminator_optimizer,
            resolution=resolution,
            null_text_probability=null_text_probability,
            gradient_clip_norm=gradient_clip_norm,
            accumulation=accumulation,
            truncation_psi=truncation_psi,
        )
        if upscale < 2 or upscale & (upscale - 1) or base.resolution * upscale != resolution:
            raise ConfigError(
                f"model.module.upscale={upscale} must be 2, 4 or another power of two, and times "
                f"the base's {base.resolution} px be data.resolution={resolution}; set one of them."
            )
        self.condition_width = condition_width
        self.generator = StageTwoGenerator(
            upscale=upscale,
            text_width=text_encoder.width,
            condition_width=condition_width,
            channels=generator_channels,
            residual_blocks=residual_blocks,
            conditioning=conditioning,
            heads=heads,
        )
        self.discriminator = Discriminator(
            resolution=resolution,
            condition_width=condition_width,
            channels=discriminator_channels,
            unconditional=True,
        )
        initialise(self.generator)
        initialise(self.discriminator)
        adversary = Adversary(adversarial_loss, relativistic_gamma)
        self.losses = Losses(self.discriminator, adversary, DiffAugment(augment), kl_weight)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs the discriminator's step, then the generator's; see ``play``."""
        return play(self, batch)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Inputs of a part of the batch: small images, and the conditions' noise."""
        noise = TrainingNoise(len(batch), batch.image.device)
        small = self.base.draw(self.encode_text(batch), noise)
        return small, noise.normal(self.condition_width)

    def make(self, batch: Batch, inputs: tuple[Tensor, Tensor]) -> Made:
        """Images for a part of the batch."""
        small, eps = inputs
        return Made(*self.generator(small, self.encode_text(batch), eps))

    @property
    def noise_width(self) -> int:
        """Width of the condition's noise."""
        return self.condition_width

    def redrawn(
        self,
        small: Float[Tensor, "B 3 h w"],
        text: TextFeatures,
        latents: Float[Tensor, "B Z"],
        knobs: Mapping[str, float],
    ) -> Images:
        """Images for those of the base; the condition's noise is scaled by psi."""
        return self.generator(small, text, knobs["truncation_psi"] * latents)[0]
