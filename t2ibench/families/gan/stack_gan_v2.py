"""StackGAN-v2: one generator as a tree, whose branches draw images of three sizes together.

Zhang et al. 2018, "StackGAN++: Realistic image synthesis with stacked generative adversarial
networks", in the layout of its authors' PyTorch code. Stages share their hidden maps and are
trained jointly; the sentence reaches them through conditioning augmentation, and every stage joins
the drawn condition to its map again. Each size of image has a discriminator with two heads.

C is the width of the first stage's feature map; it halves from stage to stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import TrainingNoise
from t2ibench.core.types import Batch, TextFeatures
from t2ibench.families.contract import OptimizerFactory
from t2ibench.families.gan.attn_gan_networks import (
    STAGES,
    Drawn,
    FirstStage,
    Judged,
    SentenceContext,
    WordAttention,
    image_pyramid,
    pyramid_sides,
    texts_of_stages,
)
from t2ibench.families.gan.augment import Augmentation, DiffAugment
from t2ibench.families.gan.balance import BALANCE, balance
from t2ibench.families.gan.losses import AdversarialLoss, Adversary
from t2ibench.families.gan.stage_losses import generator_loss_of_stages, penalty_of_stages
from t2ibench.families.gan.staged import StagedPlayers
from t2ibench.families.gan.steps import Step, named, parts_of
from t2ibench.nn.conditioning import ConditioningKind
from t2ibench.nn.gated import (
    GatedAugmentation,
    GatedResidual,
    convolution_3x3,
    gated_convolution,
    gated_upsampling,
    orthogonal,
)
from t2ibench.text.contract import TextEncoder, check_word_tokens


class JoinedStage(nn.Module):
    """F_i: a feature map and the condition to a map of twice the side and half the width.

    Args:
        channels: C of its input.
        condition_width: of the drawn condition.
        text_width: of words and sentence, for the mechanisms that are not the paper's.
        residual_blocks: their number.
        conditioning: ``concat`` is the paper's: the condition stands at every place.

    Source: Zhang et al. 2018 (StackGAN-v2), section 4.1; layout of the authors' code.
    Differs: none with ``concat``.
    """

    def __init__(
        self,
        channels: int,
        condition_width: int,
        text_width: int,
        residual_blocks: int,
        conditioning: ConditioningKind,
    ) -> None:
        super().__init__()
        self.context: nn.Module | None = None
        if conditioning == "cross_attention":
            self.context = WordAttention(channels, text_width)
        elif conditioning == "modulation":
            self.context = SentenceContext(channels, text_width, modulates=True)
        joined = condition_width if self.context is None else channels
        self.joint = gated_convolution(joined + channels, channels)
        self.residual = nn.Sequential(*(GatedResidual(channels) for _ in range(residual_blocks)))
        self.upsampling = gated_upsampling(channels, channels // 2)

    def forward(
        self, x: Float[Tensor, "B C H W"], condition: Float[Tensor, "B D"], text: TextFeatures
    ) -> Tensor:
        """The next feature map (B, C / 2, 2H, 2W)."""
        if self.context is None:
            beside = condition[:, :, None, None].expand(-1, -1, *x.shape[2:])
        else:
            beside = self.context(x, text)
        return self.upsampling(self.residual(self.joint(torch.cat([beside, x], dim=1))))


class Generator(nn.Module):
    """G: a sentence and noise to images of three sizes.

    Args:
        resolution: H = W of the last image.
        text_width: width of the text features.
        conditioning: how text reaches the second and third stage.
        channels: C (``GF_DIM`` of the authors' code); divisible by 4.
        residual_blocks: of each later stage (``R_NUM``).
        noise_width: Z (``Z_DIM``).
        condition_width: width of the augmented condition (``EMBEDDING_DIM``).

    Raises:
        ConfigError: the resolution is no power of two of at least 16, or C is not divisible by 4.

    Source: Zhang et al. 2018 (StackGAN-v2), section 4.1; layout of the authors' code.
    Differs: none at 256 px.
    """

    def __init__(
        self,
        *,
        resolution: int,
        text_width: int,
        conditioning: ConditioningKind,
        channels: int,
        residual_blocks: int,
        noise_width: int,
        condition_width: int,
    ) -> None:
        super().__init__()
        if channels % 2 ** (STAGES - 1):
            raise ConfigError(
                f"model.module.generator.channels={channels} must be a multiple of 4, as it halves "
                "with each stage."
            )
        sides = pyramid_sides(resolution)
        self.noise_width = noise_width
        self.condition_width = condition_width
        self.augmentation = GatedAugmentation(text_width, condition_width)
        self.first = FirstStage(condition_width + noise_width, channels, sides[0])
        widths = [channels // 2**i for i in range(STAGES)]
        self.later = nn.ModuleList(
            JoinedStage(width, condition_width, text_width, residual_blocks, conditioning)
            for width in widths[:-1]
        )
        self.colours = nn.ModuleList(convolution_3x3(width, 3) for width in widths)
        orthogonal(self)

    @property
    def randomness(self) -> int:
        """Width of the noise: z, then that of the augmentation."""
        return self.noise_width + self.condition_width

    def forward(
        self,
        text: TextFeatures,
        noise: Float[Tensor, "B Z"],
        later: tuple[TextFeatures, int] | None = None,
    ) -> Drawn:
        """Images in (-1, 1) of every stage.

        Args:
            text: features of B captions.
            noise: (B, ``randomness``) standard normal, truncated by the caller.
            later: another text, and the first stage that reads it.
        """
        texts = texts_of_stages(text, later)
        z, of_condition = noise.split([self.noise_width, self.condition_width], dim=1)
        augmented = self.augmentation(texts[0].pooled, of_condition)
        maps = [self.first(torch.cat([augmented.code, z], dim=1))]
        code = augmented.code
        for stage, before, told in zip(self.later, texts, texts[1:], strict=False):
            if told is not before:
                code = self.augmentation(told.pooled, of_condition).code
            maps.append(stage(maps[-1], code, told))
        drawn = [torch.tanh(colour(x)) for colour, x in zip(self.colours, maps, strict=True)]
        return Drawn(tuple(drawn), augmented)


class StackGANv2(StagedPlayers):
    """StackGAN-v2 family: a tree of three stages, three discriminators of two heads.

        D: sum_i L(real, c) + 2 L(real) + L(real, c') + L(fake, c) + L(fake)
        G: sum_i L(fake, c) + L(fake) + 2 KL

    with c the mean of the augmented condition, and c' that of the next caption.

    Args:
        text_encoder: see ``TextToImageModule``; one that is trained learns in the generator's step.
        generator: factory, called with ``resolution`` and ``text_width``.
        discriminator: factory, called with ``resolution`` and ``text_width``, the width of c; None
            for published generators without one, which only sample.
        generator_optimizer: factory of the generator's optimiser, and a trained text encoder's.
        discriminator_optimizer: factory of the discriminators' optimiser.
        resolution: H = W of the images; a power of two of at least 16.
        null_text_probability: 0 for a GAN: it is not guided.
        gradient_clip_norm: see ``TextToImageModule``.
        adversarial_loss: loss of both players.
        relativistic_gamma: weight of R1 and R2; of ``adversarial_loss=relativistic`` alone.
        divergence_weight: weight of the augmentation's KL.
        augment: changes of what the discriminators see; [] is none.
        accumulation: parts of a batch that are computed one after the other.
        truncation_psi: default truncation.

    Raises:
        ConfigError: the resolution is none of the pyramid's, ``accumulation`` is below 1, or the
            text encoder has no words where they are attended to.

    Source: Zhang et al. 2018 (StackGAN-v2), eq. 3-6; weights and alternation of the authors' code.
    Differs: images with wrong captions are those of the batch with the next caption, where the
        authors draw other images; hence realism of real images counts twice.
    """

    judges: ClassVar[tuple[str, ...]] = ("discriminators",)
    judges_teach_text: ClassVar[bool] = False

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        generator: Callable[..., nn.Module],
        discriminator: Callable[..., nn.Module] | None,
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        resolution: int,
        null_text_probability: float,
        gradient_clip_norm: float,
        adversarial_loss: AdversarialLoss,
        relativistic_gamma: float,
        divergence_weight: float,
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
        if any(isinstance(part, WordAttention) for part in self.generator.modules()):
            check_word_tokens(text_encoder, "this conditioning")
        self.discriminators: Any = None
        if discriminator is not None:
            width = self.generator.condition_width
            self.discriminators = discriminator(resolution=resolution, text_width=width)
        self.adversary = Adversary(adversarial_loss, relativistic_gamma)
        self.divergence_weight = divergence_weight
        self.augment = DiffAugment(augment)

    def parts(self) -> dict[str, nn.Module]:
        """Networks by name, each discriminator by itself."""
        found: dict[str, nn.Module] = {"generator": self.generator}
        if self.discriminators is not None:
            judges = self.discriminators.of_side
            found |= {f"discriminator_{side}": judge for side, judge in judges.items()}
        return found | {"text_encoder": self.text_encoder}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs the discriminators' step, then the generator's, on the same generated images.

        Raises:
            ConfigError: the batch is not split into equal parts of two images or more.

        Source: Zhang et al. 2018 (StackGAN-v2), authors' code.
        Differs: one optimiser has all discriminators, which share no weights.
        """
        of_generator, of_discriminators = cast(list[Any], self.optimizers())
        noise = TrainingNoise(len(batch), batch.image.device).normal(self.generator.randomness)
        batches = parts_of(batch, self.accumulation)
        parts = list(zip(batches, noise.chunk(len(batches)), strict=True))
        kept: list[Drawn] = []
        step = Step(self, of_discriminators, self.judging_parameters())
        judged = step.take(self._discriminator_losses(parts, kept), len(parts))
        logs = named("discriminator", judged, BALANCE)
        with self.judges_held():
            step = Step(self, of_generator, self.drawing_parameters())
            drawn = step.take(self._generator_losses(parts, kept), len(parts))
        return logs | named("generator", drawn, ("loss",))

    def _discriminator_losses(
        self, parts: Sequence[tuple[Batch, Tensor]], kept: list[Drawn]
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for batch, noise in parts:
            # Kept for the generator's step where the batch is one part, drawn again where not.
            with torch.set_grad_enabled(len(parts) == 1):
                drawn = self.generator(self.encode_text(batch), noise)
            if len(parts) == 1:
                kept.append(drawn)
            condition = drawn.augmented.mean.detach()
            real_images = image_pyramid(batch.image, STAGES)
            fake_images = [image.detach() for image in drawn.images]
            seen = self._changed(real_images)
            real = self.discriminators(seen, condition, True)
            fake = self.discriminators(self._changed(fake_images), condition)
            adversarial = loss = self.discriminator_loss(real, fake)
            logs = balance(real.together, fake.together, real_images[-1], fake_images[-1])
            if self.adversary.penalised:
                logs["penalty"] = penalty_of_stages(
                    self.adversary, self.discriminators, real_images, fake_images, condition
                )
                loss = loss + logs["penalty"]
            yield loss, logs | {"loss": adversarial}

    def discriminator_loss(self, real: Judged, fake: Judged) -> Float[Tensor, ""]:
        """Loss of all discriminators, see the class."""
        loss, terms = self.adversary.discriminator_loss, []
        for i in range(len(real.alone)):
            terms.append(loss(real.alone[i], [(1.0, fake.alone[i])], 2.0))
            terms.append(loss(real.told[i], [(1.0, fake.told[i]), (real.share, real.mistold[i])]))
        return torch.stack(terms).sum()

    def _generator_losses(
        self, parts: Sequence[tuple[Batch, Tensor]], kept: list[Drawn]
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for batch, noise in parts:
            drawn = kept.pop() if kept else self.generator(self.encode_text(batch), noise)
            condition = drawn.augmented.mean
            fake, real = self.discriminators(self._changed(drawn.images), condition), None
            if self.adversary.relativistic:
                with torch.no_grad():
                    images = self._changed(image_pyramid(batch.image, STAGES))
                    real = self.discriminators(images, condition)
            adversarial = generator_loss_of_stages(self.adversary, fake, real)
            divergence = drawn.augmented.divergence
            loss = adversarial + self.divergence_weight * divergence
            yield loss, {"loss": loss, "adversarial": adversarial, "divergence": divergence}

    def _changed(self, images: Sequence[Tensor]) -> list[Tensor]:
        return [self.augment(image) for image in images]
