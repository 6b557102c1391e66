"""Discriminator of GigaGAN: every resolution of a pyramid in, realism at every resolution out.

Kang et al. 2023, "Scaling up GANs for text-to-image synthesis", section 3.4. The optional
vision-aided discriminator reads the features of a frozen network.

Shape legend: i numbers the image of the pyramid that enters, j the feature map that is judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from t2ibench.core.types import Images, TextFeatures
from t2ibench.families.gan.giga_generator import (
    ATTENTION_GAIN,
    FIRST,
    Pyramid,
    TextBranch,
    activated,
    levels_of,
    width_at,
)
from t2ibench.nn.adaptive import AdaptiveConv, EqualisedConv
from t2ibench.nn.l2_attention import L2SelfAttention
from t2ibench.nn.stylegan import TAPS, filtered

HEAD_DEPTH = 4
"""Modulated 1x1 convolutions of a head (Kang et al. 2023, section 3.4)."""

Logits = Sequence[Float[Tensor, "_ _ _ _"]]
"""Logits of each judged map j, the largest first, of the pyramid's images that reach it."""


def pyramid_of(images: Images, count: int) -> list[Tensor]:
    """Images and their halves, ``count`` sizes in all, the smallest first.

    Source: Kang et al. 2023 (GigaGAN), section 3.3.
    Differs: the paper does not name the filter; here the mean of each square of pixels.
    """
    found = [images]
    for _ in range(count - 1):
        found.append(avg_pool2d(found[-1], 2))
    return found[::-1]


def packed(pyramid: Pyramid) -> Float[Tensor, "B 3 1 N"]:
    """All pixels of a pyramid in one row, of which a penalty takes one gradient."""
    return torch.cat([images.flatten(2) for images in pyramid], 2).unsqueeze(2)


def unpacked(row: Float[Tensor, "B 3 1 N"], sides: Sequence[int]) -> list[Tensor]:
    """Inverse of ``packed``."""
    pieces = row.squeeze(2).split([side**2 for side in sides], 2)
    return [piece.unflatten(2, (side, side)) for piece, side in zip(pieces, sides, strict=True)]


