"""GAN-INT-CLS: the DCGAN that reads a sentence.

Reed et al. 2016, "Generative Adversarial Text to Image Synthesis", and its released code. A
sentence vector joins the noise of a DCGAN generator and the last feature map of its
discriminator, which also sees real images with wrong captions (CLS); the generator learns from
captions halfway between two as well (INT).

Layout at resolution R, with n = log2(R / 4) stages (the paper has R = 64, n = 4): feature maps
double from 4 x 4 to R, channels halve to the width of the last hidden map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import Noise
from t2ibench.core.ranks import own, world_size
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.contract import OptimizerFactory
from t2ibench.families.gan.augment import Augmentation, DiffAugment
from t2ibench.families.gan.balance import BALANCE, balance
from t2ibench.families.gan.inversion import Paint
from t2ibench.families.gan.losses import AdversarialLoss, Adversary
from t2ibench.families.gan.pairs import first_with_second_half, next_caption
from t2ibench.families.gan.players import TwoPlayers
from t2ibench.families.gan.steps import Step, named, parts_of
from t2ibench.nn.batch_norm import BatchNorm
from t2ibench.nn.conditioning import ConditioningKind, SpatialConditioning
from t2ibench.text.contract import TextEncoder

SLOPE = 0.2
"""Negative slope of every leaky ReLU."""

STD = 0.02
"""Standard deviation of initial convolutions around 0, and of initial gains around 1."""


def stages(resolution: int) -> int:
    """Number of doublings from 4 x 4 to the resolution.

    Raises:
        ConfigError: the resolution is no power of two, or less than 8.
    """
    if resolution < 8 or resolution & (resolution - 1):
        raise ConfigError(
            f"data.resolution={resolution} cannot be reached from 4 px by doubling; choose 8, 16, "
            "32, 64, 128 or another power of two."
        )
    return resolution.bit_length() - 3


class Bottleneck(nn.Module):
    """Residual bottleneck a(x + BN(conv3(a(BN(conv3(a(BN(conv1(x)))))))), a quarter as wide inside.

    Args:
        channels: C, in and out.
        inner: channels inside.
        slope: negative slope of the activation a; 0 is ReLU.

    Source: Reed et al. 2016 (GAN-INT-CLS), released code.
    Differs: none.
    """

    def __init__(self, channels: int, inner: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.reduce, self.reduce_norm = nn.Conv2d(channels, inner, 1), BatchNorm(inner)
        self.keep, self.keep_norm = nn.Conv2d(inner, inner, 3, padding=1), BatchNorm(inner)
        self.widen, self.widen_norm = nn.Conv2d(inner, channels, 3, padding=1), BatchNorm(channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Computes the layer, see the class."""
        h = leaky_relu(self.reduce_norm(self.reduce(x)), self.slope)
        h = leaky_relu(self.keep_norm(self.keep(h)), self.slope)
        return leaky_relu(x + self.widen_norm(self.widen(h)), self.slope)


class Generator(nn.Module):
    """Generator: noise and a sentence to an image, by transposed convolutions.

    Each of the first two stages ends in a bottleneck, with no activation before it.

    Args:
        resolution: H = W, a power of two.
        text_width: D of the text features.
        noise_width: Z.
        projected_width: width of the projected sentence, of ``conditioning=concat`` alone.
        channels: channels of the last hidden map, at half the resolution.
        conditioning: ``concat`` joins the sentence with the noise, as in the paper; the other two
            bring text to the maps of the first two stages.
        heads: number of heads in cross-attention.

    Raises:
        ConfigError: see ``stages``.

    Source: Reed et al. 2016 (GAN-INT-CLS), section 4.1 and figure 2; layers of the released code.
    Differs: resolutions besides 64 px; modulation and cross-attention by choice.
    """

    def __init__(
        self,
        *,
        resolution: int,
        text_width: int,
        noise_width: int,
        projected_width: int,
        channels: int,
        conditioning: ConditioningKind,
        heads: int,
    ) -> None:
        super().__init__()
        self.noise_width = noise_width
        widths = [channels << i for i in reversed(range(stages(resolution)))]
        joined = conditioning == "concat"
        self.text = nn.Linear(text_width, projected_width) if joined else None
        width = noise_width + (projected_width if joined else 0)
        self.ups, self.norms = nn.ModuleList(), nn.ModuleList()
        self.bottlenecks, self.conditionings = nn.ModuleList(), nn.ModuleList()
        for i, out in enumerate(widths):
            shape = {"kernel_size": 4, "stride": 2, "padding": 1} if i else {"kernel_size": 4}
            self.ups.append(nn.ConvTranspose2d(width, out, **shape))  # type: ignore[arg-type]
            self.norms.append(BatchNorm(out))
            if i < 2:
                self.bottlenecks.append(Bottleneck(out, out // 4, 0.0))
                if not joined:
                    self.conditionings.append(
                        SpatialConditioning(conditioning, out, text_width, heads)
                    )
            width = out
        self.colours = nn.ConvTranspose2d(width, 3, 4, 2, 1)
        initialise(self)

    def forward(self, text: TextFeatures, noise: Float[Tensor, "B Z"]) -> Images:
        """Images in (-1, 1).

        Args:
            text: features of B captions.
            noise: (B, Z) standard normal, truncated by the caller.
        """
        x = noise
        if self.text is not None:
            x = torch.cat([noise, leaky_relu(self.text(text.pooled), SLOPE)], dim=1)
        x = x[:, :, None, None]
        for i, (up, norm) in enumerate(zip(self.ups, self.norms, strict=True)):
            x = norm(up(x))
            x = self.bottlenecks[i](x) if i < len(self.bottlenecks) else relu(x)
            if i < len(self.conditionings):
                block = cast(SpatialConditioning, self.conditionings[i])
                x = block(x, block.prepare(text))
        return torch.tanh(self.colours(x))


class Discriminator(nn.Module):
    """Discriminator: an image and a sentence to one logit.

    Args:
        resolution: H = W, a power of two.
        text_width: D of the text features.
        projected_width: width of the projected sentence.
        channels: channels of the first map, at half the resolution.

    Raises:
        ConfigError: see ``stages``.

    Source: Reed et al. 2016 (GAN-INT-CLS), section 4.1 and figure 2; layers of the released code.
    Differs: resolutions besides 64 px; the sigmoid is in the loss.
    """

    def __init__(
        self, *, resolution: int, text_width: int, projected_width: int, channels: int
    ) -> None:
        super().__init__()
        widths = [channels << i for i in range(stages(resolution))]
        self.downs, self.norms = nn.ModuleList(), nn.ModuleList()
        for i, (width, out) in enumerate(zip([3, *widths], widths, strict=False)):
            self.downs.append(nn.Conv2d(width, out, 4, 2, 1))
            self.norms.append(BatchNorm(out) if i else nn.Identity())
        last = widths[-1]
        self.bottleneck = Bottleneck(last, last // 4, SLOPE)
        self.text = nn.Linear(text_width, projected_width)
        self.text_norm = BatchNorm(projected_width)
        self.join, self.join_norm = nn.Conv2d(last + projected_width, last, 1), BatchNorm(last)
        self.logit = nn.Conv2d(last, 1, 4)
        initialise(self)

    def features(self, images: Images) -> Float[Tensor, "B C 4 4"]:
        """Feature map of images, which captions are compared with."""
        x = images
        for i, (down, norm) in enumerate(zip(self.downs, self.norms, strict=True)):
            x = norm(down(x))
            # The two convolutions before the bottleneck have no activation.
            if i == 0 or i < len(self.downs) - 2:
                x = leaky_relu(x, SLOPE)
        return self.bottleneck(x)

    def judge(self, features: Float[Tensor, "B C 4 4"], text: TextFeatures) -> Float[Tensor, " B"]:
        """Logits that image i is real and shows caption i."""
        told = leaky_relu(self.text_norm(self.text(text.pooled)), SLOPE)
        everywhere = told[:, :, None, None].expand(-1, -1, *features.shape[-2:])
        x = leaky_relu(self.join_norm(self.join(torch.cat([features, everywhere], 1))), SLOPE)
        return self.logit(x).float().flatten()


class GANINTCLS(TwoPlayers):
    r"""GAN-INT-CLS: a generator against a matching-aware discriminator.

    With D's logits of real images with their captions :math:`r`, with wrong captions :math:`w`, of
    generated images :math:`f` and of those for captions halfway between two :math:`h`:

        D: E[softplus(-r)] + c E[softplus(w)] + (1 - c) E[softplus(f)]
        G: (sum softplus(-f) + b sum softplus(-h)) / (number of f and h)

    A frozen text encoder is the paper's (char-CNN-RNN); one that is trained learns with the
    discriminator.

    Args:
        text_encoder: see ``TextToImageModule``.
        noise_width: Z.
        projected_width: width of the projected sentence.
        generator_channels: see ``Generator``.
        discriminator_channels: see ``Discriminator``.
        conditioning: see ``Generator``.
        heads: number of heads in cross-attention.
        generator_optimizer: factory of the generator's optimiser.
        discriminator_optimizer: factory of the discriminator's and a trained text encoder's.
        resolution: H = W of the images, a power of two.
        null_text_probability: 0 for a GAN: it is not guided.
        gradient_clip_norm: see ``TextToImageModule``.
        adversarial_loss: loss of both players; the paper's is non-saturating.
        relativistic_gamma: weight of R1 and R2; of ``adversarial_loss=relativistic`` alone.
        wrong_weight: c.
        interpolation_weight: b; 0 is off (the paper's GAN-CLS).
        augment: changes of what the discriminator sees (``DiffAugment``); the paper has none.
        accumulation: parts of a batch whose gradients are summed.
        truncation_psi: default truncation.

    Raises:
        ConfigError: an impossible choice, see ``stages``, ``Adversary`` and ``DiffAugment``.

    Source: Reed et al. 2016 (GAN-INT-CLS), algorithm 1, sections 4.2-4.3; weights, pairs and means
        of the released code, in which the biases of convolutions are zeroed before every step.
    Differs: the wrong image of a caption is the next one of the batch, not one of another class,
        and its features are computed once; one caption an image and not the mean of four;
        relativistic penalties see running statistics.
    """

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        noise_width: int,
        projected_width: int,
        generator_channels: int,
        discriminator_channels: int,
        conditioning: ConditioningKind,
        heads: int,
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        resolution: int,
        null_text_probability: float,
        gradient_clip_norm: float,
        adversarial_loss: AdversarialLoss,
        relativistic_gamma: float,
        wrong_weight: float,
        interpolation_weight: float,
        augment: Sequence[Augmentation],
        accumulation: int,
        truncation_psi: float,
    ) -> None:
        super().__init__(
            text_encoder=text_encoder,
            generator_optimizer=generator_optimizer,
            discriminator_optimizer=discriminator_optimizer,
            resolution=resolution,
            null_text_probability=null_text_probability,
            gradient_clip_norm=gradient_clip_norm,
            accumulation=accumulation,
            truncation_psi=truncation_psi,
        )
        self.generator = Generator(
            resolution=resolution,
            text_width=text_encoder.width,
            noise_width=noise_width,
            projected_width=projected_width,
            channels=generator_channels,
            conditioning=conditioning,
            heads=heads,
        )
        self.discriminator = Discriminator(
            resolution=resolution,
            text_width=text_encoder.width,
            projected_width=projected_width,
            channels=discriminator_channels,
        )
        self.adversary = Adversary(adversarial_loss, relativistic_gamma)
        self.wrong_weight = wrong_weight
        self.interpolation_weight = interpolation_weight
        self.augment = DiffAugment(augment)

    # ---- training ----

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs the discriminator's step, then the generator's.

        Source: Reed et al. 2016 (GAN-INT-CLS), algorithm 1.
        Differs: see the class.
        """
        of_generator, of_discriminator = cast(list[Any], self.optimizers())
        parts = parts_of(batch, self.accumulation)
        self._clear_biases()
        step = Step(self, of_discriminator, self.judging_parameters())
        logs = named("discriminator", step.take(map(self._judged, parts), len(parts)), BALANCE)
        self._clear_biases()
        with self.judges_held():
            step = Step(self, of_generator, self.drawing_parameters())
            made = step.take(map(self._drawn, parts), len(parts))
        return logs | named("generator", made, ("loss",))

    def _judged(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss of the discriminator on a part of the batch, and what is logged of it."""
        text, judge = self.encode_text(batch), self.discriminator
        with torch.no_grad():
            fake_images = self.generator(text, self._noise(len(text)))
        real = judge.features(self.augment(batch.image))
        right, wrong = judge.judge(real, text), judge.judge(real, next_caption(text))
        fake = judge.judge(judge.features(self.augment(fake_images)), text)
        kinds = [(self.wrong_weight, wrong), (1 - self.wrong_weight, fake)]
        loss = self.adversary.discriminator_loss(right, kinds)
        logs = balance(right, fake, batch.image, fake_images) | {
            "loss": loss,
            "wrong": wrong.mean(),
        }
        if self.adversary.penalised:
            penalty = self._penalty(batch.image, fake_images, text)
            loss = loss + penalty
            logs["penalty"] = penalty
        return loss, logs

    def _penalty(self, real: Images, fake: Images, text: TextFeatures) -> Tensor:
        """Penalties of the relativistic loss, by running statistics: each image's own gradient."""
        judge, known = self.discriminator, text.detach()
        judge.eval()
        try:
            return self.adversary.penalty(
                lambda images: judge.judge(judge.features(images), known), real, fake
            )
        finally:
            judge.train()

    def _drawn(self, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss of the generator on a part of the batch, and what is logged of it."""
        with torch.no_grad():
            text = self.encode_text(batch)
        told = text
        if self.interpolation_weight > 0:
            told = TextFeatures.cat([text, first_with_second_half(text)])
        noise = self._noise(len(text), len(told) - len(text))
        fake = self.augment(self.generator(told, noise))
        logits = self.discriminator.judge(self.discriminator.features(fake), told)
        real = self._real_logits(batch, text)
        count, between = len(text), len(told) - len(text)
        adversarial = self.adversary.generator_loss(logits[:count], real)
        logs, loss = {"adversarial": adversarial}, adversarial * (count / len(told))
        if between:
            share = self.interpolation_weight * between / len(told)
            against = None if real is None else real[:between]
            logs["interpolated"] = self.adversary.generator_loss(logits[count:], against)
            loss = loss + share * logs["interpolated"]
        return loss, logs | {"loss": loss}

    def _real_logits(self, batch: Batch, text: TextFeatures) -> Tensor | None:
        """Logits of the real images, where the generator's loss compares with them."""
        if not self.adversary.relativistic:
            return None
        with torch.no_grad():
            return self.discriminator.judge(
                self.discriminator.features(self.augment(batch.image)), text
            )

    def _clear_biases(self) -> None:
        """Zeroes the biases of all convolutions of both players."""
        with torch.no_grad():
            for network in (self.generator, self.discriminator):
                for bias in convolution_biases(network):
                    bias.zero_()

    def _noise(self, *counts: int) -> Tensor:
        """Noise of each number of rows, drawn at once for the batch of all ranks."""
        numbers = [count * world_size() for count in counts]
        draws = torch.randn(sum(numbers), self.generator.noise_width, device=self.device)
        rows = zip(draws.split(numbers), counts, strict=True)
        return torch.cat([own(some, count) for some, count in rows])

    # ---- sampling ----

    def invertible(self, noise: Noise, knobs: Mapping[str, float]) -> tuple[Paint, list[Tensor]]:
        """The generator as a function of text and z.

        Source: Brock et al. 2019 (BigGAN), section 3.1 (truncation).
        Differs: z is scaled by psi, not resampled, so that its direction is kept.
        """

        def paint(text: TextFeatures, latents: Sequence[Tensor]) -> Images:
            return self.generator(text, knobs["truncation_psi"] * latents[0])

        return paint, [noise.normal(self.generator.noise_width)]


def convolution_biases(network: nn.Module) -> Iterator[Tensor]:
    """Biases of the paper's convolutions."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.bias is not None:
            yield module.bias


def initialise(network: nn.Module) -> None:
    """Draws convolutions from N(0, 0.02^2) and gains from N(1, 0.02^2); their biases are 0.

    Linear layers keep PyTorch's uniform draw, which is Torch7's.

    Source: Reed et al. 2016 (GAN-INT-CLS), released code.
    Differs: none.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, std=STD)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
        elif isinstance(module, BatchNorm):
            nn.init.normal_(module.weight, 1.0, STD)
