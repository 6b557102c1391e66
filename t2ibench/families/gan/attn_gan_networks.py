"""Networks of AttnGAN: three stages with word attention, and a discriminator a stage.

C is the width of a stage's feature map (N_g in the paper), L the number of words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, scaled_dot_product_attention

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import Images, TextFeatures
from t2ibench.families.gan.pairs import next_rows
from t2ibench.nn.batch_norm import BatchNorm
from t2ibench.nn.conditioning import ConditioningKind
from t2ibench.nn.gated import (
    Augmented,
    GatedAugmentation,
    GatedProjection,
    GatedResidual,
    convolution_3x3,
    gated_upsampling,
    orthogonal,
)

STAGES = 3
"""Images a caption (Xu et al. 2018, section 4: 64, 128 and 256 px)."""

FIRST_MAP = 4
"""Side of the first feature map, and of the last one of a discriminator."""

JUDGED_WIDTH = 8
"""Greatest width of the map that a discriminator's heads read, in multiples of its first."""

SLOPE = 0.2
"""Negative slope of the discriminators' leaky ReLUs."""


class Drawn(NamedTuple):
    """Output of the generator.

    Attributes:
        images: (B, 3, h, w) in (-1, 1) of each stage, the smallest first.
        augmented: the sampled condition and its distribution.
    """

    images: tuple[Tensor, ...]
    augmented: Augmented


class Judged(NamedTuple):
    """Output of the discriminators, smallest image first.

    Attributes:
        alone: (B,) logits of realism, whatever the caption; a tensor a stage.
        told: (B,) logits with the caption.
        mistold: logits of image i with caption i + 1 (``pairs.next_rows``); none where they are not
            asked for.
        share: by what the mean over ``mistold`` is multiplied, 1 on one rank.
    """

    alone: tuple[Tensor, ...]
    told: tuple[Tensor, ...]
    mistold: tuple[Tensor, ...] = ()
    share: float = 1.0

    @property
    def together(self) -> Float[Tensor, "B K"]:
        """All logits of an image."""
        return torch.stack([*self.alone, *self.told], dim=1)


class WordAttention(nn.Module):
    r"""Words as each place of a feature map sees them.

        e' = U e        c_j = sum_i beta_ji e'_i        beta_j = softmax_i(h_j . e'_i)

    over the caption's own words; keys are values, and scores are not scaled.

    Args:
        channels: C of the map.
        text_width: width of the words.

    Source: Xu et al. 2018 (AttnGAN), eq. 2.
    Differs: every place has its own caption's mask; the authors' code lays masks out in another
        order than scores, so that places have those of other captions of the batch.
    """

    def __init__(self, channels: int, text_width: int) -> None:
        super().__init__()
        self.words = nn.Linear(text_width, channels, bias=False)

    def forward(self, x: Float[Tensor, "B C H W"], text: TextFeatures) -> Float[Tensor, "B C H W"]:
        """The word context of every place."""
        words = self.words(text.tokens)[:, None]
        places = x.flatten(2).transpose(1, 2)[:, None]
        mask = text.mask[:, None, None]
        seen = scaled_dot_product_attention(places, words, words, attn_mask=mask, scale=1.0)
        return seen[:, 0].transpose(1, 2).reshape(x.shape)

    def maps(self, x: Float[Tensor, "B C H W"], text: TextFeatures) -> Float[Tensor, "B L H W"]:
        """Weights beta: over the words of a place they sum to one."""
        scores = self.words(text.tokens) @ x.flatten(2)
        weights = scores.masked_fill(~text.mask[:, :, None], -math.inf).softmax(1)
        return weights.reshape(*weights.shape[:2], *x.shape[2:])


class SentenceContext(nn.Module):
    """The sentence at every place, in place of word attention.

    concat: c = W t, the same everywhere. modulation: c = (1 + W_s t) h + W_b t.

    Args:
        channels: C of the map.
        text_width: width of the sentence vector t.
        modulates: False is concat.

    Source: Zhang et al. 2018 (StackGAN-v2), section 3.1 (concat); Perez et al. 2018 (FiLM), eq. 2.
    Differs: the context stands beside the map, as AttnGAN's does.
    """

    def __init__(self, channels: int, text_width: int, modulates: bool) -> None:
        super().__init__()
        self.modulates = modulates
        self.sentence = nn.Linear(text_width, channels * (2 if modulates else 1))

    def forward(self, x: Float[Tensor, "B C H W"], text: TextFeatures) -> Float[Tensor, "B C H W"]:
        """The context of every place."""
        found = self.sentence(text.pooled)[:, :, None, None]
        if not self.modulates:
            return found.expand_as(x)
        scale, shift = found.chunk(2, dim=1)
        return x * (1 + scale) + shift