class Halving(nn.Module):
    """One level: self-attention, a convolution, a convolution of stride 2; residual.

    Source: Kang et al. 2023 (GigaGAN), section 3.4; Karras et al. 2020 (StyleGAN2), figure 7c.
    Differs: the residual path is a mean of squares of pixels.
    """

    def __init__(self, channels: int, out: int, attention: nn.Module | None) -> None:
        super().__init__()
        self.attention = attention
        self.conv = EqualisedConv(channels, channels, 3, padding=1)
        self.down = EqualisedConv(channels, out, 3, stride=2)
        self.skip = EqualisedConv(channels, out, 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 h w"]:
        """Feature map of half the side."""
        if self.attention is not None:
            x = self.attention(x)
        y = activated(self.conv(x))
        y = activated(self.down(filtered(y, TAPS, before=2, after=2)))
        return (y + self.skip(avg_pool2d(x, 2))) / math.sqrt(2)


class Flattening(nn.Module):
    """The last level: a map of 4 x 4 to one position.

    Source: Kang et al. 2023 (GigaGAN), section 3.4; Karras et al. 2020 (StyleGAN2), figure 7c.
    Differs: no minibatch standard deviation: samples never mix.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = EqualisedConv(channels, channels, 3, padding=1)
        self.flat = EqualisedConv(channels, channels, FIRST)

    def forward(self, x: Float[Tensor, "B C 4 4"]) -> Float[Tensor, "B C 1 1"]:
        """Feature map of one position."""
        return activated(self.flat(activated(self.conv(x))))


class Head(nn.Module):
    r"""Logits of a feature map, :math:`\psi(\phi, t_D) + \mathrm{Conv}_{1 \times 1}(\phi)`.

    The second term judges without text.

    Args:
        channels: C of the map.
        text_width: width of t_D.

    Source: Kang et al. 2023 (GigaGAN), eq. 5.
    Differs: none.
    """

    def __init__(self, channels: int, text_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            AdaptiveConv(channels, channels, kernel=1, style_width=text_width)
            for _ in range(HEAD_DEPTH - 1)
        )
        self.biases = nn.ParameterList(torch.zeros(channels) for _ in self.layers)
        self.out = AdaptiveConv(channels, 1, kernel=1, style_width=text_width, demodulate=False)
        self.plain = EqualisedConv(channels, 1, 1)

    def forward(
        self, x: Float[Tensor, "B C h w"], text: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Logits for a map and a text."""
        y = x
        for layer, bias in zip(self.layers, self.biases, strict=True):
            y = activated(layer(y, text) + bias[:, None, None])
        return self.out(y, text) + self.plain(x)


class GigaDiscriminator(nn.Module):
    r"""Discriminator with multi-scale input and output.

    Image i of the pyramid enters at its own resolution and is judged at every map j below it,

    .. math:: D_{ij}(x_i, c) = \psi_j(\phi_{ij}, t_D) + \mathrm{Conv}_j(\phi_{ij}), \quad
        \phi_{ij} = \phi_{i \to j}(x_i).

    All images share :math:`\phi`, so each level runs once, on all that have entered.

    Args:
        resolution: H = W of the largest image.
        inputs: number of images of a pyramid, from the largest down; None: all.
        text_width: D of the text features.
        channel_base: as in ``GigaGenerator``.
        channel_max: as in ``GigaGenerator``.
        attention_resolutions: sides of the levels with self-attention.
        heads: number of heads of attention, and of the text branch's.
        branch_width: width of the text branch.
        branch_depth: its blocks.

    Raises:
        ConfigError: an impossible resolution, or heads that divide no width.

    Source: Kang et al. 2023 (GigaGAN), section 3.4 and eq. 3-5.
    Differs: widths and the attentions' resolutions are not verified.
    """

    def __init__(
        self,
        *,
        resolution: int,
        text_width: int,
        channel_base: int,
        channel_max: int,
        attention_resolutions: Sequence[int],
        heads: int,
        branch_width: int,
        branch_depth: int,
        inputs: int | None = None,
    ) -> None:
        super().__init__()
        sides = levels_of(resolution)[::-1]
        self.branch = TextBranch(
            text_width=text_width, width=branch_width, depth=branch_depth, heads=heads
        )
        self.inputs = len(sides) if inputs is None else inputs
        self.sides = sides[: self.inputs][::-1]
        widths = [width_at(side, channel_base, channel_max) for side in sides]
        self.from_image = nn.ModuleList(
            EqualisedConv(3, width, 1) for width in widths[: self.inputs]
        )
        self.levels = nn.ModuleList()
        for side, width, below in zip(sides[:-1], widths[:-1], widths[1:], strict=True):
            attends = side in attention_resolutions
            attention = L2SelfAttention(width, heads, ATTENTION_GAIN) if attends else None
            self.levels.append(Halving(width, below, attention))
        self.levels.append(Flattening(widths[-1]))
        self.heads = nn.ModuleList(Head(width, branch_width) for width in (*widths[1:], widths[-1]))

    def blocks_to_shard(self) -> list[nn.Module]:
        """The levels."""
        return list(self.levels)

    def features(self, pyramid: Pyramid) -> list[Tensor]:
        """Feature maps j of all images that have entered above, the largest map first.

        Args:
            pyramid: images, the smallest first.
        """
        images = list(pyramid)[::-1]
        found: list[Tensor] = []
        for number, level in enumerate(self.levels):
            entering = found[-1:]
            if number < self.inputs:
                entering = [*entering, activated(self.from_image[number](images[number]))]
            found.append(level(torch.cat(entering) if len(entering) > 1 else entering[0]))
        return found

    def judge(
        self,
        features: Sequence[Tensor],
        sentence: Float[Tensor, "b D"],
        count: int,
    ) -> Logits:
        """Logits of the feature maps of B images with a text: ``self.branch``'s pooled vectors."""
        logits = []
        for head, x in zip(self.heads, features, strict=True):
            judged = head(x, sentence.repeat(len(x) // len(sentence), 1))
            logits.append(judged.view(-1, count, *x.shape[2:]).transpose(0, 1))
        return logits

    def forward(self, pyramid: Pyramid, texts: Sequence[TextFeatures]) -> list[Logits]:
        """Logits of the same images with each of several captions of theirs.

        Args:
            pyramid: images, the smallest first.
            texts: features of b captions each; B is b, or a multiple where the captions are those
                of several sets of images.
        """
        features = self.features(pyramid)
        count = len(pyramid[0])
        return [self.judge(features, self.branch(text).pooled, count) for text in texts]


def realism(logits: Logits) -> Float[Tensor, " B"]:
    """Each image's logit: the sum over maps and entered images, each averaged over positions."""
    return torch.stack([x.mean((2, 3)).sum(1) for x in logits]).sum(0)


class VisionHead(nn.Module):
    """Logits of one map of frozen features: a fixed random projection, then small convolutions.

    Source: Kang et al. 2023 (GigaGAN), section 3.4 (vision-aided); Sauer et al. 2021 (Projected
        GANs), section 3.2 (random projection).
    Differs: widths are not published.
    """

    projection: Tensor

    def __init__(self, channels: int, width: int, text_width: int) -> None:
        super().__init__()
        self.register_buffer("projection", torch.randn(width, channels) / math.sqrt(channels))
        self.conv = EqualisedConv(width, width, 3, padding=1)
        self.head = Head(width, text_width)

    def forward(
        self, x: Float[Tensor, "B D N"], text: Float[Tensor, "B D2"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Logits of a square of image tokens."""
        side = math.isqrt(x.shape[-1])
        tokens = (self.projection @ x).unflatten(2, (side, side))
        return self.head(activated(self.conv(tokens)), text)


class VisionDiscriminator(nn.Module):
    """Vision-aided discriminator: heads over a frozen network's feature maps.

    Args:
        maps: number of maps that the network gives, each (B, D, N) with N a square.
        channels: D.
        width: of the random projections and of the heads.
        text_width: width of t_D.

    Source: Kang et al. 2023 (GigaGAN), section 3.4; Kumari et al. 2022 (vision-aided GAN).
    Differs: the frozen network is any that gives maps of tokens; the paper's is CLIP.
    """

    def __init__(self, *, maps: int, channels: int, width: int, text_width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(VisionHead(channels, width, text_width) for _ in range(maps))

    def forward(
        self, maps: Sequence[Float[Tensor, "B _ _"]], text: Float[Tensor, "B D2"]
    ) -> Logits:
        """Logits of the frozen network's maps."""
        return [head(x, text) for head, x in zip(self.heads, maps, strict=True)]
