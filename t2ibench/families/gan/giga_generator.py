"""Generator of GigaGAN: text and a latent to an image pyramid.

Kang et al. 2023, "Scaling up GANs for text-to-image synthesis", sections 3.1-3.3. Its text
branch, mapping and attention to words serve the discriminator and the upsampler, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, scaled_dot_product_attention

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import Images, TextFeatures
from t2ibench.nn.adaptive import AdaptiveConv, equalise, unbiased
from t2ibench.nn.attention import TransformerBlock
from t2ibench.nn.conditioning import ConditioningKind, SpatialConditioning
from t2ibench.nn.l2_attention import L2SelfAttention
from t2ibench.nn.stylegan import EqualisedLinear

SLOPE = 0.2
"""Negative slope of every leaky ReLU (StyleGAN2's)."""

FIRST = 4
"""Side of the first feature map, in pixels."""

ATTENTION_GAIN = 0.3
"""Factor of the attentions' residual branches; the paper reduces it and does not say to what."""

MAPPING_RATE = 0.01
"""Learning-rate multiplier of the mapping network (StyleGAN2's)."""

MEAN_STYLES = 128
"""Latents whose styles' mean is a prompt's; the paper does not give their number."""

Pyramid = Sequence[Float[Tensor, "_ 3 _ _"]]
"""Images of every size, the smallest first."""

Styles = Sequence[Float[Tensor, "B D"]]
"""Style of each level of the generator, the coarsest first."""


def activated(x: Tensor) -> Tensor:
    """Leaky ReLU, times the square root of 2, which keeps the variance."""
    return leaky_relu(x, SLOPE) * math.sqrt(2)


def levels_of(resolution: int, least: int = 2 * FIRST) -> list[int]:
    """Sides of a pyramid from 4 to ``resolution``, each twice the one before.

    Raises:
        ConfigError: ``resolution`` is no power of two, or less than ``least``.
    """
    if resolution < least or resolution & (resolution - 1):
        raise ConfigError(
            f"data.resolution={resolution} is no power of two of at least {least}, as a pyramid "
            f"of images needs; choose {least}, {2 * least}, {4 * least} or more."
        )
    return [2**i for i in range(2, resolution.bit_length())]


def width_at(side: int, base: int, most: int) -> int:
    """Channels of a feature map of the given side: base / side, at most ``most``.

    Source: Karras et al. 2020 (StyleGAN2), authors' code.
    Differs: none.
    """
    return min(base // side, most)


class TextBranch(nn.Module):
    """Learned transformer over text features: words t_local and a sentence t_global.

    Args:
        text_width: D of the text encoder.
        width: of the transformer and of what it gives.
        depth: number of its blocks.
        heads: number of heads in their attention.

    Source: Kang et al. 2023 (GigaGAN), section 3.2.
    Differs: the encoder's pooled vector stands in for the end token, which not every encoder has,
        and is a token of its own.
    """

    def __init__(self, *, text_width: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.words = nn.Linear(text_width, width)
        self.sentence = nn.Linear(text_width, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        equalise(self)

    def forward(self, text: TextFeatures) -> TextFeatures:
        """t_local as tokens and t_global as the pooled vector."""
        x = torch.cat([self.words(text.tokens), self.sentence(text.pooled)[:, None]], 1)
        mask = torch.cat([text.mask, text.mask.new_ones(len(text), 1)], 1)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        return TextFeatures(x[:, :-1], text.mask, x[:, -1])


class StyleMapping(nn.Module):
    """Mapping w = M(z, t_global).

    Args:
        noise_width: Z.
        text_width: width of t_global.
        width: of w.
        depth: number of layers.

    Source: Kang et al. 2023 (GigaGAN), section 3.2; Karras et al. 2020 (StyleGAN2) for the layers.
    Differs: the paper does not say how z and t_global are joined; as in StyleGAN2, t_global is
        embedded, and both are normalised and concatenated.
    """

    def __init__(self, *, noise_width: int, text_width: int, width: int, depth: int) -> None:
        super().__init__()
        self.noise_width = noise_width
        self.embedding = EqualisedLinear(text_width, width)
        widths = [noise_width + width] + [width] * depth
        self.layers = nn.ModuleList(
            EqualisedLinear(a, b, rate=MAPPING_RATE)
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )

    def forward(
        self, noise: Float[Tensor, "B Z"], sentence: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B D2"]:
        """Styles for latents and sentences."""
        x = torch.cat([unit_moment(noise), unit_moment(self.embedding(sentence))], 1)
        for layer in self.layers:
            x = activated(layer(x))
        return x

    def truncated(
        self, noise: Float[Tensor, "B Z"], sentence: Float[Tensor, "B D"], psi: float
    ) -> Float[Tensor, "B D2"]:
        r"""Truncated styles :math:`\bar w(t) + \psi (w - \bar w(t))`.

        Source: Karras et al. 2019 (StyleGAN), appendix B; Kang et al. 2023 (GigaGAN), section 4.
        Differs: the mean is that of the prompt.
        """
        style = self(noise, sentence)
        return style if psi == 1 else torch.lerp(self.mean(sentence), style, psi)

    def mean(self, sentence: Float[Tensor, "B D"]) -> Float[Tensor, "B D2"]:
        """Mean style of each prompt over fixed latents: of weights and prompt alone."""
        noise = SeededNoise(range(MEAN_STYLES), sentence.device)
        latents = noise.normal(self.noise_width).to(sentence)
        each = sentence.repeat_interleave(MEAN_STYLES, 0)
        styles = self(latents.repeat(len(sentence), 1), each)
        return styles.unflatten(0, (-1, MEAN_STYLES)).mean(1)


def unit_moment(x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Vectors with a mean square of 1."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class WordAttention(nn.Module):
    """Residual cross-attention of a feature map to words, by scalar products.

    Args:
        channels: C.
        text_width: width of the words.
        heads: A; must divide C.

    Source: Kang et al. 2023 (GigaGAN), section 3.1 (eq. 2) and 3.2.
    Differs: the paper does not give the gain of the residual branch.
    """

    def __init__(self, channels: int, text_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = unbiased(channels, channels)
        self.to_k = unbiased(text_width, channels)
        self.to_v = EqualisedLinear(text_width, channels)
        self.to_out = EqualisedLinear(channels, channels)

    def prepare(self, text: TextFeatures) -> Any:
        """Keys, values and mask of a prompt."""
        k, v = (self._split(layer(text.tokens)) for layer in (self.to_k, self.to_v))
        return k, v, text.mask[:, None, None]

    def forward(self, x: Float[Tensor, "B C H W"], context: Any) -> Float[Tensor, "B C H W"]:
        """Attends from every position to the words."""
        k, v, mask = context
        q = self._split(self.to_q(x.flatten(2).transpose(1, 2)))
        bias = mask.expand(-1, -1, q.shape[2], -1)
        found = scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out = self.to_out(rearrange(found, "b a n e -> b n (a e)"))
        return x + ATTENTION_GAIN * out.transpose(1, 2).reshape_as(x)

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (a e) -> b a n e", a=self.heads)


def text_attention(
    kind: ConditioningKind, channels: int, text_width: int, heads: int
) -> WordAttention | SpatialConditioning:
    """Makes the layer that brings text to a feature map: the paper's attention or another's.

    Raises:
        ConfigError: the kind is unknown, or ``heads`` does not divide ``channels``.
    """
    if channels % heads:
        raise ConfigError(
            f"{channels} channels of an attention are no multiple of heads={heads}; change "
            "model.module.*.heads or the width."
        )
    if kind == "cross_attention":
        return WordAttention(channels, text_width, heads)
    made = SpatialConditioning(kind, channels, text_width, heads)
    equalise(made)
    return made


class StyledConv(nn.Module):
    """Adaptive convolution, bias, leaky ReLU.

    Source: Kang et al. 2023 (GigaGAN), eq. 1-2; Karras et al. 2020 (StyleGAN2), figure 2d.
    Differs: without noise maps, of which the paper does not speak.
    """

    def __init__(self, channels: int, out: int, style_width: int, candidates: int) -> None:
        super().__init__()
        self.conv = AdaptiveConv(
            channels, out, kernel=3, style_width=style_width, candidates=candidates
        )
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(
        self, x: Float[Tensor, "B C H W"], style: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B C2 H W"]:
        """Feature map of the same size."""
        y = self.conv(x, style)
        return activated(y + self.bias[:, None, None].to(y.dtype))


class ToImage(nn.Module):
    """Modulated 1x1 convolution to colours.

    Source: Karras et al. 2020 (StyleGAN2), section 4.1.
    Differs: none.
    """

    def __init__(self, channels: int, style_width: int) -> None:
        super().__init__()
        self.conv = AdaptiveConv(channels, 3, kernel=1, style_width=style_width, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Float[Tensor, "B C H W"], style: Float[Tensor, "B D"]) -> Images:
        """Colours, to be added to those of the level below."""
        y = self.conv(x, style)
        return y + self.bias[:, None, None].to(y.dtype)


class SynthesisLevel(nn.Module):
    """One resolution of the generator: convolutions, self-attention, text, colours.

    Source: Kang et al. 2023 (GigaGAN), eq. 2.
    Differs: the attentions stand behind all convolutions of the resolution.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        *,
        style_width: int,
        depth: int,
        candidates: int,
        attention: nn.Module | None,
        text: nn.Module | None,
        colours: bool = True,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            StyledConv(out if i else channels, out, style_width, candidates) for i in range(depth)
        )
        self.attention = attention
        self.text = text
        self.to_image = ToImage(out, style_width) if colours else None

    def prepare(self, words: TextFeatures) -> Any:
        """Prompt's part of the level; None where it reads no text."""
        return None if self.text is None else cast(Any, self.text).prepare(words)

    def forward(
        self, x: Float[Tensor, "B C H W"], style: Float[Tensor, "B D"], context: Any
    ) -> tuple[Float[Tensor, "B C2 H W"], Images | None]:
        """Feature map and colours of this resolution, where it has some."""
        for conv in self.convs:
            x = conv(x, style)
        if self.attention is not None:
            x = self.attention(x)
        if self.text is not None:
            x = self.text(x, context)
        return x, None if self.to_image is None else self.to_image(x, style)


def enlarged(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H2 W2"]:
    """Twice the side, bilinear, which is StyleGAN2's filter [1, 3, 3, 1] but for the edge.

    Source: Karras et al. 2020 (StyleGAN2), section 4.1.
    Differs: beyond the edge the map goes on as it ends, and is not zero.
    """
    return interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class GigaGenerator(nn.Module):
    r"""Generator: from a learned constant, level by level, to images of every resolution.

    At each level :math:`f_{l+1} = g_{xa}(g_{attn}(g_{adaconv}(f_l; w), w), t_{local})`.

    Args:
        resolution: H = W of the largest image, a power of two of at least 8.
        text_width: D of the text features.
        noise_width: Z.
        style_width: width of w.
        mapping_depth: layers of the mapping.
        channel_base: a level of side r has ``channel_base`` / r channels,
        channel_max: but at most these.
        depth: convolutions of a level.
        candidates: N, kernels in each bank.
        attention_resolutions: sides of the levels with self-attention and text.
        heads: number of heads of their attentions, and of the text branch's.
        branch_width: width of the text branch.
        branch_depth: its blocks.
        conditioning: how text reaches the feature maps; the style reads it always.

    Raises:
        ConfigError: an impossible resolution, or heads that divide no width.

    Source: Kang et al. 2023 (GigaGAN), sections 3.1-3.3.
    Differs: depths, widths, banks and the attentions' resolutions are not verified: no count is
        published for the parts, and there is no authors' code.
    """

    def __init__(
        self,
        *,
        resolution: int,
        text_width: int,
        noise_width: int,
        style_width: int,
        mapping_depth: int,
        channel_base: int,
        channel_max: int,
        depth: int,
        candidates: int,
        attention_resolutions: Sequence[int],
        heads: int,
        branch_width: int,
        branch_depth: int,
        conditioning: ConditioningKind,
    ) -> None:
        super().__init__()
        sides = levels_of(resolution)
        self.noise_width = noise_width
        self.branch = TextBranch(
            text_width=text_width, width=branch_width, depth=branch_depth, heads=heads
        )
        self.mapping = StyleMapping(
            noise_width=noise_width,
            text_width=branch_width,
            width=style_width,
            depth=mapping_depth,
        )
        widths = [width_at(side, channel_base, channel_max) for side in sides]
        self.constant = nn.Parameter(torch.randn(1, widths[0], FIRST, FIRST))
        if not set(attention_resolutions) & set(sides):
            raise ConfigError(
                f"model.module.generator.attention_resolutions={list(attention_resolutions)} "
                f"names no side of {sides}; without one, no text reaches the feature maps."
            )
        self.levels = nn.ModuleList()
        for side, before, width in zip(sides, [widths[0], *widths], widths, strict=False):
            attends = side in attention_resolutions
            level = SynthesisLevel(
                before,
                width,
                style_width=style_width,
                depth=depth,
                candidates=candidates,
                attention=L2SelfAttention(width, heads, ATTENTION_GAIN) if attends else None,
                text=text_attention(conditioning, width, branch_width, heads) if attends else None,
            )
            self.levels.append(level)

    def blocks_to_shard(self) -> list[nn.Module]:
        """The levels."""
        return list(self.levels)

    def contexts(self, words: TextFeatures) -> list[Any]:
        """Prompt's part of each level, from the text branch's output; computed once a prompt."""
        return [cast(SynthesisLevel, level).prepare(words) for level in self.levels]

    def synthesise(self, styles: Styles, contexts: Sequence[Any]) -> list[Float[Tensor, "B 3 _ _"]]:
        """Images of all levels, the smallest first.

        Args:
            styles: of each level.
            contexts: of each level.
        """
        x = self.constant.repeat(len(styles[0]), 1, 1, 1)
        images: list[Tensor] = []
        for level, style, context in zip(self.levels, styles, contexts, strict=True):
            if images:
                x = enlarged(x)
            x, colours = level(x, style, context)
            images.append(enlarged(images[-1]) + colours if images else colours)
        return images

    def forward(
        self, text: TextFeatures, noise: Float[Tensor, "B Z"]
    ) -> list[Float[Tensor, "B 3 _ _"]]:
        """Images of all levels, the smallest first, unbounded.

        Args:
            text: features of B captions.
            noise: (B, Z) standard normal.
        """
        told = self.branch(text)
        style = self.mapping(noise, told.pooled)
        return self.synthesise([style] * len(self.levels), self.contexts(told))
