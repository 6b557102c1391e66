"""Generator and discriminator of a one-stage text-conditional GAN.

Reed et al. 2016, "Generative Adversarial Text to Image Synthesis" (GAN-INT-CLS): noise and
text make an image in one pass; the discriminator judges realism and whether image and text
match. Both networks are small and without batch statistics, so that a sample never depends
on its batch. The generator paints from coordinates, not from a 4 x 4 map: it learns in
thousands of images what a stack of upsampling convolutions learns in hundreds of thousands.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, normalize

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import Images, TextFeatures
from t2ibench.nn.conditioning import ConditioningKind, SpatialConditioning

SLOPE = 0.2
"""Negative slope of every leaky ReLU (Reed et al. 2016, section 5)."""

INITIAL_SHIFT = 0.2
"""Standard deviation of the canvas's initial translation, in image sides."""


class Judgement(NamedTuple):
    """Output of the discriminator for a batch of images.

    Attributes:
        logit: (B,) realism, whatever the caption.
        relevance: (B, D) vectors whose scalar product with a caption's is added to the logit.
        embedding: (B, D) vectors of unit length, to be compared with the captions'.
        words: (B, V) logits of the words that the image shows; V = 0 without a word head.
    """

    logit: Float[Tensor, " B"]
    relevance: Float[Tensor, "B D"]
    embedding: Float[Tensor, "B D"]
    words: Float[Tensor, "B V"]


