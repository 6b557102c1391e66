"""GigaGAN as a family.

Kang et al. 2023, "Scaling up GANs for text-to-image synthesis". Networks: ``giga_generator``,
``giga_discriminator``; losses: ``giga_losses``; what enlarges its images: ``giga_upsampler``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.core.edits import Edit, Mixing, PromptMixing, StyleMixing
from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import Noise, TrainingNoise
from t2ibench.core.ranks import world_size
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.contract import OptimizerFactory
from t2ibench.families.frozen_clip import FrozenClip
from t2ibench.families.gan.augment import Augmentation, DiffAugment
from t2ibench.families.gan.balance import BALANCE, balance
from t2ibench.families.gan.giga_discriminator import VisionDiscriminator, pyramid_of, realism
from t2ibench.families.gan.giga_losses import (
    PENALISED,
    PyramidGame,
    caption_embeddings,
    clip_contrastive_loss,
)
from t2ibench.families.gan.inversion import Paint
from t2ibench.families.gan.losses import AdversarialLoss, Adversary
from t2ibench.families.gan.players import TwoPlayers
from t2ibench.families.gan.steps import Step, named, parts_of
from t2ibench.text.contract import TextEncoder


class GigaGAN(TwoPlayers):
    """GigaGAN family: a generator of pyramids against a multi-scale discriminator.

    A trainable text encoder learns with the discriminator, from its losses.

    Args:
        text_encoder: see ``TextToImageModule``.
        generator: factory, called with ``resolution`` and ``text_width``.
        discriminator: factory, called with ``resolution`` and ``text_width``.
        generator_optimizer: factory of the generator's optimiser.
        discriminator_optimizer: factory of the discriminators' and text encoder's.
        resolution: H = W of the images, a power of two of at least 8.
        null_text_probability: 0 for a GAN: it is not guided.
        gradient_clip_norm: see ``TextToImageModule``.
        adversarial_loss: loss of both players.
        relativistic_gamma: weight of R1 and R2; of ``adversarial_loss=relativistic`` alone.
        matching_weight: weight of real and generated images with wrong captions.
        r1_gamma: weight of the lazy R1; 0 is off.
        r1_interval: steps between two R1 penalties.
        clip_weight: weight of the contrastive loss in the space of ``clip``; 0 is off.
        clip_temperature: of the contrastive loss.
        vision_weight: weight of the vision-aided discriminator over ``backbone``; 0 is off.
        vision_width: of its heads.
        augment: differentiable augmentation of what the discriminator sees.
        accumulation: parts of a batch whose gradients are accumulated.
        truncation_psi: default truncation.
        clip: frozen CLIP; never the evaluator's.
        backbone: frozen network that gives feature maps (``engine.parts.frozen_backbone``).

    Raises:
        ConfigError: a weight without its part, or a part without its weight.

    Source: Kang et al. 2023 (GigaGAN), section 3.
    Differs: weights of the losses are not verified; no caption is dropped; the discriminator's
        wrong captions are the neighbours' in the batch.
    """

    edits: frozenset[str] = TwoPlayers.edits | {"prompt_mixing", "style_mixing"}
    judges: ClassVar[tuple[str, ...]] = ("discriminator", "vision")
    held_back_by: ClassVar[str] = "model.module.r1_gamma"
    mixings: ClassVar[tuple[Mixing, ...]] = ("layer",)

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
        matching_weight: float,
        r1_gamma: float,
        r1_interval: int,
        clip_weight: float,
        clip_temperature: float,
        vision_weight: float,
        vision_width: int,
        augment: Sequence[Augmentation],
        accumulation: int,
        truncation_psi: float,
        clip: FrozenClip | None = None,
        backbone: nn.Module | None = None,
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
        _together("clip_weight", clip_weight, "clip", clip)
        _together("vision_weight", vision_weight, "backbone", backbone)
        width = text_encoder.width
        self.generator: Any = generator(resolution=resolution, text_width=width)
        self.discriminator: Any = discriminator(resolution=resolution, text_width=width)
        self.clip = clip
        self.backbone: Any = backbone
        self.vision: VisionDiscriminator | None = None
        if backbone is not None:
            network: Any = cast(Any, backbone).frozen_networks["network"]
            self.vision = VisionDiscriminator(
                maps=network.maps,
                channels=network.width,
                width=vision_width,
                text_width=int(cast(Any, self.discriminator.branch).width),
            )
        self.game = PyramidGame(
            Adversary(adversarial_loss, relativistic_gamma),
            DiffAugment(augment),
            matching_weight,
            r1_gamma,
            r1_interval,
        )
        self.clip_weight = clip_weight
        self.clip_temperature = clip_temperature
        self.vision_weight = vision_weight

    def parts(self) -> dict[str, nn.Module]:
        """Networks by name, including the CLIP's frozen towers."""
        found = {n: part for n, part in super().parts().items() if n not in ("clip", "backbone")}
        if self.clip is not None:
            found["clip"] = self.clip.towers
        if self.backbone is not None:
            found["backbone"] = self.backbone.frozen_networks["network"]
        return found

    # ---- training ----

    @property
    def second_derivatives(self) -> str:
        """Key of the penalty that is on, of the relativistic loss or R1."""
        return self.game.penalty_key

    def step_kind(self, images: int) -> str:
        """``PENALISED`` where the lazy R1 is due, see ``PyramidGame``."""
        return self.game.kind(self.images_seen // (images * world_size()))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs the discriminator's step, then the generator's, for the same latents.

        Source: Kang et al. 2023 (GigaGAN), section 3.4.
        Differs: both players see the same generated images.
        """
        of_generator, of_discriminator = cast(list[Any], self.optimizers())
        parts = parts_of(batch, self.accumulation)
        noise = TrainingNoise(len(batch), batch.image.device).normal(self.generator.noise_width)
        drawn = None
        if len(parts) == 1:  # one graph serves both steps
            drawn = self.generator(self.encode_text(batch).detach(), noise)
        given = list(zip(parts, noise.chunk(len(parts)), strict=True))
        step = Step(self, of_discriminator, self.judging_parameters())
        judged = step.take(self._discriminator_losses(given, drawn), len(parts))
        logs = named("discriminator", judged, BALANCE)
        with self.judges_held():
            step = Step(self, of_generator, self.drawing_parameters())
            made = step.take(self._generator_losses(batch, given, drawn), len(parts))
        return logs | named("generator", made, ("loss",))

    def _discriminator_losses(
        self, parts: Sequence[tuple[Batch, Tensor]], drawn: list[Tensor] | None
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Loss and logs of each part of the batch, given with its latents."""
        penalise = self.step_kind(sum(len(part) for part, *_ in parts)) == PENALISED
        for part, noise in parts:
            text = self.encode_text(part)
            with torch.no_grad():
                fake = drawn or self.generator(text.detach(), noise)
            real = pyramid_of(part.image, len(fake))
            fake = [images.detach() for images in fake]
            loss, logs, (right, false) = self.game.discriminator_loss(
                self.discriminator, real, fake, text, penalise
            )
            if self.vision is not None:
                logs["vision"] = self._vision_loss(part.image, fake[-1], text)
                loss = loss + self.vision_weight * logs["vision"]
            yield loss, logs | balance(realism(right), realism(false), part.image, fake[-1])

    def _generator_losses(
        self,
        batch: Batch,
        parts: Sequence[tuple[Batch, Tensor]],
        drawn: list[Tensor] | None,
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Loss and logs of each part of the batch, given with its latents."""
        captions = caption_embeddings(self.clip, self.clip_weight, batch)
        first = 0
        for part, noise in parts:
            with torch.no_grad():
                text = self.encode_text(part)
            fake = drawn or self.generator(text, noise)
            real = pyramid_of(part.image, len(fake))
            loss = self.game.generator_loss(self.discriminator, real, fake, text)
            logs = {"adversarial": loss}
            if captions is not None and self.clip is not None:
                shown, rows = self.clip.embed_generated(fake[-1]), slice(first, first + len(part))
                logs["clip"] = clip_contrastive_loss(shown, captions, self.clip_temperature, rows)
                loss = loss + self.clip_weight * logs["clip"]
            first += len(part)
            if self.vision is not None:
                seen = self._vision_logits(fake[-1], text)
                other = None
                if self.game.adversary.relativistic:
                    with torch.no_grad():
                        other = self._vision_logits(part.image, text)
                logs["vision"] = self.game.adversary.generator_loss(seen, other)
                loss = loss + self.vision_weight * logs["vision"]
            yield loss, logs | {"loss": loss}

    def _vision_logits(self, images: Images, text: TextFeatures) -> Float[Tensor, " B"]:
        """Mean logit of the vision-aided discriminator's heads, one an image."""
        assert self.vision is not None
        maps = self.backbone(self.game.augment(images))
        return realism(self.vision(maps, self.discriminator.branch(text).pooled)) / len(maps)

    def _vision_loss(self, real: Images, fake: Images, text: TextFeatures) -> Tensor:
        """Loss of the vision-aided discriminator."""
        right, false = (self._vision_logits(images, text) for images in (real, fake))
        return self.game.adversary.discriminator_loss(right, [(1.0, false)])

    # ---- sampling ----

    def invertible(self, noise: Noise, knobs: Mapping[str, float]) -> tuple[Paint, list[Tensor]]:
        """The generator as a function of text and z; no noise maps are published.

        Source: Kang et al. 2023 (GigaGAN), section 4.5 (interpolation of text and of z).
        Differs: none.
        """
        generator, psi = self.generator, knobs["truncation_psi"]

        def paint(text: TextFeatures, latents: Sequence[Tensor]) -> Images:
            told = generator.branch(text)
            style = generator.mapping.truncated(latents[0], told.pooled, psi)
            styles = [style] * len(generator.levels)
            return generator.synthesise(styles, generator.contexts(told))[-1]

        return paint, [noise.normal(generator.noise_width)]

    def sample(
        self,
        text: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
        edit: Edit | None = None,
    ) -> Images:
        """Generates images in one forward pass; edits by descent in z.

        Source: Kang et al. 2023 (GigaGAN), section 4.5 (prompt mixing); Karras et al. 2019
            (StyleGAN), section 3.1 (style mixing).
        Differs: see ``edited`` for img2img and inpainting.
        """
        if not isinstance(edit, StyleMixing | PromptMixing):
            return super().sample(text, noise, knobs, edit)
        generator, psi = self.generator, knobs["truncation_psi"]
        z = finer = noise.normal(generator.noise_width)
        told = later = generator.branch(text)
        if isinstance(edit, PromptMixing):
            later = generator.branch(edit.text.to(z.device))
        else:
            finer = edit.noise.normal(generator.noise_width).to(z)
        count = len(generator.levels)
        kept = round(edit.switch * count)
        styles = [generator.mapping.truncated(z, told.pooled, psi)] * kept
        styles += [generator.mapping.truncated(finer, later.pooled, psi)] * (count - kept)
        contexts = generator.contexts(told)[:kept] + generator.contexts(later)[kept:]
        return generator.synthesise(styles, contexts)[-1]


def _together(weight_name: str, weight: float, part_name: str, part: nn.Module | None) -> None:
    """Refuses a weight without its part, and a part without its weight."""
    if (weight > 0) != (part is not None):
        others = "dual_encoder" if part_name == "clip" else "vit_random"
        raise ConfigError(
            f"model.module.{weight_name}={weight:g} with {'no' if part is None else 'a'} "
            f"{part_name} does not fit, as one needs the other; set "
            f"model.module.{weight_name}=0 {part_name}=none, or {part_name}={others} with a "
            "weight above 0."
        )
