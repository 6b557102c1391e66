"""Blocks with gated linear units, of which StackGAN-v2 and AttnGAN are built.

A gate halves the channels: GLU([a ; b]) = a sigmoid(b) (Dauphin et al. 2017, eq. 1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.nn.batch_norm import BatchNorm

BATCH_NORM_SPREAD = 0.02
"""Standard deviation of batch norm's initial gains around one."""


class Augmented(NamedTuple):
    """Output of conditioning augmentation.

    Attributes:
        code: (B, D) the sampled condition.
        mean: (B, D) of its distribution.
        log_variance: (B, D) of its distribution.
    """

    code: Float[Tensor, "B D"]
    mean: Float[Tensor, "B D"]
    log_variance: Float[Tensor, "B D"]

    @property
    def divergence(self) -> Float[Tensor, ""]:
        """Divergence KL(N(mean, variance) || N(0, 1)), averaged over captions and dimensions."""
        wide = torch.promote_types(self.mean.dtype, torch.float32)
        mean, log_variance = self.mean.to(wide), self.log_variance.to(wide)
        return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean()


class GatedAugmentation(nn.Module):
    r"""Conditioning augmentation: c = mu + exp(logvar / 2) eps, [mu ; logvar] = GLU(W t + b).

    Args:
        text_width: width of the sentence vector t.
        width: D of c.

    Source: Zhang et al. 2017 (StackGAN), section 3.2; the gate is of the authors' later code
        (StackGAN-v2, AttnGAN).
    Differs: none.
    """

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(text_width, 4 * width)
        self.gate = nn.GLU(dim=1)

    def forward(self, sentence: Float[Tensor, "B T"], noise: Float[Tensor, "B D"]) -> Augmented:
        """Samples the condition; ``noise`` is standard normal."""
        mean, log_variance = self.gate(self.fc(sentence)).chunk(2, dim=1)
        return Augmented(mean + (0.5 * log_variance).exp() * noise, mean, log_variance)


class GatedResidual(nn.Module):
    """Residual block x + BN(conv(GLU(BN(conv(x))))).

    Source: Zhang et al. 2018 (StackGAN-v2), authors' code.
    Differs: none.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            convolution_3x3(channels, 2 * channels),
            BatchNorm(2 * channels),
            nn.GLU(dim=1),
            convolution_3x3(channels, channels),
            BatchNorm(channels),
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Computes the block."""
        return x + self.block(x)


class GatedProjection(nn.Module):
    """Noise and condition as a first 4 x 4 map: GLU(BN(W [c ; z])).

    Args:
        inputs: width of [c ; z].
        channels: C of the map.

    Source: Zhang et al. 2018 (StackGAN-v2), authors' code.
    Differs: none.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.fc = nn.Sequential(
            nn.Linear(inputs, channels * 4 * 4 * 2, bias=False),
            BatchNorm(channels * 4 * 4 * 2),
            nn.GLU(dim=1),
        )

    def forward(self, joint: Float[Tensor, "B J"]) -> Float[Tensor, "B C 4 4"]:
        """Computes the map."""
        return self.fc(joint).view(len(joint), self.channels, 4, 4)


def gated_upsampling(channels: int, out: int) -> nn.Sequential:
    """Nearest neighbours of twice the side, then GLU(BN(conv)).

    Source: Zhang et al. 2018 (StackGAN-v2), authors' code.
    Differs: none.
    """
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"), *gated_convolution(channels, out)
    )


def gated_convolution(channels: int, out: int) -> nn.Sequential:
    """Convolution that keeps the side: GLU(BN(conv))."""
    return nn.Sequential(convolution_3x3(channels, 2 * out), BatchNorm(2 * out), nn.GLU(dim=1))


def convolution_3x3(channels: int, out: int) -> nn.Conv2d:
    """Convolution 3x3 without bias, padded by one."""
    return nn.Conv2d(channels, out, 3, padding=1, bias=False)


def orthogonal(network: nn.Module) -> None:
    """Initialises weights orthogonally, biases to zero, and batch norm's gains to N(1, 0.02^2).

    Source: authors' code of AttnGAN.
    Differs: none.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(layer.weight)
        elif isinstance(layer, BatchNorm):
            nn.init.normal_(layer.weight, 1.0, BATCH_NORM_SPREAD)
        if isinstance(layer, nn.Linear | BatchNorm) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
