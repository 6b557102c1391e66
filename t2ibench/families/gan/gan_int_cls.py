"""Generator and discriminator of a one-stage text-conditional GAN.

Reed et al. 2016, "Generative Adversarial Text to Image Synthesis" (GAN-INT-CLS): noise and
text make an image in one pass; the discriminator judges realism and whether image and text
match. The networks are small and without batch statistics, so that a sample never depends
on its batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, normalize

from t2ibench.core.types import Images, TextFeatures
from t2ibench.nn.conditioning import ConditioningKind, SpatialConditioning

SLOPE = 0.2
"""Of every leaky ReLU (Reed et al. 2016, section 5)."""


class Judgement(NamedTuple):
    """What the discriminator says of images.

    Attributes:
        logit: (B,) realism.
        embedding: (B, D) of unit length, to be compared with the captions'.
        words: (B, V) logits of the words that the image shows.
    """

    logit: Float[Tensor, " B"]
    embedding: Float[Tensor, "B D"]
    words: Float[Tensor, "B V"]


class GeneratorBlock(nn.Module):
    """Text, then noise as scale and shift, leaky ReLU, nearest x2, convolution.

    Source: Radford et al. 2016 (DCGAN), section 3; style by noise as in Karras et al. 2019
        (StyleGAN), section 2.
    Differs: GroupNorm in place of BatchNorm, nearest and convolution in place of a transposed
        one.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        *,
        style_width: int,
        text_width: int,
        conditioning: ConditioningKind,
        heads: int,
        groups: int,
    ) -> None:
        super().__init__()
        self.text = SpatialConditioning(conditioning, channels, text_width, heads)
        self.norm = nn.GroupNorm(groups, channels, affine=False)
        self.style = nn.Linear(style_width, 2 * channels)
        self.conv = nn.Conv2d(channels, out, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "B C H W"], style: Float[Tensor, "B D"], context: Any
    ) -> Float[Tensor, "B C2 H2 W2"]:
        """Doubles the resolution."""
        x = self.text(x, context)
        scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
        x = leaky_relu(self.norm(x) * (1 + scale) + shift, SLOPE)
        return self.conv(interpolate(x, scale_factor=2.0))


class Generator(nn.Module):
    """Noise and text to an image.

    The text meets the noise at the input in every mechanism, as in the paper; above it, each
    block takes the text through the chosen one.

    Args:
        resolution: H = W, 4 times a power of 2, at least 16.
        text_width: D of the text features.
        noise_width: Z.
        channels: of the first block; each later one has half, at least a quarter.
        style_width: of the mapped noise and text.
        conditioning: how text enters the blocks.
        heads: of cross-attention.
        groups: of every GroupNorm.

    Source: Reed et al. 2016 (GAN-INT-CLS), section 4.1.
    Differs: no batch statistics; the last doubling is a sub-pixel convolution.
    """

    def __init__(
        self,
        *,
        resolution: int,
        text_width: int,
        noise_width: int,
        channels: int,
        style_width: int,
        conditioning: ConditioningKind,
        heads: int,
        groups: int,
    ) -> None:
        super().__init__()
        self.noise_width = noise_width
        self.channels = channels
        self.text = nn.Linear(text_width, style_width)
        joint = style_width + noise_width
        self.mapping = nn.Sequential(
            nn.Linear(joint, style_width),
            nn.LeakyReLU(SLOPE),
            nn.Linear(style_width, style_width),
            nn.LeakyReLU(SLOPE),
        )
        self.input = nn.Linear(joint, channels * 16)
        doublings = (resolution // 8).bit_length() - 1
        widths = [max(channels >> max(i - 1, 0), channels // 4) for i in range(doublings + 1)]
        self.blocks = nn.ModuleList(
            GeneratorBlock(
                widths[i],
                widths[i + 1],
                style_width=style_width,
                text_width=text_width,
                conditioning=conditioning,
                heads=heads,
                groups=groups,
            )
            for i in range(doublings)
        )
        self.norm_out = nn.GroupNorm(groups, widths[-1], affine=False)
        self.style_out = nn.Linear(style_width, 2 * widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 12, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, text: TextFeatures, noise: Float[Tensor, "B Z"]) -> Images:
        """Images in (-1, 1).

        Args:
            text: features of B captions.
            noise: (B, Z) standard normal, truncated by the caller.
        """
        joint = torch.cat([leaky_relu(self.text(text.pooled), SLOPE), noise], dim=1)
        style = self.mapping(joint)
        x = self.input(joint).view(len(text), self.channels, 4, 4)
        for block in self.blocks:
            x = block(x, style, block.text.prepare(text))
        scale, shift = self.style_out(style)[:, :, None, None].chunk(2, dim=1)
        x = leaky_relu(self.norm_out(x) * (1 + scale) + shift, SLOPE)
        return torch.tanh(self.shuffle(self.conv_out(x)))


class Discriminator(nn.Module):
    """An image to a realism logit, an embedding for matching, and the words it shows.

    The embedding is the maximum over positions: an object counts wherever it stands.

    Args:
        text_width: D of the text features.
        channels: of the layers at half resolution; deeper ones have twice as many.
        embedding_width: of image and text embeddings.
        word_buckets: V of the words read off the image.

    Source: Reed et al. 2016 (GAN-INT-CLS), section 4.1; separate heads as in Zhang et al. 2021
        (XMC-GAN), section 4.3.
    Differs: no batch normalisation, so that real and generated batches never mix; pixels enter
        by space-to-depth.
    """

    def __init__(
        self, *, text_width: int, channels: int, embedding_width: int, word_buckets: int
    ) -> None:
        super().__init__()
        narrow, wide = channels, 2 * channels
        self.word_buckets = word_buckets
        self.trunk = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, narrow, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(narrow, narrow, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(narrow, wide, 4, 2, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.LeakyReLU(SLOPE),
        )
        self.realism = nn.Sequential(nn.Conv2d(wide, wide, 4, 2, 1), nn.LeakyReLU(SLOPE))
        self.logit = nn.Linear(wide, 1)
        self.image = nn.Linear(wide, embedding_width)
        self.words = nn.Linear(wide, word_buckets)
        self.text = nn.Linear(text_width, embedding_width)
        self.log_scale = nn.Parameter(torch.tensor(2.6))
        for layer in (*self.trunk, *self.realism):
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=SLOPE)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """The inverse temperature of the matching score, learned, at most 50."""
        return self.log_scale.exp().clamp(max=50.0)

    def forward(self, images: Images) -> Judgement:
        """Judges images alone; captions are compared by the losses."""
        x = self.trunk(images)
        strongest = x.amax((2, 3))
        return Judgement(
            self.logit(self.realism(x).mean((2, 3)))[:, 0],
            normalize(self.image(strongest), dim=1),
            self.words(strongest),
        )

    def embed_text(self, text: TextFeatures) -> Float[Tensor, "B D"]:
        """Unit-length embeddings of captions."""
        return normalize(self.text(text.pooled), dim=1)
