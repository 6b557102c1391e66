"""AttnGAN: a sentence makes a small image, words refine it region by region.

Xu et al. 2018, "AttnGAN: Fine-grained text to image generation with attentional generative
adversarial networks". Three stages draw images of a quarter, a half and the whole of the side
(``attn_gan_networks.py``); from the second on, every place of the feature map attends to the words
of the caption. A discriminator a stage judges realism with and without the caption, and DAMSM
(``families/damsm.py``) says whether words and regions of the last image belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.core.noise import Noise, TrainingNoise
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.contract import OptimizerFactory
from t2ibench.families.damsm import FrozenDAMSM, Matched
from t2ibench.families.gan.attn_gan_networks import (
    STAGES,
    Drawn,
    Judged,
    WordAttention,
    image_pyramid,
)
from t2ibench.families.gan.augment import Augmentation, DiffAugment
from t2ibench.families.gan.balance import BALANCE, balance
from t2ibench.families.gan.losses import AdversarialLoss, Adversary
from t2ibench.families.gan.stage_losses import generator_loss_of_stages, penalty_of_stages
from t2ibench.families.gan.staged import StagedPlayers
from t2ibench.families.gan.steps import Step, named, parts_of
from t2ibench.text.contract import TextEncoder, check_word_tokens


class Part(NamedTuple):
    """Rows of a batch that are computed at once.

    Attributes:
        batch: the rows.
        noise: theirs.
        drawn: what the generator made of them for its own step, where it is kept.
    """

    batch: Batch
    noise: Tensor
    drawn: list[tuple[TextFeatures, Drawn]]


class AttnGAN(StagedPlayers):
    """AttnGAN family: three stages with word attention, three discriminators, DAMSM.

        D: sum_i (L(real) + L(real, t)) / 2 + (L(fake) + L(fake, t) + L(real, t')) / 3
        G: sum_i L(fake) + L(fake, t) + lambda (L_words + L_sentence) + KL

    with the DAMSM losses of the last image alone, and captions t' of other images.

    Args:
        text_encoder: see ``TextToImageModule``; the paper's is DAMSM's (``text=damsm``). One that
            is trained learns from real images in the discriminators' step.
        damsm: frozen; its text tower encodes captions for its own losses.
        generator: factory, called with ``resolution`` and ``text_width``.
        discriminator: factory, called with ``resolution`` and ``text_width``; None for published
            generators without one, which only sample.
        generator_optimizer: factory of the generator's optimiser.
        discriminator_optimizer: factory of the discriminators', and of a trained text encoder's.
        resolution: H = W of the images; a power of two of at least 16.
        null_text_probability: 0 for a GAN: it is not guided.
        gradient_clip_norm: see ``TextToImageModule``.
        adversarial_loss: loss of both players.
        relativistic_gamma: weight of R1 and R2; of ``adversarial_loss=relativistic`` alone.
        damsm_weight: lambda.
        divergence_weight: weight of the augmentation's KL.
        augment: changes of what the discriminators see; [] is none.
        accumulation: parts of a batch that are computed one after the other; batch norm and the
            DAMSM losses are of a part.
        truncation_psi: default truncation.

    Raises:
        ConfigError: the text encoder gives no vector a word, the resolution is none of the
            pyramid's, or ``accumulation`` is below 1.

    Source: Xu et al. 2018 (AttnGAN), eq. 3-6; layout, weights and alternation of the authors' code.
    Differs: real images of the smaller stages are means over pixels; captions that two images of
        a batch share are no negatives of one another, as images of one class are not in the
        authors' code.
    """

    judges: ClassVar[tuple[str, ...]] = ("discriminators",)
    held_back_by: ClassVar[str] = "model.module.generator_optimizer.lr"

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        damsm: FrozenDAMSM,
        generator: Callable[..., nn.Module],
        discriminator: Callable[..., nn.Module] | None,
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        resolution: int,
        null_text_probability: float,
        gradient_clip_norm: float,
        adversarial_loss: AdversarialLoss,
        relativistic_gamma: float,
        damsm_weight: float,
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
        sizes: dict[str, Any] = {"resolution": resolution, "text_width": text_encoder.width}
        self.generator: Any = generator(**sizes)
        self.discriminators: Any = None if discriminator is None else discriminator(**sizes)
        if self.draws_attention:
            check_word_tokens(text_encoder, "AttnGAN")
        self.damsm = damsm
        self.adversary = Adversary(adversarial_loss, relativistic_gamma)
        self.damsm_weight = damsm_weight
        self.divergence_weight = divergence_weight
        self.augment = DiffAugment(augment)

    @property
    def draws_attention(self) -> bool:
        """True where the generator attends to words."""
        return any(isinstance(part, WordAttention) for part in self.generator.modules())

    def parts(self) -> dict[str, nn.Module]:
        """Networks by name, each discriminator and each tower of DAMSM by itself."""
        found: dict[str, nn.Module] = {"generator": self.generator}
        if self.discriminators is not None:
            judges = self.discriminators.of_side
            found |= {f"discriminator_{side}": judge for side, judge in judges.items()}
        network = self.damsm.network
        found |= {"damsm_text": network.text}
        if network.image is not None:
            found["damsm_image"] = network.image
        if not self.damsm.is_text_of(self.text_encoder):
            found["text_encoder"] = self.text_encoder
        return found

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs the discriminators' step, then the generator's, on the same generated images.

        Raises:
            ConfigError: the batch is not split into equal parts of two images or more.

        Source: Xu et al. 2018 (AttnGAN), authors' code.
        Differs: one optimiser has all discriminators, which share no weights.
        """
        of_generator, of_discriminators = cast(list[Any], self.optimizers())
        noise = TrainingNoise(len(batch), batch.image.device).normal(self.generator.randomness)
        batches = parts_of(batch, self.accumulation)
        parts = [
            Part(some, draws, [])
            for some, draws in zip(batches, noise.chunk(len(batches)), strict=True)
        ]
        step = Step(self, of_discriminators, self.judging_parameters())
        judged = step.take(self._discriminator_losses(parts), len(parts))
        logs = named("discriminator", judged, BALANCE)
        with self.judges_held():
            step = Step(self, of_generator, self.drawing_parameters())
            drawn = step.take(self._generator_losses(parts), len(parts))
        return logs | named("generator", drawn, ("loss",))

    def _discriminator_losses(
        self, parts: Sequence[Part]
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for part in parts:
            text = self.encode_text(part.batch)
            known = text.detach()
            # Kept for the generator's step where the batch is one part, drawn again where not.
            with torch.set_grad_enabled(len(parts) == 1):
                drawn = self.generator(known, part.noise)
            if len(parts) == 1:
                part.drawn.append((known, drawn))
            real_images = image_pyramid(part.batch.image, STAGES)
            fake_images = [image.detach() for image in drawn.images]
            real = self.discriminators(self._changed(real_images), text.pooled, True)
            fake = self.discriminators(self._changed(fake_images), known.pooled)
            adversarial = loss = self.discriminator_loss(real, fake)
            logs = balance(real.together, fake.together, real_images[-1], fake_images[-1])
            if self.adversary.penalised:
                logs["penalty"] = penalty_of_stages(
                    self.adversary, self.discriminators, real_images, fake_images, known.pooled
                )
                loss = loss + logs["penalty"]
            yield loss, logs | {"loss": adversarial}

    def discriminator_loss(self, real: Judged, fake: Judged) -> Float[Tensor, ""]:
        """Loss of all discriminators, see the class."""
        terms = []
        for i in range(len(real.alone)):
            wrong = [(1 / 3, fake.told[i]), (real.share / 3, real.mistold[i])]
            loss = self.adversary.discriminator_loss
            terms.append(loss(real.alone[i], [(1 / 3, fake.alone[i])], 1 / 2))
            terms.append(loss(real.told[i], wrong, 1 / 2))
        return torch.stack(terms).sum()

    def _generator_losses(
        self, parts: Sequence[Part]
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for part in parts:
            text, drawn = part.drawn.pop() if part.drawn else self._draw(part)
            fake = self.discriminators(self._changed(drawn.images), text.pooled)
            real = None
            if self.adversary.relativistic:
                with torch.no_grad():
                    images = self._changed(image_pyramid(part.batch.image, STAGES))
                    real = self.discriminators(images, text.pooled)
            adversarial = generator_loss_of_stages(self.adversary, fake, real)
            matched = self.damsm_losses(drawn.images[-1], part.batch.caption, text)
            divergence = drawn.augmented.divergence
            loss = adversarial + self.divergence_weight * divergence
            loss = loss + self.damsm_weight * (matched.words + matched.sentence)
            yield (
                loss,
                {
                    "loss": loss,
                    "adversarial": adversarial,
                    "words": matched.words,
                    "sentence": matched.sentence,
                    "divergence": divergence,
                },
            )

    def damsm_losses(self, images: Images, captions: Sequence[str], text: TextFeatures) -> Matched:
        """Losses of the last images with their captions, which DAMSM encodes by itself."""
        own = self.damsm.is_text_of(self.text_encoder)
        words = text if own else self.damsm.encode_captions(captions).to(images.device)
        return self.damsm.losses(images, words, captions)

    def _draw(self, part: Part) -> tuple[TextFeatures, Drawn]:
        text = self.encode_text(part.batch).detach()
        return text, self.generator(text, part.noise)

    def _changed(self, images: Sequence[Tensor]) -> list[Tensor]:
        return [self.augment(image) for image in images]

    def attention_maps(
        self, text: TextFeatures, noise: Noise, knobs: Mapping[str, float]
    ) -> list[Tensor]:
        """Word attention (B, L, h, w) of the later stages for what ``sample`` draws, or none."""
        draws = knobs["truncation_psi"] * noise.normal(self.generator.randomness)
        return self.generator.attention_maps(text, draws)
