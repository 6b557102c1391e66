"""Convolutional encoder and decoder of the first stages.

The image enters by space-to-depth and leaves by depth-to-space, so that no convolution runs
at full resolution: there a 3x3 layer costs most and sees least.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.core.errors import ConfigError

NORM_EPSILON = 1e-6


class PixelNorm(nn.Module):
    """Normalisation x / rms(x over channels) * gain + shift, each position by itself.

    A norm over positions would let the wide flat background set the scale of the small
    foreground, and its colour is then learned last (measured here: 29.5 against 30.1 dB).

    Source: Karras et al. 2018 (progressive GAN), section 4.2.
    Differs: learned gain and shift a channel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Computes the layer, see the class."""
        scale = torch.rsqrt(x.square().mean(1, keepdim=True) + NORM_EPSILON)
        return x * scale * self.gain + self.shift


class ResidualBlock(nn.Module):
    """Residual block x + Conv(silu(N(Conv(silu(N(x)))))), its last convolution zero at the start.

    Source: Esser et al. 2021 (VQGAN), appendix table 8, after He et al. 2016.
    Differs: ``PixelNorm`` for GroupNorm; the second convolution starts at zero, so that a block
        starts as the identity.
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.layers = nn.Sequential(
            PixelNorm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, kernel_size, padding=padding),
            PixelNorm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, kernel_size, padding=padding),
        )
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Computes the layer, see the class."""
        return x + self.layers(x)


class ConvEncoder(nn.Module):
    """Encoder of images to feature maps, ``stem_factor * 2^(levels - 1)`` times smaller.

    Args:
        out_channels: channels of the result.
        channels: width of each level, from the largest map to the smallest.
        blocks: residual blocks a level.
        stem_factor: side of the pixel blocks that space-to-depth folds into channels.
        kernel_size: 3, or 1: then a latent sees the pixels of its own patch and no others, so
            that equal patches have equal codes wherever they lie.

    Raises:
        ConfigError: another kernel size, no level, or a stem factor below 1.

    Source: Esser et al. 2021 (VQGAN), appendix table 8.
    Differs: space-to-depth stem in place of the levels at full resolution, strided 4x4
        convolutions between levels, no attention, and no norm before the last layer: with the
        blocks at their start the network is linear, and colours get through from step one.
    """

    def __init__(
        self,
        *,
        out_channels: int,
        channels: Sequence[int],
        blocks: int,
        stem_factor: int,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        if kernel_size not in (1, 3):
            raise ConfigError(
                f"encoder_kernel_size={kernel_size} must be 3, or 1 for codes of single patches."
            )
        size, padding = kernel_size, kernel_size // 2
        self.spatial_factor = _spatial_factor(channels, stem_factor)
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(stem_factor),
            nn.Conv2d(3 * stem_factor**2, channels[0], size, padding=padding),
        ]
        layers += [ResidualBlock(channels[0], size) for _ in range(blocks)]
        for wide, narrow in pairwise(channels):
            layers.append(nn.Conv2d(wide, narrow, 1 + size, stride=2, padding=padding))
            layers += [ResidualBlock(narrow, size) for _ in range(blocks)]
        layers.append(nn.Conv2d(channels[-1], out_channels, size, padding=padding))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Computes the layer, see the class."""
        return self.layers(images)


class ConvDecoder(nn.Module):
    """Decoder of latents to images, the mirror of ``ConvEncoder``.

    Args:
        in_channels: channels of the latents.
        channels: width of each level, from the largest map to the smallest (as the encoder's).
        blocks: residual blocks a level.
        stem_factor: side of the pixel blocks that depth-to-space unfolds.

    Source: Esser et al. 2021 (VQGAN), appendix table 8.
    Differs: depth-to-space (sub-pixel convolution) in place of nearest upsampling, no attention,
        no norm before the last layer.
    """

    def __init__(
        self, *, in_channels: int, channels: Sequence[int], blocks: int, stem_factor: int
    ) -> None:
        super().__init__()
        self.spatial_factor = _spatial_factor(channels, stem_factor)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels[-1], 3, padding=1)]
        layers += [ResidualBlock(channels[-1]) for _ in range(blocks)]
        for narrow, wide in pairwise(reversed(channels)):
            # A sub-pixel convolution: it runs on the small map, a quarter of the cost.
            layers += [nn.Conv2d(narrow, 4 * wide, 3, padding=1), nn.PixelShuffle(2)]
            layers += [ResidualBlock(wide) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.to_image = nn.Conv2d(channels[0], 3 * stem_factor**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(stem_factor)

    def forward(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Computes the layer, see the class."""
        return self.shuffle(self.to_image(self.layers(latents)))


def _spatial_factor(channels: Sequence[int], stem_factor: int) -> int:
    if not channels or stem_factor < 1:
        raise ConfigError(
            f"an autoencoder needs at least one level and stem_factor >= 1, not "
            f"channels={list(channels)} and stem_factor={stem_factor}."
        )
    return stem_factor * 2 ** (len(channels) - 1)
