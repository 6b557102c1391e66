"""Networks of StackGAN: conditioning augmentation, the two generators, the discriminator.

Zhang et al. 2017, "StackGAN: Text to Photo-realistic Image Synthesis with Stacked Generative
Adversarial Networks", in the layout of its authors' PyTorch code. At resolution R feature maps
double from 4 x 4 to R in log2(R / 4) stages (the paper has 64 px: four); the discriminator halves
them back.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from t2ibench.core.types import Images, TextFeatures
from t2ibench.families.gan.gan_int_cls import SLOPE, STD, stages
from t2ibench.nn.batch_norm import BatchNorm
from t2ibench.nn.conditioning import ConditioningKind, SpatialConditioning

JUDGED_WIDTH = 8
"""Greatest width of the map that the discriminator's heads read, in multiples of its first."""


class Condition(NamedTuple):
    """A sentence as a normal distribution, and a draw of it.

    Attributes:
        drawn: (B, C) mean + eps exp(log_variance / 2).
        mean: (B, C), not negative.
        log_variance: (B, C), not negative.
    """

    drawn: Float[Tensor, "B C"]
    mean: Float[Tensor, "B C"]
    log_variance: Float[Tensor, "B C"]


class ConditioningAugmentation(nn.Module):
    """Conditioning augmentation: a sentence to a normal distribution of conditions.

    Args:
        text_width: D of the text features.
        width: C of a condition.

    Source: Zhang et al. 2017 (StackGAN), section 3.2; the ReLU over mean and log-variance is of
        the authors' PyTorch code.
    Differs: none.
    """

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.fc = nn.Linear(text_width, 2 * width)

    def forward(self, sentence: Float[Tensor, "B D"], eps: Float[Tensor, "B C"]) -> Condition:
        """Condition of each sentence; ``eps`` is standard normal, truncated by the caller."""
        mean, log_variance = relu(self.fc(sentence)).chunk(2, dim=1)
        return Condition(mean + eps * (0.5 * log_variance).exp(), mean, log_variance)


def divergence(condition: Condition) -> Float[Tensor, ""]:
    """KL divergence of the condition's distribution from N(0, 1), -(1 + l - m^2 - e^l) / 2.

    A mean over the batch and the dimensions, in nats.

    Source: Zhang et al. 2017 (StackGAN), eq. 2; the mean is of the authors' PyTorch code.
    Differs: none.
    """
    mean, log_variance = condition.mean.float(), condition.log_variance.float()
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).mean()


def conv3(channels: int, out: int) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the size, without bias."""
    return nn.Conv2d(channels, out, 3, padding=1, bias=False)


def conv4(channels: int, out: int) -> nn.Conv2d:
    """A 4 x 4 convolution that halves the size, without bias."""
    return nn.Conv2d(channels, out, 4, 2, 1, bias=False)


def upsampling(channels: int, out: int) -> nn.Sequential:
    """Nearest doubling, 3 x 3 convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"), conv3(channels, out), BatchNorm(out), nn.ReLU()
    )


class ResidualBlock(nn.Module):
    """Residual block relu(x + BN(conv3(relu(BN(conv3(x))))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            conv3(channels, channels),
            BatchNorm(channels),
            nn.ReLU(),
            conv3(channels, channels),
            BatchNorm(channels),
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Computes the layer, see the class."""
        return relu(x + self.block(x))


class TextOnMap(nn.Module):
    """Text brought to a feature map by modulation or cross-attention; nothing for concatenation.

    Args:
        conditioning: the mechanism; ``concat`` is the paper's, which joins the condition itself.
        channels: C of the map.
        text_width: D of the text features.
        heads: number of heads in cross-attention.
    """

    def __init__(
        self, conditioning: ConditioningKind, channels: int, text_width: int, heads: int
    ) -> None:
        super().__init__()
        self.block = (
            None
            if conditioning == "concat"
            else SpatialConditioning(conditioning, channels, text_width, heads)
        )

    def forward(self, x: Float[Tensor, "B C H W"], text: TextFeatures) -> Float[Tensor, "B C H W"]:
        """The map with the text."""
        return x if self.block is None else self.block(x, self.block.prepare(text))


