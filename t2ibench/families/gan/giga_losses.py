"""Losses of GigaGAN: adversarial at every scale, matching-aware, contrastive in a CLIP's space.

Kang et al. 2023, "Scaling up GANs for text-to-image synthesis", sections 3.3-3.5. Generator and
upsampler are trained by the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from t2ibench.core.ranks import gathered, own, world_size
from t2ibench.core.types import Batch, TextFeatures
from t2ibench.families.frozen_clip import FrozenClip
from t2ibench.families.gan.augment import DiffAugment
from t2ibench.families.gan.giga_discriminator import (
    GigaDiscriminator,
    Logits,
    packed,
    realism,
    unpacked,
)
from t2ibench.families.gan.giga_generator import Pyramid
from t2ibench.families.gan.losses import Adversary, zero_centred_penalty
from t2ibench.families.gan.pairs import next_caption

PENALISED = "penalised"
"""Kind of a step with a lazy penalty."""


def multiscale_discriminator_loss(
    adversary: Adversary, right: Logits, wrong: Sequence[tuple[float, Logits]]
) -> Float[Tensor, ""]:
    r"""Loss of the discriminator, :math:`\sum_{ij}` of that of each pair of input and output.

    Logits of one pair are averaged over positions.

    Args:
        adversary: the loss of a pair.
        right: logits of real images with their captions.
        wrong: weight and logits of each kind of wrong examples.

    Source: Kang et al. 2023 (GigaGAN), eq. 3 and 7.
    Differs: none.
    """
    terms = []
    for j, real in enumerate(right):
        kinds = [(weight, logits[j]) for weight, logits in wrong]
        terms.append(real.shape[1] * adversary.discriminator_loss(real, kinds))
    return torch.stack(terms).sum()


def multiscale_generator_loss(
    adversary: Adversary, fake: Logits, real: Logits | None
) -> Float[Tensor, ""]:
    """Loss of the generator, summed over pairs of input and output as the discriminator's is.

    Args:
        adversary: the loss of a pair.
        fake: logits of generated images with their captions.
        real: logits of real images, without gradients; of the relativistic loss alone.

    Source: Kang et al. 2023 (GigaGAN), eq. 3.
    Differs: none.
    """
    terms = [
        logits.shape[1] * adversary.generator_loss(logits, None if real is None else real[j])
        for j, logits in enumerate(fake)
    ]
    return torch.stack(terms).sum()


def clip_contrastive_loss(
    images: Float[Tensor, "b E"],
    captions: Float[Tensor, "B E"],
    temperature: float,
    rows: slice,
) -> Float[Tensor, ""]:
    r"""Contrastive loss :math:`-\log \mathrm{softmax}_n(e_i \cdot t_n / \tau)_i` of images.

    Args:
        images: unit vectors of a part of the batch's generated images.
        captions: unit vectors of this rank's captions; those of all ranks are compared with.
        temperature: tau.
        rows: which of the captions are the images' own.

    Source: Kang et al. 2023 (GigaGAN), eq. 8.
    Differs: the paper writes no temperature.
    """
    count = len(captions)
    similarity = images @ gathered(captions).T / temperature
    mine = own(torch.arange(count * world_size(), device=images.device), count)[rows]
    return cross_entropy(similarity, mine)


class PyramidGame:
    """The game of a generator of pyramids against a ``GigaDiscriminator``.

    Args:
        adversary: adversarial loss of a pair of input and output.
        augment: changes of what the discriminator sees, drawn anew for each size.
        matching_weight: weight of real and of generated images with wrong captions.
        r1_gamma: weight of R1; 0 is off. Unused where the adversary has penalties of its own.
        r1_interval: steps between two R1 penalties, each weighted by their number.

    Source: Kang et al. 2023 (GigaGAN), section 3.4; Karras et al. 2020 (StyleGAN2), section 3.1
        (lazy regularisation).
    Differs: Adam's rates are not scaled by the share of steps with a penalty; the penalty is taken
        of all sizes at once.
    """

    def __init__(
        self,
        adversary: Adversary,
        augment: DiffAugment,
        matching_weight: float,
        r1_gamma: float,
        r1_interval: int,
    ) -> None:
        self.adversary = adversary
        self.augment = augment
        self.matching_weight = matching_weight
        self.r1_gamma = r1_gamma
        self.r1_interval = r1_interval

    @property
    def penalty_key(self) -> str:
        """Configuration key of the penalty that is on; empty without one."""
        if self.adversary.penalised:
            return "model.module.relativistic_gamma"
        return "model.module.r1_gamma" if self.r1_gamma > 0 else ""

    def kind(self, step: int) -> str:
        """``PENALISED`` at the last step of each interval, whose FLOPs are its own; else empty."""
        wanted = self.r1_gamma > 0 and not self.adversary.penalised
        return PENALISED if wanted and step % self.r1_interval == self.r1_interval - 1 else ""

    def discriminator_loss(
        self,
        judge: GigaDiscriminator,
        real: Pyramid,
        fake: Pyramid,
        text: TextFeatures,
        penalise: bool,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor], tuple[Logits, Logits]]:
        """Loss of the discriminator, its terms, and logits of real and generated images."""
        count = len(text)
        texts = [text, next_caption(text)] if self.matching_weight > 0 else [text]
        pyramid = [self.augment(torch.cat(pair)) for pair in zip(real, fake, strict=True)]
        judged = judge(pyramid, texts)
        right, false = split(judged[0], count)
        loss = multiscale_discriminator_loss(self.adversary, right, [(1.0, false)])
        logs = {"loss": loss.detach()}
        if self.matching_weight > 0:
            wrong = [(self.matching_weight, logits) for logits in split(judged[1], count)]
            loss = multiscale_discriminator_loss(self.adversary, right, [(1.0, false), *wrong])
            logs["matching"] = loss.detach() - logs["loss"]
        if penalise or self.adversary.penalised:
            logs["penalty"] = self._penalty(judge, real, fake, text)
            loss = loss + (self.r1_interval if penalise else 1) * logs["penalty"]
        return loss, logs, (right, false)

    def _penalty(
        self, judge: GigaDiscriminator, real: Pyramid, fake: Pyramid, text: TextFeatures
    ) -> Tensor:
        """Zero-centred penalty of the summed logits of all pairs, with their captions.

        What is logged is that of one step, without the number of steps that a lazy one stands for.
        """
        sides = [images.shape[-1] for images in real]

        def judged(row: Tensor) -> Tensor:
            return realism(judge(unpacked(row, sides), [text])[0])

        if self.adversary.penalised:
            return self.adversary.penalty(judged, packed(real), packed(fake))
        return self.r1_gamma / 2 * zero_centred_penalty(judged, packed(real))

    def generator_loss(
        self, judge: GigaDiscriminator, real: Pyramid, fake: Pyramid, text: TextFeatures
    ) -> Float[Tensor, ""]:
        """Adversarial loss of the generator."""
        judged = judge([self.augment(images) for images in fake], [text])[0]
        paired = None
        if self.adversary.relativistic:
            with torch.no_grad():
                paired = judge([self.augment(images) for images in real], [text])[0]
        return multiscale_generator_loss(self.adversary, judged, paired)


def split(logits: Logits, count: int) -> tuple[Logits, Logits]:
    """Logits of real and of generated images, judged in one batch."""
    return [x[:count] for x in logits], [x[count:] for x in logits]


def caption_embeddings(clip: FrozenClip | None, weight: float, batch: Batch) -> Tensor | None:
    """Unit vectors of a batch's captions, where a contrastive loss asks for them."""
    return clip.embed_texts(batch.caption) if clip is not None and weight > 0 else None
