"""The adversarial part of a first stage: patch discriminator, hinge losses, adaptive weight."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from t2ibench.core.ranks import averaged
from t2ibench.core.types import Images


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
