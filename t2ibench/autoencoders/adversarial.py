"""The adversarial part of a first stage: patch discriminators, losses, adaptive weight."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from t2ibench.core.ranks import averaged
from t2ibench.core.types import Images
from t2ibench.nn.batch_norm import BatchNorm

AdversarialLoss = Literal["hinge", "non_saturating"]

WIDEST = 8
"""Greatest width of the published discriminator, in multiples of its first."""


class PatchDiscriminator(nn.Module):
    """Discriminator of overlapping patches: images to a map of logits, one a patch.

    Args:
        channels: width of the first layer; each of the following doubles it.
        layers: strided 4x4 convolutions.

    Source: Isola et al. 2017 (pix2pix), section 3.2.2, as used by Esser et al. 2021 (VQGAN).
    Differs: no normalisation in place of BatchNorm, whose statistics would mix the images of
        a batch.
    """

    def __init__(self, *, channels: int, layers: int) -> None:
        super().__init__()
        widths = [3, *(channels * 2**i for i in range(layers))]
        stack: list[nn.Module] = []
        for i in range(layers):
            stack += [nn.Conv2d(widths[i], widths[i + 1], 4, stride=2, padding=1)]
            stack += [nn.LeakyReLU(0.2)]
        stack.append(nn.Conv2d(widths[-1], 1, 3, padding=1))
        self.layers = nn.Sequential(*stack)

    def forward(self, images: Images) -> Float[Tensor, "B 1 h w"]:
        """Logits; high where a patch looks real."""
        return self.layers(images)


class PublishedPatchDiscriminator(nn.Module):
    """Discriminator of overlapping patches with batch normalisation, pix2pix's.

    ``layers`` strided 4x4 convolutions, one of stride 1 and one to a logit; widths double from
    ``channels`` to 8 times that. Weights start as N(0, 0.02), gains as N(1, 0.02). With 64
    channels and 3 layers a patch is 70 px wide.

    Args:
        channels: width of the first layer.
        layers: strided convolutions.

    Attributes:
        least_side: pixels of the smallest images that it can judge.

    Source: Isola et al. 2017 (pix2pix), section 3.2.2 and appendix 6.1.2; released code of Esser
        et al. 2021 (VQGAN).
    Differs: several devices share the statistics of a batch.
    """

    def __init__(self, *, channels: int, layers: int) -> None:
        super().__init__()
        self.least_side = 3 * 2**layers
        widths = [channels * min(2**i, WIDEST) for i in range(layers + 1)]
        stack: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1)]
        stack += [nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 2 if i < layers else 1
            stack += [
                nn.Conv2d(widths[i - 1], widths[i], 4, stride=stride, padding=1, bias=False),
                BatchNorm(widths[i]),
                nn.LeakyReLU(0.2),
            ]
        stack.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.layers = nn.Sequential(*stack)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)
            elif isinstance(layer, BatchNorm):
                nn.init.normal_(layer.weight, 1.0, 0.02)

    def forward(self, images: Images) -> Float[Tensor, "B 1 h w"]:
        """Logits; high where a patch looks real."""
        return self.layers(images)


def non_saturating_discriminator_loss(real: Tensor, fake: Tensor) -> Float[Tensor, ""]:
    """Cross-entropy 0.5 (mean softplus(-D(x)) + mean softplus(D(x_hat))).

    Args:
        real: logits of real images, any shape.
        fake: logits of reconstructions, any shape.

    Source: Goodfellow et al. 2014, section 3; the half as in the released code of Esser et al.
        2021 (VQGAN), where it is called vanilla.
    Differs: none.
    """
    return 0.5 * (softplus(-real).mean() + softplus(fake).mean())


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Float[Tensor, ""]:
    """Hinge loss 0.5 (mean relu(1 - D(x)) + mean relu(1 + D(x_hat))).

    Args:
        real: logits of real images, any shape.
        fake: logits of reconstructions, any shape.

    Source: Esser et al. 2021 (VQGAN), released loss; Lim and Ye 2017 (geometric GAN), eq. 12.
    Differs: none.
    """
    return 0.5 * (relu(1 - real).mean() + relu(1 + fake).mean())


def adaptive_weight(
    reconstruction: Tensor, adversarial: Tensor, last_layer: nn.Parameter
) -> Float[Tensor, ""]:
    """Weight || grad_L reconstruction || / (|| grad_L adversarial || + 1e-4), in [0, 1e4].

    L are the decoder's last weights, so that both losses pull at the image equally hard; the
    gradients are those of the batch of all ranks.

    Args:
        reconstruction: scalar loss with its graph.
        adversarial: scalar loss with its graph.
        last_layer: L.

    Source: Esser et al. 2021 (VQGAN), eq. 7.
    Differs: 1e-4 in the denominator as the released code has it, where the paper has 1e-6.
    """
    (pull,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (push,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    pull, push = averaged(pull), averaged(push)
    return (pull.norm() / (push.norm() + 1e-4)).clamp(0.0, 1e4).detach()
