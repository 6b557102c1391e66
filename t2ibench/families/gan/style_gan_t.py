"""StyleGAN-T (Sauer et al. 2023): the family, its losses and edits.

Its networks are in ``style_gan_t_generator`` and ``projected``. A step trains the discriminator's
heads on one draw of generated images and the generator on another. Both see images through a frozen
vision transformer, blurred at the beginning; a frozen CLIP can guide the generator as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from t2ibench.core.edits import Edit, Mixing, PromptMixing, StyleMixing
from t2ibench.core.errors import ConfigError
from t2ibench.core.frozen import FrozenHolder
from t2ibench.core.noise import Noise, TrainingNoise
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.contract import OptimizerFactory
from t2ibench.families.frozen_clip import FrozenClip
from t2ibench.families.gan.augment import Augmentation, DiffAugment
from t2ibench.families.gan.balance import BALANCE, balance
from t2ibench.families.gan.inversion import Paint
from t2ibench.families.gan.losses import AdversarialLoss, Adversary
from t2ibench.families.gan.players import TwoPlayers
from t2ibench.families.gan.projected import cropped
from t2ibench.families.gan.steps import Step, named, parts_of
from t2ibench.families.gan.style_gan_t_generator import Latents
from t2ibench.nn.stylegan import fading_blur
from t2ibench.text.contract import TextEncoder

CUT = 0.2
"""Side of the square that the augmentation cuts out, as a share of the image's (authors' code)."""

GUIDED_SIDE = 64
"""Side of the random part that CLIP sees of a larger image."""


class StyleGANT(TwoPlayers):
    """StyleGAN-T: text-conditional generator against projected heads.

    A text encoder that is trained along learns from the discriminator's loss; the generator reads
    its features without changing it.

    Args:
        text_encoder: see ``TextToImageModule``.
        backbone: a frozen vision transformer of ``projected``.
        clip: guides the generator; None: nothing does.
        generator: factory, called with ``resolution`` and ``text_width``.
        discriminator: factory of the heads, called with ``width``, ``maps`` and ``text_width``.
        generator_optimizer: factory of the generator's optimiser.
        discriminator_optimizer: factory of the heads' and text encoder's.
        resolution: H = W of the images.
        null_text_probability: 0 for a GAN: it is not guided.
        gradient_clip_norm: see ``TextToImageModule``.
        accumulation: parts into which a batch is split.
        adversarial_loss: loss of both players.
        relativistic_gamma: weight of R1 and of R2; of ``adversarial_loss=relativistic`` alone.
        augment: changes of what the discriminator sees.
        crop_probability: share of the calls that see a random part, where images are larger than
            the transformer's input.
        clip_weight: weight of the CLIP guidance.
        blur_sigma: sigma of the first step's blur, in image sides.
        blur_fade_images: images seen until nothing is blurred; 0: nothing ever is.
        truncation_psi: default truncation.

    Raises:
        ConfigError: a CLIP without a weight, or a weight without a CLIP.

    Source: Sauer et al. 2023 (StyleGAN-T), sections 3.1-3.4; the authors' public code.
    Differs: the losses are means, where the code divides the adversarial one by the batch of a
        GPU once more (so ``clip_weight`` here is theirs times that batch); blur and its fade are
        in image sides and images (their 32 px are 1/8 of 256); the second phase, in which the
        generator trains CLIP's text encoder, is left out.
    """

    edits: frozenset[str] = TwoPlayers.edits | {"prompt_mixing", "style_mixing"}
    mixings: ClassVar[tuple[Mixing, ...]] = ("layer",)

    held_back_by: ClassVar[str] = "model.module.blur_fade_images"

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        backbone: FrozenHolder,
        clip: FrozenClip | None = None,
        generator: Callable[..., nn.Module],
        discriminator: Callable[..., nn.Module],
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        resolution: int,
        null_text_probability: float,
        gradient_clip_norm: float,
        accumulation: int,
        adversarial_loss: AdversarialLoss,
        relativistic_gamma: float,
        augment: Sequence[Augmentation],
        crop_probability: float,
        clip_weight: float,
        blur_sigma: float,
        blur_fade_images: int,
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
        if (clip is None) != (clip_weight == 0):
            raise ConfigError(
                f"model.module.clip_weight={clip_weight:g} with {'no' if clip is None else 'a'} "
                "CLIP does not fit: guidance needs both; leave both out, or choose "
                "clip=dual_encoder or clip=published and model.module.clip_weight=0.2."
            )
        self.generator: Any = generator(resolution=resolution, text_width=text_encoder.width)
        self.backbone = backbone
        self.clip = clip
        vit: Any = backbone.frozen_networks["network"]
        self.seen_side = int(vit.image_size)
        self.discriminator: Any = discriminator(
            width=vit.width, maps=vit.maps, text_width=text_encoder.width
        )
        self.adversary = Adversary(adversarial_loss, relativistic_gamma)
        self.augment = DiffAugment(augment, cut=CUT)
        self.crop_probability = crop_probability
        self.clip_weight = clip_weight
        self.blur_sigma = blur_sigma
        self.blur_fade_images = blur_fade_images

    def parts(self) -> dict[str, nn.Module]:
        """Networks by name; the generator's two by themselves, the frozen ones inside holders."""
        own = {n: p for n, p in super().parts().items() if n not in ("generator", "clip")}
        frozen = {"backbone": self.backbone.frozen_networks["network"]}
        if self.clip is not None:
            frozen["clip"] = self.clip.towers
        of_generator = dict(self.generator.named_children())
        return own | of_generator | frozen

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs the discriminator's step, then the generator's, on generated images of its own.

        Source: Sauer et al. 2023, section 3; the authors' training loop.
        Differs: see the class.
        """
        of_generator, of_discriminator = cast(list[Any], self.optimizers())
        parts = parts_of(batch, self.accumulation)
        noise = TrainingNoise(len(batch), batch.image.device)
        first, second = (self.generator.draw(noise) for _ in range(2))
        texts: list[TextFeatures] = []
        step = Step(self, of_discriminator, self.judging_parameters())
        logs = step.take(self._discriminator_losses(parts, first, texts), len(parts))
        told = named("discriminator", logs, BALANCE)
        with self.judges_held():
            step = Step(self, of_generator, self.drawing_parameters())
            logs = step.take(self._generator_losses(parts, second, texts), len(parts))
        return told | named("generator", logs, ("loss",))

    def _discriminator_losses(
        self, parts: Sequence[Batch], drawn: Latents, texts: list[TextFeatures]
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Loss and logs of each part; its text without gradients is kept for the generator."""
        for part, latents in zip(parts, drawn.split(len(parts)), strict=True):
            text = self.encode_text(part)
            known = text.detach()
            texts.append(known)
            with torch.no_grad():
                fake_images = self.generator(known, latents)
            fake, real = self.judge(fake_images, text), self.judge(part.image, text)
            loss = self.adversary.discriminator_loss(real, [(1.0, fake)])
            logs = {"loss": loss} | balance(real, fake, part.image, fake_images)
            if self.adversary.penalised:
                judge = partial(self._believes, known)
                logs["penalty"] = self.adversary.penalty(judge, part.image, fake_images)
                loss = loss + logs["penalty"]
            yield loss, logs

    def _generator_losses(
        self, parts: Sequence[Batch], drawn: Latents, texts: Sequence[TextFeatures]
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Loss and logs of each part."""
        for part, latents, text in zip(parts, drawn.split(len(parts)), texts, strict=True):
            images = self.generator(text, latents)
            real = None
            if self.adversary.relativistic:
                with torch.no_grad():
                    real = self.judge(part.image, text)
            loss = self.adversary.generator_loss(self.judge(images, text), real)
            logs = {"adversarial": loss}
            if self.clip is not None:
                logs["clip"] = self.clip_weight * self.guidance(images, part.caption)
                loss = loss + logs["clip"]
            yield loss, logs | {"loss": loss}

    def judge(self, images: Images, text: TextFeatures) -> Float[Tensor, "B L"]:
        """Logits of images with their captions: blurred, augmented, cropped, as features.

        Source: Sauer et al. 2023, section 3.2; the authors' code.
        Differs: none.
        """
        fade = 1 - self.images_seen / self.blur_fade_images if self.blur_fade_images else 0.0
        images = fading_blur(images, max(fade, 0.0) * self.blur_sigma * self.resolution)
        images = self.augment(images)
        if images.shape[-1] > self.seen_side and float(torch.rand(())) < self.crop_probability:
            images = cropped(images, self.seen_side)
        return self.discriminator(self.backbone(images), normalize(text.pooled, dim=1))

    def _believes(self, text: TextFeatures, images: Images) -> Float[Tensor, " B"]:
        # The virtual batch norm mixes images of a group; a penalty on their sum bounds each still.
        return self.judge(images, text).mean(1)

    def guidance(self, images: Images, captions: Sequence[str]) -> Float[Tensor, ""]:
        """Mean squared angle between generated images and captions in CLIP's space.

        Source: Sauer et al. 2023, section 3.3; the authors' code for the random part of 64 px.
        Differs: resized by CLIP's own filter, where the code enlarges by areas.
        """
        assert self.clip is not None
        if images.shape[-1] > GUIDED_SIDE:
            images = cropped(images, GUIDED_SIDE)
        return spherical_distance(
            self.clip.embed_generated(images), self.clip.embed_texts(captions)
        ).mean()

    def sample(
        self,
        text: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
        edit: Edit | None = None,
    ) -> Images:
        """Generates images in one forward pass; edits by descent in the latents of all layers.

        Source: Sauer et al. 2023, section 3.4 (truncation).
        Differs: none without an edit; see ``inversion`` for those.
        """
        if edit is not None and not isinstance(edit, PromptMixing | StyleMixing):
            return super().sample(text, noise, knobs, edit)
        z, maps = self.generator.draw(noise)
        later, z = self._mixed(text, z, edit)
        return self.generator(text, Latents(z, maps), knobs["truncation_psi"], later)

    def invertible(self, noise: Noise, knobs: Mapping[str, float]) -> tuple[Paint, list[Tensor]]:
        """The generator as a function of text and latents, and the latents of a batch.

        They are a z for each layer, all of a sample's the same at first, and the noise maps.
        """

        def paint(text: TextFeatures, latents: Sequence[Tensor]) -> Images:
            free = Latents(latents[0], list(latents[1:]))
            return self.generator(text, free, knobs["truncation_psi"])

        z, maps = self.generator.draw(noise)
        return paint, [z[:, None].repeat(1, self.generator.layers, 1), *maps]

    def _mixed(self, text: TextFeatures, z: Tensor, edit: Edit | None) -> tuple[Any, Tensor]:
        """Text that takes over in the finer layers and the first that reads it, and z by layer."""
        layers = self.generator.layers
        if isinstance(edit, PromptMixing):
            return (edit.text.to(text.tokens.device), round(edit.switch * layers)), z
        if isinstance(edit, StyleMixing):
            first = round(edit.switch * layers)
            finer = self.generator.draw(edit.noise).z.to(z)
            return None, torch.stack([z] * first + [finer] * (layers - first), 1)
        return None, z


def spherical_distance(a: Float[Tensor, "B E"], b: Float[Tensor, "B E"]) -> Float[Tensor, " B"]:
    """Squared angle between vectors.

    Source: Sauer et al. 2023, section 3.3.
    Differs: cosines end a hair before 1, where the angle has no gradient.
    """
    cosine = (normalize(a, dim=1) * normalize(b, dim=1)).sum(1)
    return cosine.clamp(-1 + 1e-6, 1 - 1e-6).arccos().square()
