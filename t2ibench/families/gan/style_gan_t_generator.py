"""Generator of StyleGAN-T: Fourier features, and convolutions modulated by noise and text.

Sauer et al. 2023, "StyleGAN-T: Unlocking the Power of GANs for Fast Large-Scale Text-to-Image
Synthesis". The family is in ``style_gan_t``, the discriminator in ``projected``.

Shape legend: Z noise, D2 the text features' width, S layers that read a style (the input, each
convolution, the last colours), D3 the style latent's width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import affine_grid, group_norm, leaky_relu, normalize

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import Noise
from t2ibench.core.ranks import averaged
from t2ibench.core.types import Images, TextFeatures
from t2ibench.nn.conditioning import ConditioningKind, SpatialConditioning
from t2ibench.nn.stylegan import (
    EqualisedLinear,
    in_float32,
    modulated_convolution,
    upsampled,
)

FIRST = 8
"""Side of the first feature map."""

BANDWIDTH = 2.0
"""Highest frequency of the input, in cycles an image side."""

SLOPE, SCALE = 0.2, 1e-5
"""Negative slope of every leaky ReLU; initial scale of every residual branch."""

AVERAGE_DECAY = 0.995
"""Decay of the mapped noise's running mean, a training pass."""


class Latents(NamedTuple):
    """Standard normal draws of a batch of samples.

    Attributes:
        z: (B, Z), or (B, S, Z) with one a layer.
        maps: a (B, 1, H, W) for each convolution.
    """

    z: Tensor
    maps: Sequence[Float[Tensor, "B 1 _ _"]]

    def split(self, count: int) -> list[Latents]:
        """Those of ``count`` equal parts of the batch."""
        maps = zip(*(noise.chunk(count) for noise in self.maps), strict=True)
        return [Latents(z, list(own)) for z, own in zip(self.z.chunk(count), maps, strict=True)]


class NoiseMapping(nn.Module):
    """Noise to mapped noise, with its running mean.

    x = MLP(z / rms(z)), two layers at a hundredth of the learning rate.

    Source: Sauer et al. 2023, section 3.1; the authors' code for the mean.
    Differs: none.
    """

    average: Float[Tensor, " Z"]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = EqualisedLinear(width, width, rate=0.01)
        self.second = EqualisedLinear(width, width, rate=0.01)
        self.register_buffer("average", torch.zeros(width))

    def forward(self, z: Float[Tensor, "*B Z"], psi: float) -> Float[Tensor, "*B Z"]:
        """Mapped noise; with psi other than 1 on the line from its mean.

        Source: Karras et al. 2019 (StyleGAN), appendix B (truncation); Sauer et al. 2023, section
            3.4: of the mapped noise alone, not of the text.
        Differs: none.
        """
        with in_float32(z):
            x = z.float() * (z.float().square().mean(-1, keepdim=True) + 1e-8).rsqrt()
            x = self.second(leaky_relu(self.first(x), SLOPE) * math.sqrt(2))
        if self.training:
            mean = averaged(x.detach().mean(0))
            self.average.copy_(torch.lerp(mean, self.average, AVERAGE_DECAY))
        return x if psi == 1 else torch.lerp(self.average, x, psi)