class FirstStage(nn.Module):
    """F_0: condition and noise to the first stage's feature map.

    Args:
        inputs: width of [c ; z].
        channels: C of its output.
        side: of its output; a power of two.

    Source: Xu et al. 2018 (AttnGAN), eq. 1; layout of the authors' code.
    Differs: as many upsamplings as the side needs; the authors' 64 px need four.
    """

    def __init__(self, inputs: int, channels: int, side: int) -> None:
        super().__init__()
        doublings = int(math.log2(side // FIRST_MAP))
        widths = [channels * 2**i for i in range(doublings, -1, -1)]
        self.start = GatedProjection(inputs, widths[0])
        self.upsamplings = nn.Sequential(
            *(gated_upsampling(a, b) for a, b in zip(widths, widths[1:], strict=False))
        )

    def forward(self, joint: Float[Tensor, "B J"]) -> Float[Tensor, "B C H W"]:
        """Feature map."""
        return self.upsamplings(self.start(joint))


class NextStage(nn.Module):
    """F_i: a feature map and the words to a map of twice the side.

    Args:
        channels: C of input and output.
        text_width: width of words and sentence.
        residual_blocks: their number, on [h ; context].
        conditioning: ``cross_attention`` is the paper's.

    Source: Xu et al. 2018 (AttnGAN), eq. 1; layout of the authors' code.
    Differs: none with ``cross_attention``.
    """

    def __init__(
        self, channels: int, text_width: int, residual_blocks: int, conditioning: ConditioningKind
    ) -> None:
        super().__init__()
        self.context: WordAttention | SentenceContext
        if conditioning == "cross_attention":
            self.context = WordAttention(channels, text_width)
        else:
            self.context = SentenceContext(channels, text_width, conditioning == "modulation")
        self.residual = nn.Sequential(
            *(GatedResidual(2 * channels) for _ in range(residual_blocks))
        )
        self.upsampling = gated_upsampling(2 * channels, channels)

    def forward(self, x: Float[Tensor, "B C H W"], text: TextFeatures) -> Tensor:
        """The next feature map (B, C, 2H, 2W)."""
        return self.upsampling(self.residual(torch.cat([x, self.context(x, text)], dim=1)))


class Generator(nn.Module):
    """G: a caption and noise to images of three sizes.

    Args:
        resolution: H = W of the last image.
        text_width: width of the text features.
        conditioning: how text reaches the second and third stage.
        channels: C (``GF_DIM`` of the authors' code).
        residual_blocks: of each later stage (``R_NUM``).
        noise_width: Z (``Z_DIM``).
        condition_width: width of the augmented condition (``CONDITION_DIM``).

    Raises:
        ConfigError: the resolution is no power of two of at least 16.

    Source: Xu et al. 2018 (AttnGAN), section 3.1; layout of the authors' code.
    Differs: none at 256 px.
    """

    def __init__(
        self,
        *,
        resolution: int,
        text_width: int,
        conditioning: ConditioningKind,
        channels: int,
        residual_blocks: int,
        noise_width: int,
        condition_width: int,
    ) -> None:
        super().__init__()
        sides = pyramid_sides(resolution)
        self.noise_width = noise_width
        self.condition_width = condition_width
        self.augmentation = GatedAugmentation(text_width, condition_width)
        self.first = FirstStage(condition_width + noise_width, channels, sides[0])
        self.later = nn.ModuleList(
            NextStage(channels, text_width, residual_blocks, conditioning) for _ in sides[1:]
        )
        self.colours = nn.ModuleList(convolution_3x3(channels, 3) for _ in sides)
        orthogonal(self)

    @property
    def randomness(self) -> int:
        """Width of the noise: z, then that of the augmentation."""
        return self.noise_width + self.condition_width

    def forward(
        self,
        text: TextFeatures,
        noise: Float[Tensor, "B Z"],
        later: tuple[TextFeatures, int] | None = None,
    ) -> Drawn:
        """Images in (-1, 1) of every stage.

        Args:
            text: features of B captions.
            noise: (B, ``randomness``) standard normal, truncated by the caller.
            later: another text, and the first stage that reads it.
        """
        augmented, maps = self.feature_maps(text, noise, later)
        drawn = [torch.tanh(colour(x)) for colour, x in zip(self.colours, maps, strict=True)]
        return Drawn(tuple(drawn), augmented)

    def feature_maps(
        self,
        text: TextFeatures,
        noise: Float[Tensor, "B Z"],
        later: tuple[TextFeatures, int] | None = None,
    ) -> tuple[Augmented, list[Tensor]]:
        """The condition, and each stage's feature map."""
        texts = texts_of_stages(text, later)
        z, of_condition = noise.split([self.noise_width, self.condition_width], dim=1)
        augmented = self.augmentation(texts[0].pooled, of_condition)
        maps = [self.first(torch.cat([augmented.code, z], dim=1))]
        for stage, told in zip(self.later, texts[1:], strict=True):
            maps.append(stage(maps[-1], told))
        return augmented, maps

    def attention_maps(self, text: TextFeatures, noise: Float[Tensor, "B Z"]) -> list[Tensor]:
        """Word attention (B, L, h, w) of the later stages, as large as what each refines."""
        _, maps = self.feature_maps(text, noise)
        contexts = [cast(NextStage, stage).context for stage in self.later]
        pairs = zip(contexts, maps[:-1], strict=True)
        return [c.maps(x, text) for c, x in pairs if isinstance(c, WordAttention)]


class Discriminator(nn.Module):
    """D_i: an image and a sentence to two logits.

    Args:
        side: H = W of its images; a power of two.
        text_width: width of the sentence vector.
        channels: of its first layer (``DF_DIM``); every halving doubles them, and the map that is
            judged has at most ``JUDGED_WIDTH`` times as many.

    Source: Xu et al. 2018 (AttnGAN), section 3.1; layout of the authors' code.
    Differs: as many halvings as the side needs; a 4 px image is read by one 3x3 convolution; the
        logit stays one, and the loss has the sigmoid.
    """

    def __init__(self, *, side: int, text_width: int, channels: int) -> None:
        super().__init__()
        halvings = int(math.log2(side // FIRST_MAP))
        first = nn.Conv2d(3, channels, 4, 2, 1, bias=False)
        if halvings == 0:
            first = nn.Conv2d(3, channels, 3, 1, 1, bias=False)
        layers: list[nn.Module] = [first, nn.LeakyReLU(SLOPE, inplace=True)]
        width = channels
        for _ in range(halvings - 1):
            layers += [nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), *normed(2 * width)]
            width *= 2
        while width > JUDGED_WIDTH * channels:
            layers += [convolution_3x3(width, width // 2), *normed(width // 2)]
            width //= 2
        self.trunk = nn.Sequential(*layers)
        self.joint = nn.Sequential(convolution_3x3(width + text_width, width), *normed(width))
        self.told = nn.Conv2d(width, 1, FIRST_MAP, FIRST_MAP)
        self.alone = nn.Conv2d(width, 1, FIRST_MAP, FIRST_MAP)
        orthogonal(self)

    def forward(
        self,
        images: Images,
        sentence: Float[Tensor, "B D"],
        following: Float[Tensor, "B2 D"] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits alone, with the caption, and of the first images with the following captions."""
        x = self.trunk(images)
        wrong = None if following is None else self.with_caption(x[: len(following)], following)
        return self.alone(x).flatten(), self.with_caption(x, sentence), wrong

    def with_caption(
        self, x: Float[Tensor, "B C 4 4"], sentence: Float[Tensor, "B D"]
    ) -> Float[Tensor, " B"]:
        """Logits of image features with a sentence, which stands at every place."""
        tiled = sentence[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.told(self.joint(torch.cat([x, tiled], dim=1))).flatten()


class Discriminators(nn.Module):
    """A discriminator for each size of image.

    Args:
        resolution: H = W of the greatest image.
        text_width: width of the sentence vector.
        channels: of each first layer (``DF_DIM``).

    Raises:
        ConfigError: the resolution is no power of two of at least 16.

    Source: Xu et al. 2018 (AttnGAN), section 3.1.
    Differs: none at 256 px.
    """

    def __init__(self, *, resolution: int, text_width: int, channels: int) -> None:
        super().__init__()
        sides = pyramid_sides(resolution)
        self.of_side = nn.ModuleDict(
            {
                str(side): Discriminator(side=side, text_width=text_width, channels=channels)
                for side in sides
            }
        )

    def forward(
        self, images: Sequence[Tensor], sentence: Float[Tensor, "B D"], mistold: bool = False
    ) -> Judged:
        """Judges each size of images, the smallest first."""
        following, _, share = next_rows(sentence) if mistold else (None, 0, 1.0)
        found = [
            judge(x, sentence, following)
            for judge, x in zip(self.of_side.values(), images, strict=True)
        ]
        alone, told, wrong = zip(*found, strict=True)
        return Judged(alone, told, wrong if mistold else (), share)


def pyramid_sides(resolution: int) -> tuple[int, ...]:
    """Sides of the images: a quarter, a half and the whole of the resolution.

    Raises:
        ConfigError: the resolution is no power of two of at least 16.
    """
    least = FIRST_MAP * 2 ** (STAGES - 1)
    if resolution < least or resolution & (resolution - 1):
        raise ConfigError(
            f"data.resolution={resolution} is none that a pyramid of {STAGES} images makes "
            f"from a {FIRST_MAP} x {FIRST_MAP} map; choose a power of two of at least {least}."
        )
    return tuple(resolution // 2**i for i in range(STAGES - 1, -1, -1))


def texts_of_stages(
    text: TextFeatures, later: tuple[TextFeatures, int] | None
) -> list[TextFeatures]:
    """Text of each stage; ``later`` is another one and the first stage that reads it."""
    if later is None:
        return [text] * STAGES
    return [text] * later[1] + [later[0]] * (STAGES - later[1])


def normed(channels: int) -> list[nn.Module]:
    """Batch norm and leaky ReLU."""
    return [BatchNorm(channels), nn.LeakyReLU(SLOPE, inplace=True)]


def image_pyramid(images: Images, stages: int) -> list[Tensor]:
    """The images at half the side again and again, smallest first."""
    found = [images]
    for _ in range(stages - 1):
        found.append(avg_pool2d(found[-1], 2))
    return found[::-1]
