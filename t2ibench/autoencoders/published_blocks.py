"""Encoder and decoder of the published first stages, layer by layer.

Parameter names are those of the files that diffusers writes, so such a file loads strictly.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu

from t2ibench.core.errors import ConfigError

NORM_EPSILON = 1e-6
"""Epsilon of every GroupNorm here, attention's too (the UNets' residual blocks have 1e-5)."""


class ResidualBlock(nn.Module):
    """Residual block skip(x) + Conv(silu(GN(Conv(silu(GN(x)))))), skip a 1x1 convolution if needed.

    Args:
        wide_in: channels of the input.
        wide_out: channels of the output.
        groups: of every GroupNorm.

    Source: Esser et al. 2021 (VQGAN), appendix table 8; released code of both papers.
    Differs: none.
    """

    def __init__(self, wide_in: int, wide_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, wide_in, eps=NORM_EPSILON)
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, wide_out, eps=NORM_EPSILON)
        self.conv2 = nn.Conv2d(wide_out, wide_out, 3, padding=1)
        if wide_in != wide_out:
            self.conv_shortcut = nn.Conv2d(wide_in, wide_out, 1)
        self.projects = wide_in != wide_out

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H W"]:
        """Computes the layer, see the class."""
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h)))
        return (self.conv_shortcut(x) if self.projects else x) + h


class MapAttention(nn.Module):
    """Attention x + W softmax(q k^T / sqrt(C)) v over all positions of a map, with one head.

    Source: Esser et al. 2021 (VQGAN), appendix table 8 ("Non-Local Block").
    Differs: linear layers for the released 1x1 convolutions, the same numbers.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, eps=NORM_EPSILON)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Computes the layer, see the class."""
        h = self.group_norm(x).flatten(2).transpose(1, 2).unsqueeze(1)
        h = scaled_dot_product_attention(self.to_q(h), self.to_k(h), self.to_v(h))
        h = self.to_out[0](h.squeeze(1))
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])


class Downsample(nn.Module):
    """Halves the size by a strided 3x3 convolution that looks right and down of its pixel.

    Source: released code of Esser et al. 2021 (VQGAN): zeros at the right and the bottom only.
    Differs: none.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """Computes the layer, see the class."""
        return self.conv(pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles the size by nearest neighbours, then a 3x3 convolution.

    Source: Esser et al. 2021 (VQGAN), appendix table 8.
    Differs: none.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C H W"]:
        """Computes the layer, see the class."""
        return self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks at one size, each followed by attention or not, then a change of size."""

    def __init__(
        self,
        wide_in: int,
        wide_out: int,
        *,
        blocks: int,
        attention: bool,
        groups: int,
        down: bool = False,
        up: bool = False,
    ) -> None:
        super().__init__()
        widths = [wide_in] + [wide_out] * (blocks - 1)
        self.resnets = nn.ModuleList(ResidualBlock(w, wide_out, groups) for w in widths)
        self.attentions = nn.ModuleList(
            MapAttention(wide_out, groups) for _ in range(blocks if attention else 0)
        )
        self.downsamplers = nn.ModuleList([Downsample(wide_out)] if down else [])
        self.upsamplers = nn.ModuleList([Upsample(wide_out)] if up else [])

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        """Computes the layer, see the class."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(x)
            if len(self.attentions):
                x = self.attentions[i](x)
        for sampler in (*self.downsamplers, *self.upsamplers):
            x = sampler(x)
        return x


class Middle(nn.Module):
    """A residual block, attention or not, and another residual block, at the smallest size."""

    def __init__(self, width: int, *, attention: bool, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(width, width, groups) for _ in range(2))
        self.attentions = nn.ModuleList([MapAttention(width, groups)] if attention else [])

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """Computes the layer, see the class."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)


class Encoder(nn.Module):
    """Encoder of images to feature maps, 2^(levels - 1) times smaller.

    Args:
        out_channels: channels of the result.
        channels: width of each level, from the largest map to the smallest.
        blocks: residual blocks a level.
        attention_levels: levels whose blocks are followed by attention, 0 the largest map.
        middle_attention: whether the middle has attention.
        groups: of every GroupNorm; must divide every width.

    Raises:
        ConfigError: no level, a level that is not there, or a width that groups do not divide.

    Source: Esser et al. 2021 (VQGAN), appendix table 8; Rombach et al. 2022 (LDM), appendix E.1.
    Differs: none.
    """

    def __init__(
        self,
        *,
        out_channels: int,
        channels: Sequence[int],
        blocks: int,
        attention_levels: Sequence[int],
        middle_attention: bool,
        groups: int,
    ) -> None:
        super().__init__()
        check_layout(channels, attention_levels, groups)
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(
                channels[max(i - 1, 0)],
                channels[i],
                blocks=blocks,
                attention=i in attention_levels,
                groups=groups,
                down=i < last,
            )
            for i in range(len(channels))
        )
        self.mid_block = Middle(channels[last], attention=middle_attention, groups=groups)
        self.conv_norm_out = nn.GroupNorm(groups, channels[last], eps=NORM_EPSILON)
        self.conv_out = nn.Conv2d(channels[last], out_channels, 3, padding=1)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Computes the layer, see the class."""
        x = self.conv_in(images)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Decoder of latents to images: the encoder's mirror with one residual block more a level.

    Args:
        in_channels: channels of the latents.
        channels: width of each level, from the largest map to the smallest (as the encoder's).
        blocks: residual blocks a level of the encoder.
        attention_levels: levels whose blocks are followed by attention, 0 the largest map.
        middle_attention: whether the middle has attention.
        groups: of every GroupNorm; must divide every width.

    Raises:
        ConfigError: no level, a level that is not there, or a width that groups do not divide.

    Source: Esser et al. 2021 (VQGAN), appendix table 8; Rombach et al. 2022 (LDM), appendix E.1.
    Differs: none.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        channels: Sequence[int],
        blocks: int,
        attention_levels: Sequence[int],
        middle_attention: bool,
        groups: int,
    ) -> None:
        super().__init__()
        check_layout(channels, attention_levels, groups)
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(in_channels, channels[last], 3, padding=1)
        self.mid_block = Middle(channels[last], attention=middle_attention, groups=groups)
        self.up_blocks = nn.ModuleList(
            Level(
                channels[min(i + 1, last)],
                channels[i],
                blocks=blocks + 1,
                attention=i in attention_levels,
                groups=groups,
                up=i > 0,
            )
            for i in reversed(range(len(channels)))
        )
        self.conv_norm_out = nn.GroupNorm(groups, channels[0], eps=NORM_EPSILON)
        self.conv_out = nn.Conv2d(channels[0], 3, 3, padding=1)

    def forward(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Computes the layer, see the class."""
        x = self.mid_block(self.conv_in(latents))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(silu(self.conv_norm_out(x)))


def check_layout(channels: Sequence[int], attention_levels: Sequence[int], groups: int) -> None:
    """Refuses layouts that cannot be built.

    Raises:
        ConfigError: no level, a level that is not there, or a width that groups do not divide.
    """
    if not channels:
        raise ConfigError("a first stage needs at least one level; its channels are empty.")
    odd = [width for width in channels if width % groups]
    if odd:
        raise ConfigError(
            f"channels={list(channels)}: {odd[0]} is not a multiple of groups={groups}; "
            "set autoencoder.groups to a divisor of every width."
        )
    absent = [level for level in attention_levels if not 0 <= level < len(channels)]
    if absent:
        raise ConfigError(
            f"attention_levels={list(attention_levels)}: there is no level {absent[0]} among "
            f"{len(channels)}, which are counted from 0; set autoencoder.attention_levels."
        )