class FourierInput(nn.Module):
    r"""First feature map: waves over the plane, turned and moved by the style, then mixed.

    With frequencies :math:`f_k` and phases :math:`\phi_k` drawn once, and a rotation R and a
    translation t of the image that are affine in the style latent, feature k at p in
    :math:`[-1/2, 1/2]^2` is :math:`\sin 2\pi (R^T f_k \cdot p + f_k \cdot R t + \phi_k)`; each
    position's features then meet a learned matrix.

    Source: Karras et al. 2021 (StyleGAN3), section 3.1 and appendix F; Sauer et al. 2023, section
        3.1.
    Differs: none.
    """

    frequencies: Float[Tensor, "C 2"]
    phases: Float[Tensor, " C"]

    def __init__(self, channels: int, latent_width: int) -> None:
        super().__init__()
        draws = torch.randn(channels, 2)
        radii = draws.square().sum(1, keepdim=True).sqrt()
        draws = draws / (radii * radii.square().exp().pow(0.25)) * BANDWIDTH
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.placement = EqualisedLinear(latent_width, 4, scale=0.0, bias=[1.0, 0.0, 0.0, 0.0])
        self.register_buffer("frequencies", draws)
        self.register_buffer("phases", torch.rand(channels) - 0.5)

    def forward(self, latent: Float[Tensor, "B D3"]) -> Float[Tensor, "B C H W"]:
        """Feature map (B, C, 8, 8)."""
        with in_float32(latent):
            cosine, sine, x, y = self._placed(latent.float()).unbind(1)
            turn = torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2)
            shift = -torch.stack([x, y], 1)[:, :, None]
            turned = self.frequencies @ turn  # (B, C, 2)
            phases = self.phases + (self.frequencies @ (turn @ shift)).squeeze(2)
            # Frequencies beyond the band fade; a rotation leaves them where they are.
            beyond = (turned.norm(dim=2) - BANDWIDTH) / (FIRST / 2 - BANDWIDTH)
            theta = 0.5 * torch.eye(2, 3, device=latent.device)
            grid = affine_grid(theta[None], [1, 1, FIRST, FIRST], align_corners=False)
            waves = grid.view(1, -1, 2) @ turned.transpose(1, 2) + phases[:, None]
            features = (2 * math.pi * waves).sin() * (1 - beyond).clamp(0, 1)[:, None]
            features = features @ (self.weight / math.sqrt(len(self.weight))).T
        return features.transpose(1, 2).unflatten(2, (FIRST, FIRST))

    def _placed(self, latent: Float[Tensor, "B D3"]) -> Float[Tensor, "B 4"]:
        placed = self.placement(latent)
        return placed / placed[:, :2].norm(dim=1, keepdim=True)


class SecondOrderStyle(nn.Module):
    """Style s = m1 * m2 + m3, each affine in the latent.

    Source: Sauer et al. 2023, section 3.1.
    Differs: none.
    """

    def __init__(self, latent_width: int, channels: int) -> None:
        super().__init__()
        self.affine = EqualisedLinear(latent_width, 3 * channels, bias=1.0)

    def forward(self, latent: Float[Tensor, "B D3"]) -> Float[Tensor, "B C"]:
        """Scales of the channels."""
        first, second, third = self.affine(latent).chunk(3, 1)
        return first * second + third


class StyledConvolution(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU; as a residual of the normalised input.

    A residual layer is sqrt(2) (GN(x) + g conv(GN(x))), its scale g near zero at first.

    Args:
        channels: of the input.
        out: of the output.
        latent_width: D3.
        upsample: True for twice the side.
        groups: of the residual's GroupNorm; 0: not a residual.
        gain: multiplies the activation.
        clamp: greatest magnitude of an activation, before the gain.

    Source: Sauer et al. 2023, section 3.1 and figure 3; the authors' code for gains and clamp.
    Differs: none.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        latent_width: int,
        *,
        upsample: bool = False,
        groups: int = 0,
        gain: float = 1.0,
        clamp: float,
    ) -> None:
        super().__init__()
        self.upsample, self.groups, self.gain, self.clamp = upsample, groups, gain, clamp
        self.style = SecondOrderStyle(latent_width, channels)
        self.weight = nn.Parameter(torch.randn(out, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out))
        self.noise_strength = nn.Parameter(torch.zeros(1))
        if groups:
            self.norm_weight = nn.Parameter(torch.ones(out))
            self.norm_bias = nn.Parameter(torch.zeros(out))
            self.residual_scale = nn.Parameter(SCALE * torch.ones(1, out, 1, 1))

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        latent: Float[Tensor, "B D3"],
        noise: Float[Tensor, "B 1 H2 W2"],
    ) -> Float[Tensor, "B C2 H2 W2"]:
        """Computes the layer, see the class."""
        if self.groups:
            x = group_norm(x, self.groups, self.norm_weight, self.norm_bias)
        y = modulated_convolution(x, self.weight, self.style(latent), upsample=self.upsample)
        y = y + noise * self.noise_strength + self.bias[:, None, None]
        y = leaky_relu(y, SLOPE) * (math.sqrt(2) * self.gain)
        y = y.clamp(-self.clamp * self.gain, self.clamp * self.gain)
        return (self.residual_scale * y + x) * math.sqrt(2) if self.groups else y