class FourierCanvas(nn.Module):
    r"""Input of the generator: waves over the plane, moved by noise and text.

    At position p of an image of side 1, with a learned translation
    :math:`\tau = W [t; z] + b`, the features are
    :math:`\sin 2\pi f_k \cdot (p - \tau)` and :math:`\cos 2\pi f_k \cdot (p - \tau)`.

    Args:
        resolution: H = W.
        channels: C, even: C / 2 random frequencies of at most ``max_frequency`` cycles an
            image side.
        joint_width: width of [t; z].
        noise_width: Z, the last entries of [t; z].
        max_frequency: in cycles an image side.

    Source: Karras et al. 2021 (StyleGAN3), section 3.1 and appendix F (Fourier input with a
        learned translation); Anokhin et al. 2021 (CIPS), section 3.
    Differs: no rotation; frequencies fill the disc; the translation starts from the noise, so
        that objects have different positions from the first step.
    """

    frequencies: Tensor
    positions: Tensor

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        joint_width: int,
        noise_width: int,
        max_frequency: float,
    ) -> None:
        super().__init__()
        self.translation = nn.Linear(joint_width, 2)
        with torch.no_grad():
            self.translation.weight.mul_(0.1)
            std = INITIAL_SHIFT / math.sqrt(noise_width)
            nn.init.normal_(self.translation.weight[:, -noise_width:], std=std)
            self.translation.bias.zero_()
        directions = normalize(torch.randn(channels // 2, 2), dim=1)
        radii = torch.rand(channels // 2, 1) * max_frequency
        self.register_buffer("frequencies", directions * radii)
        axis = (torch.arange(resolution) + 0.5) / resolution - 0.5
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
        self.register_buffer("positions", grid, persistent=False)

    def forward(self, joint: Float[Tensor, "B D"]) -> Float[Tensor, "B C H W"]:
        """Canvas of each sample; joint is [t; z]."""
        places = self.positions - self.translation(joint)[:, None, None]
        phase = (2 * math.pi * places @ self.frequencies.T).permute(0, 3, 1, 2)
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class StyledLayer(nn.Module):
    """Modulated 1x1 convolution of lrelu((1 + s) GN(x) + b), with s and b linear in the style.

    Source: Karras et al. 2019 (StyleGAN), eq. 1 (AdaIN).
    Differs: GroupNorm in place of InstanceNorm; before the convolution; 1x1 as in Anokhin et
        al. 2021 (CIPS), section 3.
    """

    def __init__(self, channels: int, out: int, style_width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, affine=False)
        self.style = nn.Linear(style_width, 2 * channels)
        self.conv = nn.Conv2d(channels, out, 1)
        kaiming(self.conv)

    def forward(
        self, x: Float[Tensor, "B C H W"], style: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B C2 H W"]:
        """Feature map for x and style (B, D), which acts alike at every position."""
        scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
        return self.conv(leaky_relu(self.norm(x) * (1 + scale) + shift, SLOPE))


class Generator(nn.Module):
    """Generator: noise and text to an image, painted position by position.

    Text meets noise in the style in every mechanism, as text meets noise at the input of the
    paper; the chosen mechanism then brings the text to the painted map itself.

    Args:
        resolution: H = W in pixels.
        text_width: D of the text features.
        noise_width: Z, width of the noise.
        channels: channels of the canvas and of every layer.
        depth: number of layers between canvas and colours.
        style_width: width of the mapped noise and text.
        max_frequency: highest frequency of the canvas, in cycles an image side.
        conditioning: mechanism by which text enters the painted map.
        heads: number of heads in cross-attention.
        groups: number of groups in every GroupNorm.

    Raises:
        ConfigError: ``channels`` is not a multiple of 2 and of ``groups``.

    Source: Reed et al. 2016 (GAN-INT-CLS), section 4.1 (text and noise in, one pass);
        Anokhin et al. 2021 (CIPS), section 3 (layers).
    Differs: the image is painted from coordinates in place of transposed convolutions from a
        4 x 4 map; no batch statistics.
    """

    def __init__(
        self,
        *,
        resolution: int,
        text_width: int,
        noise_width: int,
        channels: int,
        depth: int,
        style_width: int,
        max_frequency: float,
        conditioning: ConditioningKind,
        heads: int,
        groups: int,
    ) -> None:
        super().__init__()
        if channels % 2 or channels % groups:
            raise ConfigError(
                f"model.module.generator.channels={channels} must be even and a multiple of "
                f"groups={groups}."
            )
        self.noise_width = noise_width
        self.text = nn.Linear(text_width, style_width)
        joint = style_width + noise_width
        self.mapping = nn.Sequential(
            nn.Linear(joint, style_width),
            nn.LeakyReLU(SLOPE),
            nn.Linear(style_width, style_width),
            nn.LeakyReLU(SLOPE),
        )
        self.canvas = FourierCanvas(
            resolution=resolution,
            channels=channels,
            joint_width=joint,
            noise_width=noise_width,
            max_frequency=max_frequency,
        )
        self.conditioning = SpatialConditioning(conditioning, channels, text_width, heads)
        self.layers = nn.ModuleList(
            StyledLayer(channels, channels, style_width, groups) for _ in range(depth)
        )
        self.colours = StyledLayer(channels, 3, style_width, groups)
        with torch.no_grad():
            self.colours.conv.weight.mul_(0.3)  # tanh starts away from its flat ends

    def forward(self, text: TextFeatures, noise: Float[Tensor, "B Z"]) -> Images:
        """Images in (-1, 1).

        Args:
            text: features of B captions.
            noise: (B, Z) standard normal, truncated by the caller.
        """
        joint = torch.cat([leaky_relu(self.text(text.pooled), SLOPE), noise], dim=1)
        style = self.mapping(joint)
        x = self.conditioning(self.canvas(joint), self.conditioning.prepare(text))
        for layer in self.layers:
            x = layer(x, style)
        return torch.tanh(self.colours(x, style))


class Discriminator(nn.Module):
    """Discriminator: an image to realism, relevance to a caption, an embedding and its words.

    All but realism read the maximum over positions: an object counts wherever it is.

    Args:
        text_width: D of the text features.
        channels: channels at half resolution; half as many at full, twice as many at a quarter.
        embedding_width: width of image and text embeddings.
        word_buckets: V of the words read off the image; 0: none are, there is no such head.
        groups: number of groups in every GroupNorm.

    Source: Reed et al. 2016 (GAN-INT-CLS), section 4.1; Miyato and Koyama 2018 (projection),
        eq. 4; contrastive head as in Zhang et al. 2021 (XMC-GAN), section 4.3.
    Differs: text is compared with image features by scalar products in place of a joint
        convolution; GroupNorm, so that real and generated batches never mix.
    """

    def __init__(
        self,
        *,
        text_width: int,
        channels: int,
        embedding_width: int,
        word_buckets: int,
        groups: int,
    ) -> None:
        super().__init__()
        wide = 2 * channels
        self.word_buckets = word_buckets
        self.trunk = nn.Sequential(
            *convolution(3, channels // 2, 3, 1, groups),
            *convolution(channels // 2, channels, 4, 2, groups),
            *convolution(channels, channels, 3, 1, groups),
            *convolution(channels, wide, 4, 2, groups),
            *convolution(wide, wide, 3, 1, groups),
        )
        self.realism = nn.Sequential(nn.Conv2d(wide, wide, 4, 2, 1), nn.LeakyReLU(SLOPE))
        kaiming(self.realism[0])
        self.logit = nn.Linear(wide, 1)
        self.relevance = nn.Linear(wide, embedding_width)
        self.relevance_text = nn.Linear(text_width, embedding_width)
        self.embedding = nn.Linear(wide, embedding_width)
        self.embedding_text = nn.Linear(text_width, embedding_width)
        self.words = nn.Linear(wide, word_buckets) if word_buckets else None
        if self.words is not None:
            nn.init.constant_(self.words.bias, -4.0)  # a word is in about one caption of fifty
        self.log_scale = nn.Parameter(torch.tensor(2.6))

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Inverse temperature of the matching score, learned, at most 50."""
        return self.log_scale.exp().clamp(max=50.0)

    def forward(self, images: Images) -> Judgement:
        """Judges images alone; captions are compared afterwards."""
        x = self.trunk(images)
        strongest = x.amax((2, 3))
        return Judgement(
            self.logit(self.realism(x).mean((2, 3)))[:, 0],
            self.relevance(strongest),
            normalize(self.embedding(strongest), dim=1),
            strongest[:, :0] if self.words is None else self.words(strongest),
        )

    def belief(self, judged: Judgement, text: TextFeatures) -> Float[Tensor, " B"]:
        """Logits that image i is real and shows caption i."""
        told = self.relevance_text(text.pooled)
        return judged.logit + (judged.relevance * told).sum(1) / math.sqrt(told.shape[1])

    def embed_text(self, text: TextFeatures) -> Float[Tensor, "B D"]:
        """Unit-length embeddings of captions."""
        return normalize(self.embedding_text(text.pooled), dim=1)


def convolution(channels: int, out: int, kernel: int, stride: int, groups: int) -> list[nn.Module]:
    """Convolution, GroupNorm, leaky ReLU; padded so that stride 1 keeps the size."""
    layer = nn.Conv2d(channels, out, kernel, stride, 1)
    kaiming(layer)
    return [layer, nn.GroupNorm(groups, out), nn.LeakyReLU(SLOPE)]


def kaiming(layer: nn.Module) -> None:
    """Initialises normal weights that keep the variance through leaky ReLUs, and a zero bias.

    Source: He et al. 2015, eq. 15.
    Differs: none.
    """
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    nn.init.zeros_(layer.bias)
