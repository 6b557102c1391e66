"""Losses of text-conditional GANs: adversarial, matching-aware, gradient penalty."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal, get_args
from zlib import crc32

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, relu, softplus

from t2ibench.core.errors import ConfigError
from t2ibench.core.ranks import gathered, noise_like, own, world_size
from t2ibench.core.types import Images

AdversarialLoss = Literal["non_saturating", "hinge", "relativistic"]
Matching = Literal["wrong_text", "contrastive"]
Logits = Float[Tensor, " B"]
WORD = re.compile(r"[^\W_]+")


class Adversary:
    r"""Adversarial loss of both players, over any number of kinds of wrong examples.

    With real logits :math:`r`, and kinds :math:`k` of examples that should be told from them with
    logits :math:`f_k` and weights :math:`w_k` (generated images, real images with wrong captions):

        non_saturating  D: w E[softplus(-r)] + sum_k w_k E[softplus(f_k)]    G: E[softplus(-f)]
        hinge           D: w E[relu(1 - r)] + sum_k w_k E[relu(1 + f_k)]     G: -E[f]
        relativistic    D: sum_k w_k E[softplus(f_k - r)]                    G: E[softplus(r - f)]

    The relativistic loss pairs example i of each kind with real image i, and comes with
    zero-centred gradient penalties on real and generated images (``penalised``); binary
    cross-entropy of a sigmoid is the non-saturating loss.

    Args:
        kind: the loss.
        gamma: weight of R1 and of R2, each halved, in the relativistic loss; unused by the others.

    Raises:
        ConfigError: the kind is unknown, or gamma is negative.

    Source: Goodfellow et al. 2014, section 3; Lim and Ye 2017 (geometric GAN), eq. 12-13 (hinge);
        Huang et al. 2024 (R3GAN), section 2 (relativistic, R1 and R2).
    Differs: a matching-aware discriminator has several kinds of wrong examples (Reed et al. 2016).
    """

    def __init__(self, kind: AdversarialLoss, gamma: float = 0.0) -> None:
        if kind not in get_args(AdversarialLoss):
            raise ConfigError(
                f"model.module.adversarial_loss={kind} is unknown; choose "
                f"{', '.join(get_args(AdversarialLoss))}."
            )
        if gamma < 0:
            raise ConfigError(f"model.module.relativistic_gamma={gamma:g} must not be negative.")
        self.kind = kind
        self.gamma = gamma

    @property
    def relativistic(self) -> bool:
        """True where the generator's loss needs the logits of real images."""
        return self.kind == "relativistic"

    @property
    def penalised(self) -> bool:
        """True where the discriminator's loss has ``penalty`` on real and on generated images."""
        return self.relativistic and self.gamma > 0

    def discriminator_loss(
        self, real: Tensor, wrong: Sequence[tuple[float, Tensor]], real_weight: float = 1.0
    ) -> Float[Tensor, ""]:
        """Loss of the discriminator.

        Args:
            real: (B, ...) logits of real images with their captions.
            wrong: weight and (b, ...) logits of each kind of wrong examples; b at most B, of the
                first b real images.
            real_weight: weight of the real ones; unused by the relativistic loss.
        """
        if self.kind == "relativistic":
            pairs = [(weight, softplus(f - real[: len(f)])) for weight, f in wrong]
            return torch.stack([weight * loss.mean() for weight, loss in pairs]).sum()
        if self.kind == "hinge":
            terms = [real_weight * relu(1 - real).mean()]
            terms += [weight * relu(1 + f).mean() for weight, f in wrong]
        else:
            terms = [real_weight * softplus(-real).mean()]
            terms += [weight * softplus(f).mean() for weight, f in wrong]
        return torch.stack(terms).sum()

    def generator_loss(self, fake: Tensor, real: Tensor | None = None) -> Float[Tensor, ""]:
        """Loss of the generator.

        Args:
            fake: (B, ...) logits of generated images with their captions.
            real: (B, ...) logits of the real images, without gradients; of the relativistic loss.
        """
        if self.kind == "relativistic":
            assert real is not None, "the relativistic loss compares with real images"
            return softplus(real - fake).mean()
        return softplus(-fake).mean() if self.kind == "non_saturating" else -fake.mean()

    def penalty(
        self, judge: Callable[[Images], Tensor], real: Images, fake: Images
    ) -> Float[Tensor, ""]:
        """Penalty gamma/2 (R1 + R2) of the relativistic loss, in float32."""
        both = zero_centred_penalty(judge, real) + zero_centred_penalty(judge, fake)
        return self.gamma / 2 * both