class Colours(nn.Module):
    """Modulated 1x1 convolution to colours, without demodulation.

    Source: Karras et al. 2020 (StyleGAN2), section 4.1; the authors' code for the initial scale.
    Differs: none.
    """

    def __init__(self, channels: int, latent_width: int, clamp: float) -> None:
        super().__init__()
        self.clamp = clamp
        self.style = SecondOrderStyle(latent_width, channels)
        self.weight = nn.Parameter(0.1 * torch.randn(3, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Float[Tensor, "B C H W"], latent: Float[Tensor, "B D3"]) -> Images:
        """Colours of each position."""
        style = self.style(latent) / math.sqrt(x.shape[1])
        y = modulated_convolution(x, self.weight, style, demodulate=False)
        return (y + self.bias[:, None, None]).float().clamp(-self.clamp, self.clamp)


class Block(nn.Module):
    """All layers of one resolution: input or upsampling, pairs of convolutions, colours.

    Args:
        channels: of the map below; 0: this is the first block.
        out: of this block's maps.
        latent_width: D3.
        pairs: number of pairs of a convolution and a residual one.
        groups: of the GroupNorms.
        clamp: see ``StyledConvolution``.
        conditioning: brings text to the map, where styles do not; None where they do.

    Source: Sauer et al. 2023, section 3.1 and figure 3.
    Differs: none with ``conditioning`` None.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        latent_width: int,
        *,
        pairs: int,
        groups: int,
        clamp: float,
        conditioning: SpatialConditioning | None,
    ) -> None:
        super().__init__()
        self.first = channels == 0
        self.input: Any = (
            FourierInput(out, latent_width)
            if self.first
            else StyledConvolution(channels, out, latent_width, upsample=True, clamp=clamp)
        )
        self.conditioning = conditioning
        self.convolutions = nn.ModuleList(
            StyledConvolution(
                out, out, latent_width, groups=number * groups, gain=math.sqrt(0.5), clamp=clamp
            )
            for _ in range(pairs)
            for number in (0, 1)
        )
        self.colours = Colours(out, latent_width, clamp)

    @property
    def layers(self) -> int:
        """Layers that read a style, without the colours."""
        return 1 + len(self.convolutions)

    def forward(
        self,
        x: Tensor | None,
        images: Tensor | None,
        latents: Float[Tensor, "B S D3"],
        maps: Iterator[Tensor],
        text: TextFeatures | None,
    ) -> tuple[Tensor, Tensor]:
        """Feature map and images of this resolution from those of the one below.

        Args:
            x: the feature map below; None in the first block.
            images: the images below; None likewise.
            latents: of this block's layers; the last is its colours'.
            maps: noise of the convolutions to come.
            text: of the conditioning; None without one.
        """
        latent = iter(latents.unbind(1))
        x = self.input(next(latent)) if self.first else self.input(x, next(latent), next(maps))
        if self.conditioning is not None:
            assert text is not None
            x = self.conditioning(x, self.conditioning.prepare(text))
        for convolution in self.convolutions:
            x = convolution(x, next(latent), next(maps))
        colours = self.colours(x, next(latent))
        return x, colours if images is None else upsampled(images) + colours


class Synthesis(nn.Module):
    """Blocks from 8 px to the resolution: style latents, noise maps and text to an image.

    Args:
        resolution: H = W in pixels, a power of two.
        latent_width: D3.
        text_width: D2, of the text that ``conditioning`` reads.
        channel_base: channels of a map times its side, at most ``channel_max`` channels.
        channel_max: greatest number of channels.
        pairs: pairs of convolutions a resolution.
        groups: of the GroupNorms.
        clamp: greatest magnitude of activations.
        conditioning: brings text to each resolution's map; None where styles do.
        heads: number of heads in cross-attention.

    Raises:
        ConfigError: a resolution that is no power of two or below 16, or channels that are no
            multiple of ``groups``.

    Source: Sauer et al. 2023, section 3.1; the authors' public code for widths and gains.
    Differs: none with ``conditioning`` None.
    """

    def __init__(
        self,
        *,
        resolution: int,
        latent_width: int,
        text_width: int,
        channel_base: int,
        channel_max: int,
        pairs: int,
        groups: int,
        clamp: float,
        conditioning: ConditioningKind | None,
        heads: int,
    ) -> None:
        super().__init__()
        sides = [FIRST * 2**i for i in range(12) if FIRST * 2**i <= resolution]
        if resolution < 2 * FIRST or sides[-1] != resolution:
            raise ConfigError(
                f"data.resolution={resolution}: this generator doubles a map of {FIRST} px; choose "
                "a power of two from 16 on, for example 64."
            )
        channels = {side: min(channel_base // side, channel_max) for side in sides}
        odd = [side for side in sides if channels[side] % groups or not channels[side]]
        if odd:
            raise ConfigError(
                f"model.module.generator.channel_base={channel_base} gives {channels[odd[0]]} "
                f"channels at {odd[0]} px, which is no multiple of groups={groups}; raise it to "
                f"{groups * sides[-1]}, or choose data.resolution={odd[0] // 2}."
            )
        self.blocks = nn.ModuleList()
        self.map_sides: list[int] = []
        below = 0
        for side in sides:
            out = channels[side]
            bridge = conditioning and SpatialConditioning(conditioning, out, text_width, heads)
            block = Block(
                below, out, latent_width, pairs=pairs, groups=groups, clamp=clamp,
                conditioning=bridge or None,
            )  # fmt: skip
            self.blocks.append(block)
            self.map_sides += [side] * (block.layers - block.first)
            below = out
        self.layers = sum(block.layers for block in self._blocks()) + 1

    def forward(
        self,
        latents: Float[Tensor, "B S D3"],
        maps: Sequence[Float[Tensor, "B 1 _ _"]],
        texts: Sequence[TextFeatures],
    ) -> Images:
        """Images around [-1, 1], not clamped.

        Args:
            latents: style latents of the S layers; a block's colours read that of the layer after
                it.
            maps: noise of the convolutions.
            texts: of the S layers; a block's conditioning reads its first layer's.
        """
        noise, feature, images, start = iter(maps), None, None, 0
        for block in self._blocks():
            own = latents[:, start : start + block.layers + 1]
            feature, images = block(feature, images, own, noise, texts[start])
            start += block.layers
        assert images is not None
        return images

    def _blocks(self) -> Iterator[Any]:
        return iter(self.blocks)


class Generator(nn.Module):
    """Generator: noise and text to an image.

    With ``conditioning=modulation`` (the paper's) the style latent is mapped noise and text side
    by side; with the two others it is the mapped noise alone, and the text enters each
    resolution's map.

    Args:
        resolution: H = W in pixels.
        text_width: D2.
        noise_width: Z.
        conditioning: mechanism by which text enters.
        channel_base: see ``Synthesis``.
        channel_max: see ``Synthesis``.
        pairs: see ``Synthesis``.
        groups: see ``Synthesis``.
        clamp: see ``Synthesis``.
        heads: see ``Synthesis``.

    Raises:
        ConfigError: see ``Synthesis``.

    Source: Sauer et al. 2023, section 3.1.
    Differs: noise maps come from the caller, in sampling too, where the authors' samples share
        one fixed set; half precision is the trainer's, without their rescaling for fp16.
    """

    def __init__(
        self,
        *,
        resolution: int,
        text_width: int,
        noise_width: int,
        conditioning: ConditioningKind,
        channel_base: int,
        channel_max: int,
        pairs: int,
        groups: int,
        clamp: float,
        heads: int,
    ) -> None:
        super().__init__()
        self.by_style = conditioning == "modulation"
        self.noise_width = noise_width
        self.mapping = NoiseMapping(noise_width)
        self.synthesis = Synthesis(
            resolution=resolution,
            latent_width=noise_width + (text_width if self.by_style else 0),
            text_width=text_width,
            channel_base=channel_base,
            channel_max=channel_max,
            pairs=pairs,
            groups=groups,
            clamp=clamp,
            conditioning=None if self.by_style else conditioning,
            heads=heads,
        )

    @property
    def layers(self) -> int:
        """S, layers that read a style."""
        return self.synthesis.layers

    def blocks_to_shard(self) -> list[nn.Module]:
        """Blocks whose weights FSDP gathers one by one."""
        return list(self.synthesis.blocks)

    def draw(self, noise: Noise) -> Latents:
        """All random numbers of a batch of samples."""
        z = noise.normal(self.noise_width)
        return Latents(z, [noise.normal(1, side, side) for side in self.synthesis.map_sides])

    def forward(
        self,
        text: TextFeatures,
        latents: Latents,
        psi: float = 1.0,
        later: tuple[TextFeatures, int] | None = None,
    ) -> Images:
        """Images around [-1, 1], not clamped.

        Args:
            text: features of B captions.
            latents: see ``draw``.
            psi: truncation.
            later: another text, and the first layer that reads it.
        """
        x = self.mapping(latents.z, psi)
        if x.ndim == 2:
            x = x[:, None].expand(-1, self.layers, -1)
        texts = [text] * self.layers
        if later is not None:
            texts[later[1] :] = [later[0]] * (self.layers - later[1])
        if self.by_style:
            # Of unit length, as CLIP's are.
            told = torch.stack([normalize(t.pooled, dim=1) for t in texts], 1)
            x = torch.cat([x, told.to(x.dtype)], 2)
        return self.synthesis(x, latents.maps, texts)
