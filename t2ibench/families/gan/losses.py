"""Losses of text-conditional GANs: adversarial, matching-aware, gradient penalty."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args
from zlib import crc32

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, relu, softplus

from t2ibench.core.errors import ConfigError
from t2ibench.core.ranks import gathered, own, world_size

AdversarialLoss = Literal["non_saturating", "hinge"]
Matching = Literal["wrong_text", "contrastive"]
Logits = Float[Tensor, " B"]
WORD = re.compile(r"[^\W_]+")


def discriminator_loss(
    kind: AdversarialLoss, real: Logits, fake: Logits, wrong: Logits, wrong_weight: float
) -> Float[Tensor, ""]:
    """Loss of the discriminator: E[l(real, 1)] + E[l(fake, 0)] + w E[l(wrong, 0)].

    non_saturating: l(x, 1) = softplus(-x) and l(x, 0) = softplus(x); hinge: relu(1 - x) and
    relu(1 + x).

    Args:
        kind: the loss l.
        real: (B,) logits of real images with their captions.
        fake: (B,) logits of generated images with their captions.
        wrong: (B,) logits of real images with captions of others.
        wrong_weight: w; 0.5 in the paper's code.

    Raises:
        ConfigError: the kind is unknown.

    Source: Reed et al. 2016 (GAN-INT-CLS), algorithm 1; Lim and Ye 2017 (geometric GAN),
        eq. 12 (hinge).
    Differs: generated images keep weight 1.
    """
    if kind == "non_saturating":
        return (softplus(-real) + softplus(fake) + wrong_weight * softplus(wrong)).mean()
    if kind == "hinge":
        return (relu(1 - real) + relu(1 + fake) + wrong_weight * relu(1 + wrong)).mean()
    raise ConfigError(
        f"adversarial_loss={kind} is unknown; choose {', '.join(get_args(AdversarialLoss))}."
    )


def generator_loss(kind: AdversarialLoss, fake: Logits) -> Float[Tensor, ""]:
    """Loss of the generator: mean softplus(-fake) for non-saturating, mean -fake for hinge.

    Source: Goodfellow et al. 2014, section 3; Lim and Ye 2017, eq. 13.
    Differs: none.
    """
    return softplus(-fake).mean() if kind == "non_saturating" else -fake.mean()


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


def gradient_penalty(logits: Logits, nudged: Logits, sigma: float) -> Float[Tensor, ""]:
    """Approximate R1 penalty: E[(D(x + sigma n) - D(x))^2] / sigma^2, n standard normal.

    To first order in sigma it equals R1, E|dD/dx|^2, and needs no second derivative.

    Args:
        logits: (B,) logits of images.
        nudged: (B,) logits of the same images plus sigma n.
        sigma: standard deviation of the perturbation, in units of [-1, 1] images.

    Source: Lin et al. 2025 (adversarial post-training), approximated R1; Mescheder et al.
        2018, eq. 9 (R1).
    Differs: divided by sigma^2, so that its weight means what R1's means; the factor
        gamma / 2 is the caller's.
    """
    return (nudged - logits).square().mean() / sigma**2
