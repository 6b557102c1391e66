"""Upsampler of GigaGAN: a cascade's stage on a trained run of any family.

Kang et al. 2023, "Scaling up GANs for text-to-image synthesis", section 3.6. It is fully
convolutional: an image of any size is enlarged in tiles, with what is reached by its filters
around each, which gives what the whole image gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import l1_loss, pad

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import TrainingNoise
from t2ibench.core.ranks import noise_like, own_rows, world_size
from t2ibench.core.types import Batch, TextFeatures
from t2ibench.families.contract import OptimizerFactory, TextToImageModule
from t2ibench.families.gan.augment import Augmentation, DiffAugment
from t2ibench.families.gan.balance import BALANCE, balance
from t2ibench.families.gan.giga_discriminator import Halving, pyramid_of, realism
from t2ibench.families.gan.giga_generator import (
    StyleMapping,
    SynthesisLevel,
    TextBranch,
    enlarged,
    text_attention,
)
from t2ibench.families.gan.giga_losses import PENALISED, PyramidGame
from t2ibench.families.gan.losses import AdversarialLoss, Adversary
from t2ibench.families.gan.steps import Step, named, parts_of
from t2ibench.families.gan.upper_stage import UpperStage
from t2ibench.nn.adaptive import EqualisedConv
from t2ibench.nn.conditioning import ConditioningKind
from t2ibench.samplers.tiles import tiled
from t2ibench.text.contract import TextEncoder


class UpsamplingUNet(nn.Module):
    """Asymmetric U-Net: a few halvings of the low-resolution image, then doublings beyond it.

    An output pixel depends on a part of the image, never on all of it: there is no attention over
    positions and no normalisation by an image's statistics.

    Args:
        upscale: factor by which each side grows, a power of two.
        text_width: D of the text features.
        noise_width: Z.
        style_width: width of w.
        mapping_depth: layers of the mapping.
        halvings: levels below the low resolution.
        channel_base: channels of the deepest level; each doubling has half of those before,
        channel_max: but at most these.
        depth: convolutions of a level on the way up.
        candidates: N, kernels in each bank.
        heads: number of heads of the attention to words, and of the text branch's.
        branch_width: width of the text branch.
        branch_depth: its blocks.
        conditioning: how text reaches the feature maps; the style reads it always.

    Raises:
        ConfigError: ``upscale`` is no power of two of at least 2, ``channel_base`` is too small for
            it, or heads divide no width.

    Source: Kang et al. 2023 (GigaGAN), section 3.6 (three halvings and six doublings for 64 to 512
        px, skip connections of the same resolution).
    Differs: without self-attention, so that tiles equal the whole; text is read by the levels up
        to the low resolution; the low-resolution image is added to the colours; widths are not
        published.
    """

    def __init__(
        self,
        *,
        upscale: int,
        text_width: int,
        noise_width: int,
        style_width: int,
        mapping_depth: int,
        halvings: int,
        channel_base: int,
        channel_max: int,
        depth: int,
        candidates: int,
        heads: int,
        branch_width: int,
        branch_depth: int,
        conditioning: ConditioningKind,
    ) -> None:
        super().__init__()
        if upscale < 2 or upscale & (upscale - 1):
            raise ConfigError(
                f"model.module.upscale={upscale} is no power of two; choose 2, 4, 8 or 16."
            )
        doublings = upscale.bit_length() - 1
        self.noise_width, self.halvings, self.depth = noise_width, halvings, depth
        self.upscale = upscale
        self.branch = TextBranch(
            text_width=text_width, width=branch_width, depth=branch_depth, heads=heads
        )
        self.mapping = StyleMapping(
            noise_width=noise_width,
            text_width=branch_width,
            width=style_width,
            depth=mapping_depth,
        )
        widths = [
            min(channel_base >> level, channel_max) for level in range(halvings + doublings + 1)
        ]
        if 0 in widths:
            raise ConfigError(
                f"model.module.generator.channel_base={channel_base} leaves no channels after "
                f"{halvings + doublings} doublings; set at least {2 ** (halvings + doublings)}."
            )
        self.first = EqualisedConv(3, widths[halvings], 3, padding=1)
        self.down = nn.ModuleList(
            Halving(widths[level], widths[level - 1], None) for level in range(halvings, 0, -1)
        )
        self.up = nn.ModuleList()
        for level, width in enumerate(widths):
            beside = width if 0 < level <= halvings else 0
            reads = level <= halvings
            made = SynthesisLevel(
                widths[max(level - 1, 0)] + beside,
                width,
                style_width=style_width,
                depth=depth,
                candidates=candidates,
                attention=None,
                text=text_attention(conditioning, width, branch_width, heads) if reads else None,
                colours=level >= halvings,
            )
            self.up.append(made)

    def blocks_to_shard(self) -> list[nn.Module]:
        """The levels of both ways."""
        return [*self.down, *self.up]

    @property
    def multiple(self) -> int:
        """Height and width of an input are multiples of it."""
        return 2**self.halvings

    @property
    def halo(self) -> int:
        """Distance in low-resolution pixels beyond which nothing reaches an output pixel."""
        reach = 1.0  # the first convolution
        for level in range(self.halvings):  # 1 by the convolution, 2 by the filter and the stride
            reach += 3 * 2**level
        for level in range(len(self.up)):
            cell = 2.0 ** (self.halvings - level)
            reach += self.depth * cell + (2 * cell if level else 0)  # a coarser cell by enlarging
        return math.ceil(reach / self.multiple) * self.multiple

    def contexts(self, words: TextFeatures) -> list[Any]:
        """Prompt's part of each level, from the text branch's output; computed once a prompt."""
        return [cast(SynthesisLevel, level).prepare(words) for level in self.up]

    def enlarge(
        self, low: Float[Tensor, "B 3 h w"], style: Float[Tensor, "B D"], contexts: Sequence[Any]
    ) -> list[Tensor]:
        """Images of every size from the low resolution up, the smallest first.

        Args:
            low: sides are multiples of ``multiple``.
            style: of each image.
            contexts: of each level.
        """
        x = self.first(low)
        beside = [x]
        for half in self.down:
            x = half(x)
            beside.append(x)
        x = beside.pop()
        images: list[Tensor] = []
        for number, (level, context) in enumerate(zip(self.up, contexts, strict=True)):
            if number:
                x = enlarged(x)
                x = torch.cat([x, beside.pop()], 1) if beside else x
            x, colours = level(x, style, context)
            if colours is not None:
                images.append((enlarged(images[-1]) if images else low) + colours)
        return images

    def forward(
        self,
        low: Float[Tensor, "B 3 h w"],
        text: TextFeatures,
        noise: Float[Tensor, "B Z"],
    ) -> list[Tensor]:
        """Images of every size from the low resolution up, the smallest first, unbounded."""
        told = self.branch(text)
        return self.enlarge(low, self.mapping(noise, told.pooled), self.contexts(told))


class GigaUpsampler(UpperStage):
    """GigaGAN's upsampler as a stage of a cascade.

    Args:
        text_encoder: the base's, frozen (``frozen_base.BaseText``).
        base: the trained module whose images are enlarged; frozen here, its weights are not in
            this module's state dict.
        generator: factory of the U-Net, called with ``upscale`` and ``text_width``.
        discriminator: factory, called with ``resolution``, ``inputs`` and ``text_width``.
        generator_optimizer: factory of the U-Net's optimiser.
        discriminator_optimizer: factory of the discriminator's.
        resolution: H = W of the enlarged images in training, a power of two.
        upscale: factor by which each side grows.
        null_text_probability: 0 for a GAN: it is not guided.
        gradient_clip_norm: see ``TextToImageModule``.
        adversarial_loss: loss of both players.
        relativistic_gamma: weight of R1 and R2; of ``adversarial_loss=relativistic`` alone.
        matching_weight: weight of real and enlarged images with wrong captions.
        r1_gamma: weight of the lazy R1; 0 is off.
        r1_interval: steps between two R1 penalties.
        reconstruction_weight: weight of the mean absolute error to the true image.
        noise_augmentation: greatest standard deviation of the noise on low-resolution images in
            training, drawn uniformly from 0.
        augment: differentiable augmentation of what the discriminator sees.
        accumulation: parts of a batch whose gradients are accumulated.
        truncation_psi: default truncation of this stage.
        tile: side of a tile in low-resolution pixels, a multiple of the U-Net's; larger images are
            enlarged in several.

    Raises:
        ConfigError: a base of another resolution, an impossible factor or tile.

    Source: Kang et al. 2023 (GigaGAN), section 3.6.
    Differs: the mean absolute error in place of LPIPS, whose weights are not ours to ship; no
        contrastive loss; see ``UpsamplingUNet``.
    """

    held_back_by: ClassVar[str] = "model.module.r1_gamma"
    neutral_arguments: ClassVar[frozenset[str]] = frozenset({"tile"})

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        base: TextToImageModule,
        generator: Callable[..., nn.Module],
        discriminator: Callable[..., nn.Module],
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        resolution: int,
        upscale: int,
        null_text_probability: float,
        gradient_clip_norm: float,
        adversarial_loss: AdversarialLoss,
        relativistic_gamma: float,
        matching_weight: float,
        r1_gamma: float,
        r1_interval: int,
        reconstruction_weight: float,
        noise_augmentation: float,
        augment: Sequence[Augmentation],
        accumulation: int,
        truncation_psi: float,
        tile: int,
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
        if base.resolution * upscale != resolution:
            raise ConfigError(
                f"model.module.upscale={upscale} makes {base.resolution * upscale} px of the "
                f"base's {base.resolution}, and data.resolution={resolution}."
            )
        self.upscale_factor = upscale
        width = text_encoder.width
        self.generator: Any = generator(upscale=upscale, text_width=width)
        self.discriminator: Any = discriminator(
            resolution=resolution, inputs=upscale.bit_length(), text_width=width
        )
        if tile < self.generator.multiple or tile % self.generator.multiple:
            raise ConfigError(
                f"model.module.tile={tile} is no multiple of {self.generator.multiple}, as the "
                f"U-Net's {self.generator.halvings} halvings need."
            )
        self.game = PyramidGame(
            Adversary(adversarial_loss, relativistic_gamma),
            DiffAugment(augment),
            matching_weight,
            r1_gamma,
            r1_interval,
        )
        self.reconstruction_weight = reconstruction_weight
        self.noise_augmentation = noise_augmentation
        self.tile = tile

    # ---- training ----

    @property
    def second_derivatives(self) -> str:
        """Key of the penalty that is on, of the relativistic loss or R1."""
        return self.game.penalty_key

    def step_kind(self, images: int) -> str:
        """``PENALISED`` where the lazy R1 is due, see ``PyramidGame``."""
        return self.game.kind(self.images_seen // (images * world_size()))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs the discriminator's step, then the U-Net's, on the same enlarged images.

        Source: Kang et al. 2023 (GigaGAN), section 3.6 (noise on the low-resolution image).
        Differs: see the class.
        """
        of_generator, of_discriminator = cast(list[Any], self.optimizers())
        parts = parts_of(batch, self.accumulation)
        low, latents = self._inputs(batch)
        drawn = None
        if len(parts) == 1:  # one graph serves both steps
            drawn = self.generator(low, self.encode_text(batch), latents)
        count = len(parts)
        given = list(zip(parts, low.chunk(count), latents.chunk(count), strict=True))
        step = Step(self, of_discriminator, self.judging_parameters())
        judged = step.take(self._discriminator_losses(given, drawn), count)
        logs = named("discriminator", judged, BALANCE)
        with self.judges_held():
            step = Step(self, of_generator, self.drawing_parameters())
            made = step.take(self._generator_losses(given, drawn), count)
        return logs | named("generator", made, ("loss",))

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Low-resolution images with noise on them, and latents."""
        low = pyramid_of(batch.image, self.upscale_factor.bit_length())[0]
        if self.noise_augmentation > 0:
            draws = own_rows(lambda n: torch.rand(n, 1, 1, 1, device=low.device), len(low))
            low = low + self.noise_augmentation * draws * noise_like(low)
        latents = TrainingNoise(len(batch), low.device).normal(self.generator.noise_width)
        return low, latents

    def _discriminator_losses(
        self, parts: Sequence[tuple[Batch, Tensor, Tensor]], drawn: list[Tensor] | None
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Loss and logs of each part of the batch, given with its small images and latents."""
        penalise = self.step_kind(sum(len(part) for part, *_ in parts)) == PENALISED
        for part, low, latents in parts:
            text = self.encode_text(part)
            with torch.no_grad():
                fake = drawn or self.generator(low, text, latents)
            real = pyramid_of(part.image, len(fake))
            fake = [images.detach() for images in fake]
            loss, logs, (right, false) = self.game.discriminator_loss(
                self.discriminator, real, fake, text, penalise
            )
            yield loss, logs | balance(realism(right), realism(false), part.image, fake[-1])

    def _generator_losses(
        self, parts: Sequence[tuple[Batch, Tensor, Tensor]], drawn: list[Tensor] | None
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Loss and logs of each part of the batch, given with its small images and latents."""
        for part, low, latents in parts:
            text = self.encode_text(part)
            fake = drawn or self.generator(low, text, latents)
            real = pyramid_of(part.image, len(fake))
            adversarial = self.game.generator_loss(self.discriminator, real, fake, text)
            error = l1_loss(fake[-1], part.image)
            loss = adversarial + self.reconstruction_weight * error
            yield loss, {
                "adversarial": adversarial, "reconstruction": error, "loss": loss,
            }  # fmt: skip

    # ---- sampling ----

    @property
    def noise_width(self) -> int:
        """Width of z."""
        return self.generator.noise_width

    def redrawn(
        self,
        low: Float[Tensor, "B 3 h w"],
        text: TextFeatures,
        latents: Float[Tensor, "B Z"],
        knobs: Mapping[str, float],
    ) -> Float[Tensor, "B 3 H W"]:
        """Images ``upscale`` times as large; sides that halvings do not divide are padded."""
        network, (height, width) = self.generator, low.shape[-2:]
        told = network.branch(text)
        style = network.mapping.truncated(latents, told.pooled, knobs["truncation_psi"])
        contexts = network.contexts(told)
        missing = (-width % network.multiple, -height % network.multiple)
        low = pad(low, (0, missing[0], 0, missing[1]), mode="replicate")
        whole = tiled(
            lambda piece: network.enlarge(piece, style, contexts)[-1].clamp(-1, 1),
            low,
            upscale=self.upscale_factor,
            tile=self.tile,
            halo=network.halo,
        )
        return whole[..., : self.upscale_factor * height, : self.upscale_factor * width]