class StageOneGenerator(nn.Module):
    """Generator of stage I: noise and a condition to a small image.

    Args:
        resolution: H = W, a power of two.
        text_width: D of the text features.
        noise_width: Z.
        condition_width: C.
        channels: GF; the map at half the resolution has as many.
        conditioning: ``concat`` joins the condition with the noise, as in the paper; the other two
            leave the noise alone there and bring text to the first map that is 8 x 8.
        heads: number of heads in cross-attention.

    Raises:
        ConfigError: see ``gan_int_cls.stages``.

    Source: Zhang et al. 2017 (StackGAN), section 3.3; layers of the authors' PyTorch code.
    Differs: resolutions besides 64 px; modulation and cross-attention by choice.
    """

    def __init__(
        self,
        *,
        resolution: int,
        text_width: int,
        noise_width: int,
        condition_width: int,
        channels: int,
        conditioning: ConditioningKind,
        heads: int,
    ) -> None:
        super().__init__()
        count = stages(resolution)
        self.joined = conditioning == "concat"
        self.augmentation = ConditioningAugmentation(text_width, condition_width)
        self.first = (channels << count) // 2
        width = noise_width + (condition_width if self.joined else 0)
        self.fc = nn.Sequential(
            nn.Linear(width, self.first * 16, bias=False), BatchNorm(self.first * 16), nn.ReLU()
        )
        self.ups = nn.ModuleList(
            upsampling(self.first >> i, self.first >> (i + 1)) for i in range(count)
        )
        self.text = TextOnMap(conditioning, self.first // 2, text_width, heads)
        self.colours = conv3(self.first >> count, 3)

    def forward(
        self, text: TextFeatures, noise: Float[Tensor, "B Z"], eps: Float[Tensor, "B C"]
    ) -> tuple[Images, Condition]:
        """Images in (-1, 1) and their conditions.

        Args:
            text: features of B captions.
            noise: (B, Z) standard normal, truncated by the caller.
            eps: (B, C) the condition's noise, likewise.
        """
        condition = self.augmentation(text.pooled, eps)
        inputs = torch.cat([noise, condition.drawn], 1) if self.joined else noise
        x = self.fc(inputs).unflatten(1, (self.first, 4, 4))
        for i, up in enumerate(self.ups):
            x = up(x)
            if i == 0:
                x = self.text(x, text)
        return torch.tanh(self.colours(x)), condition


class StageTwoGenerator(nn.Module):
    """Generator of stage II: a small image and a condition to a larger image.

    Args:
        upscale: factor by which each side grows, a power of two; the paper's is 4.
        text_width: D of the text features.
        condition_width: C.
        channels: GF.
        residual_blocks: number of residual blocks.
        conditioning: ``concat`` joins the condition with the image's features, as in the paper;
            the other two bring text to the residual blocks' output.
        heads: number of heads in cross-attention.

    Source: Zhang et al. 2017 (StackGAN), section 3.4; layers of the authors' PyTorch code.
    Differs: factors besides 4; modulation and cross-attention by choice.
    """

    def __init__(
        self,
        *,
        upscale: int,
        text_width: int,
        condition_width: int,
        channels: int,
        residual_blocks: int,
        conditioning: ConditioningKind,
        heads: int,
    ) -> None:
        super().__init__()
        self.joined = conditioning == "concat"
        self.augmentation = ConditioningAugmentation(text_width, condition_width)
        wide = 4 * channels
        self.encoder = nn.Sequential(
            conv3(3, channels),
            nn.ReLU(),
            conv4(channels, 2 * channels),
            BatchNorm(2 * channels),
            nn.ReLU(),
            conv4(2 * channels, wide),
            BatchNorm(wide),
            nn.ReLU(),
        )
        joint = wide + (condition_width if self.joined else 0)
        self.join = nn.Sequential(conv3(joint, wide), BatchNorm(wide), nn.ReLU())
        self.residual = nn.Sequential(*(ResidualBlock(wide) for _ in range(residual_blocks)))
        self.text = TextOnMap(conditioning, wide, text_width, heads)
        count = upscale.bit_length() + 1
        self.ups = nn.Sequential(*(upsampling(wide >> i, wide >> (i + 1)) for i in range(count)))
        self.colours = conv3(wide >> count, 3)

    def forward(
        self, small: Float[Tensor, "B 3 h w"], text: TextFeatures, eps: Float[Tensor, "B C"]
    ) -> tuple[Images, Condition]:
        """Images in (-1, 1) and their conditions.

        Args:
            small: images of stage I.
            text: features of B captions.
            eps: (B, C) the condition's noise, standard normal, truncated by the caller.
        """
        condition = self.augmentation(text.pooled, eps)
        x = self.encoder(small)
        if self.joined:
            everywhere = condition.drawn[:, :, None, None].expand(-1, -1, *x.shape[-2:])
            x = torch.cat([x, everywhere], 1)
        x = self.text(self.residual(self.join(x)), text)
        return torch.tanh(self.colours(self.ups(x))), condition


class Discriminator(nn.Module):
    """Discriminator of either stage: an image and a condition to logits.

    Widths double from DF as the map halves to 4 x 4; above 8 DF, 3 x 3 convolutions halve them
    back to 8 DF.

    Args:
        resolution: H = W, a power of two.
        condition_width: C.
        channels: DF, of the first map.
        unconditional: True for a second head that reads no condition (stage II).

    Raises:
        ConfigError: see ``gan_int_cls.stages``.

    Source: Zhang et al. 2017 (StackGAN), sections 3.3-3.4; layers of the authors' PyTorch code.
    Differs: resolutions besides 64 and 256 px; the sigmoid is in the loss.
    """

    def __init__(
        self, *, resolution: int, condition_width: int, channels: int, unconditional: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv4(3, channels), nn.LeakyReLU(SLOPE)]
        width, last = channels, JUDGED_WIDTH * channels
        for _ in range(stages(resolution) - 1):
            layers += [conv4(width, 2 * width), BatchNorm(2 * width), nn.LeakyReLU(SLOPE)]
            width *= 2
        while width > last:
            layers += [conv3(width, width // 2), BatchNorm(width // 2), nn.LeakyReLU(SLOPE)]
            width //= 2
        self.trunk = nn.Sequential(*layers)
        self.join = nn.Sequential(
            conv3(width + condition_width, width), BatchNorm(width), nn.LeakyReLU(SLOPE)
        )
        self.logit = nn.Conv2d(width, 1, 4)
        self.unconditional_logit = nn.Conv2d(width, 1, 4) if unconditional else None

    def features(self, images: Images) -> Float[Tensor, "B C2 4 4"]:
        """Feature map of images, which both heads read."""
        return self.trunk(images)

    def judge(
        self, features: Float[Tensor, "B C2 4 4"], condition: Float[Tensor, "B C"]
    ) -> Float[Tensor, " B"]:
        """Logits that image i is real and shows what condition i says."""
        everywhere = condition[:, :, None, None].expand(-1, -1, *features.shape[-2:])
        return self.logit(self.join(torch.cat([features, everywhere], 1))).float().flatten()

    def realism(self, features: Float[Tensor, "B C2 4 4"]) -> Float[Tensor, " B"]:
        """Logits that images are real, whatever they show."""
        assert self.unconditional_logit is not None
        return self.unconditional_logit(features).float().flatten()


def initialise(network: nn.Module) -> None:
    """Draws convolutions and linear layers from N(0, 0.02^2), gains from N(1, 0.02^2).

    Biases of linear layers are 0; those of convolutions keep PyTorch's draw. Blocks that the paper
    does not have keep their own.

    Source: Zhang et al. 2017 (StackGAN), the authors' PyTorch code.
    Differs: none.
    """
    for module in network.children():
        if isinstance(module, TextOnMap):
            continue
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=STD)
        elif isinstance(module, BatchNorm):
            nn.init.normal_(module.weight, 1.0, STD)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        initialise(module)