def zero_centred_penalty(judge: Callable[[Images], Tensor], images: Images) -> Float[Tensor, ""]:
    """Mean over images of the squared gradient norm of their summed logits, in float32.

    On real images it is R1, on generated ones R2. The factor gamma / 2 is the caller's, as is the
    number of steps between two penalties (times which a lazy one is weighted).

    Args:
        judge: maps images to logits (B, ...); each image's depend on that image alone.
        images: (B, 3, H, W) in [-1, 1]; needs no gradient.

    Source: Mescheder et al. 2018, eq. 9.
    Differs: none.
    """
    with torch.autocast(images.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        inputs = images.detach().float().requires_grad_()
        # A view: the counter of FLOPs cannot follow a gradient to a leaf that enters a module.
        logits = judge(inputs.view_as(inputs))
        (gradient,) = torch.autograd.grad(logits.float().sum(), inputs, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def matching_loss(
    kind: Matching,
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "B D"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """Loss of matching images to their captions, from unit-length embeddings.

    wrong_text: binary cross-entropy of scale * cos, label 1 for (image i, caption i) and 0 for
    (image i, caption i + 1), the matching-aware pairs of GAN-CLS.
    contrastive: every caption of the batch is the wrong one of the others,
    (CE(S) + CE(S^T)) / 2 with S = scale * image text^T. The batch is that of all ranks; each has
    the mean over its own rows.

    Args:
        kind: the choice of wrong pairs.
        image: (B, D) unit length; B at least 2.
        text: (B, D) unit length.
        scale: inverse temperature.

    Raises:
        ConfigError: the kind is unknown.

    Source: Reed et al. 2016 (GAN-INT-CLS), algorithm 1; Zhang et al. 2021 (XMC-GAN), eq. 5.
    Differs: the matching score is separate from the realism score, in both kinds.
    """
    if kind == "contrastive":
        similarity = scale * image @ gathered(text).T
        mine = own(torch.arange(len(image) * world_size(), device=image.device), len(image))
        captions = own(gathered(similarity).T, len(image))
        return (cross_entropy(similarity, mine) + cross_entropy(captions, mine)) / 2
    if kind == "wrong_text":
        right = scale * (image * text).sum(1)
        wrong = scale * (image * own(gathered(text).roll(1, 0), len(text))).sum(1)
        return binary_cross_entropy_with_logits(
            torch.cat([right, wrong]), torch.cat([torch.ones_like(right), torch.zeros_like(wrong)])
        )
    raise ConfigError(f"matching={kind} is unknown; choose {', '.join(get_args(Matching))}.")


def caption_words(captions: Sequence[str], buckets: int) -> Float[Tensor, "B V"]:
    """Multi-hot word labels of captions: 1 at the hash of each word, else 0.

    Words are hashed, not looked up, so that the target does not depend on the text encoder.

    Args:
        captions: B captions.
        buckets: V; two words share one with probability 1 / V.

    Source: Weinberger et al. 2009 (feature hashing), section 2.
    Differs: no signs; presence in place of counts.
    """
    rows = [[crc32(word.encode()) % buckets for word in WORD.findall(c.lower())] for c in captions]
    found = torch.zeros(len(captions), buckets)
    for row, ids in enumerate(rows):
        found[row, ids] = 1.0
    return found


def redescription_loss(
    logits: Float[Tensor, "B V"], words: Float[Tensor, "B V"]
) -> Float[Tensor, ""]:
    """Binary cross-entropy of the caption's words read off the image, summed over words.

    The discriminator learns it on real images; the generator learns to draw images from which
    its caption's words can be read. Unlike a contrast within the batch it teaches every word of
    every caption at each step.

    Args:
        logits: (B, V) of each word.
        words: (B, V) 1 where the caption has it.

    Source: Qiao et al. 2019 (MirrorGAN), section 3.3; Odena et al. 2017 (AC-GAN), eq. 2-3.
    Differs: words without their order in place of a caption model or a class.
    """
    return binary_cross_entropy_with_logits(logits, words, reduction="none").sum(1).mean()


def gradient_penalty(
    judge: Callable[[Images], Logits], images: Images, sigma: float
) -> Float[Tensor, ""]:
    """Approximate R1 penalty: E[(D(x + sigma n) - D(x))^2] / sigma^2, n standard normal.

    To first order in sigma it equals R1, E|dD/dx|^2, and needs no second derivative. In float32:
    half precision rounds the difference away.

    Args:
        judge: maps images to logits (B,).
        images: (B, 3, H, W) in [-1, 1].
        sigma: standard deviation of the perturbation, in units of [-1, 1] images.

    Source: Lin et al. 2025 (adversarial post-training), approximated R1; Mescheder et al.
        2018, eq. 9 (R1).
    Differs: divided by sigma^2, so that its weight means what R1's means; the factor
        gamma / 2 is the caller's.
    """
    images = images.float()
    with torch.autocast(images.device.type, enabled=False):
        difference = judge(images + sigma * noise_like(images)) - judge(images)
    return difference.square().mean() / sigma**2
