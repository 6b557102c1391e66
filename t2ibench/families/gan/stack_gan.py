"""StackGAN: a sketch of 64 px from text and noise, then its redrawing at 256 px.

Zhang et al. 2017, "StackGAN: Text to Photo-realistic Image Synthesis with Stacked Generative
Adversarial Networks", in the layout of its authors' PyTorch code. Both stages have conditioning
augmentation: the sentence becomes a normal distribution, from which the generator's condition is
drawn. The stages are two runs: stage II learns to redraw what a trained, frozen stage I draws.

Layout at resolution R: feature maps double from 4 x 4 to R in log2(R / 4) stages (the paper has
64 px: four); the discriminator halves them back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from t2ibench.core.edits import Edit, Upscaling
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import Knob
from t2ibench.core.noise import Noise, TrainingNoise
from t2ibench.core.ranks import gathered, own, rank, world_size
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.contract import OptimizerFactory, TextToImageModule
from t2ibench.families.frozen_base import FrozenBase
from t2ibench.families.gan.augment import Augmentation, DiffAugment
from t2ibench.families.gan.balance import BALANCE, balance, balance_alarms
from t2ibench.families.gan.losses import AdversarialLoss, Adversary
from t2ibench.families.gan.steps import Step, named, parts_of
from t2ibench.nn.batch_norm import BatchNorm
from t2ibench.nn.conditioning import ConditioningKind, SpatialConditioning
from t2ibench.text.contract import TextEncoder

SLOPE = 0.2
"""Negative slope of every leaky ReLU."""

STD = 0.02
"""Standard deviation of initial weights around 0, and of initial gains around 1."""

JUDGED_WIDTH = 8
"""Greatest width of the map that the discriminator's heads read, in multiples of its first."""

SWEEP = (0.25, 0.5, 0.75, 1.0)
"""Truncations at which the front is drawn."""


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
        ConfigError: see ``doublings``.

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
        count = doublings(resolution)
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
        ConfigError: see ``doublings``.

    Source: Zhang et al. 2017 (StackGAN), sections 3.3-3.4; layers of the authors' PyTorch code.
    Differs: resolutions besides 64 and 256 px; the sigmoid is in the loss.
    """

    def __init__(
        self, *, resolution: int, condition_width: int, channels: int, unconditional: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv4(3, channels), nn.LeakyReLU(SLOPE)]
        width, last = channels, JUDGED_WIDTH * channels
        for _ in range(doublings(resolution) - 1):
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


def doublings(resolution: int) -> int:
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


class Made(NamedTuple):
    """What a generator made of a part of the batch.

    Attributes:
        images: (B, 3, H, W) in (-1, 1).
        condition: the sentences' distributions.
    """

    images: Images
    condition: Condition


class Losses:
    r"""Losses of both players of a stage.

    With logits of real images with their conditions :math:`r`, of image i with condition i + 1
    :math:`w` (B - 1 pairs) and of generated images :math:`f`; hats are of the unconditional head:

        D, stage I   E[softplus(-r)] + (E[softplus(w)] + E[softplus(f)]) / 2
        D, stage II  (E[softplus(-r)] + E[softplus(-r^)]) / 2
                     + (E[softplus(w)] + E[softplus(f)] + E[softplus(f^)]) / 3
        G            E[softplus(-f)] [+ E[softplus(-f^)]] + kl_weight * KL

    The discriminator reads the mean of a condition, through which no gradient flows.

    Args:
        discriminator: the stage's.
        adversary: the loss of a logit.
        augment: changes of what the discriminator sees.
        kl_weight: weight of the condition's divergence.

    Source: Zhang et al. 2017 (StackGAN), eq. 3-6; weights and pairs of the authors' PyTorch code.
    Differs: relativistic penalties, which the paper does not have, see running statistics.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        adversary: Adversary,
        augment: DiffAugment,
        kl_weight: float,
    ) -> None:
        self.discriminator = discriminator
        self.adversary = adversary
        self.augment = augment
        self.kl_weight = kl_weight

    def of_discriminator(self, real_images: Images, made: Made) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the discriminator and what is logged of it."""
        judge, mean = self.discriminator, made.condition.mean.detach()
        fake_images = made.images.detach()
        real = judge.features(self.augment(real_images))
        fake = judge.features(self.augment(fake_images))
        right = judge.judge(real, mean)
        following, pairs, share = next_rows(mean)
        wrong = judge.judge(real[:pairs], following)
        generated = judge.judge(fake, mean)
        both = judge.unconditional_logit is not None
        weight = 1 / 3 if both else 0.5
        loss = self.adversary.discriminator_loss(
            right, [(share * weight, wrong), (weight, generated)], 0.5 if both else 1.0
        )
        if both:
            kinds = [(weight, judge.realism(fake))]
            loss = loss + self.adversary.discriminator_loss(judge.realism(real), kinds, 0.5)
        logs = balance(right, generated, real_images, fake_images)
        logs |= {"loss": loss, "wrong": wrong.mean()}
        if self.adversary.penalised:
            logs["penalty"] = self._penalty(real_images, fake_images, mean)
            loss = loss + logs["penalty"]
        return loss, logs

    def of_generator(self, real_images: Images, made: Made) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the generator and what is logged of it."""
        judge, mean = self.discriminator, made.condition.mean.detach()
        features = judge.features(self.augment(made.images))
        real = None
        if self.adversary.relativistic:
            with torch.no_grad():
                real = judge.features(self.augment(real_images))
        right = None if real is None else judge.judge(real, mean).detach()
        adversarial = self.adversary.generator_loss(judge.judge(features, mean), right)
        if judge.unconditional_logit is not None:
            against = None if real is None else judge.realism(real).detach()
            realism = judge.realism(features)
            adversarial = adversarial + self.adversary.generator_loss(realism, against)
        kl = divergence(made.condition)
        loss = adversarial + self.kl_weight * kl
        return loss, {"loss": loss, "adversarial": adversarial, "kl": kl}

    def _penalty(self, real: Images, fake: Images, mean: Tensor) -> Tensor:
        """Penalties of the relativistic loss, by running statistics: each image's own gradient."""
        judge = self.discriminator
        judge.eval()
        try:
            return self.adversary.penalty(
                lambda images: judge.judge(judge.features(images), mean), real, fake
            )
        finally:
            judge.train()


def next_rows(mine: Float[Tensor, "B C"]) -> tuple[Float[Tensor, "B2 C"], int, float]:
    """Rows i + 1 of the batch of all ranks, for this rank's rows i; the last has none.

    Returns:
        The following rows, their number, and by what this rank's mean over them is multiplied so
        that the mean over the ranks is that over all pairs.
    """
    rows = gathered(mine)
    following = own(rows.roll(-1, 0), len(mine))
    pairs = len(mine) - (rank() == world_size() - 1)
    return following[:pairs], pairs, pairs * world_size() / (len(rows) - 1)


def play(module: Any, batch: Batch) -> dict[str, Tensor]:
    """One step of the discriminator, then one of the generator, on the same generated images.

    Where gradients are accumulated, the images are made a second time from the same noise, so that
    memory holds one part.

    Args:
        module: a stage, with ``inputs`` and ``make``.
        batch: the batch.

    Returns:
        Scalars to be logged.
    """
    of_generator, of_discriminator = cast(list[Any], module.optimizers())
    parts, losses = parts_of(batch, module.accumulation), module.losses
    inputs = [module.inputs(part) for part in parts]
    once = len(parts) == 1
    kept: list[Made] = []

    def judged() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for part, given in zip(parts, inputs, strict=True):
            with torch.set_grad_enabled(once):
                made = module.make(part, given)
            if once:
                kept.append(made)
            yield losses.of_discriminator(part.image, made)

    def drawn() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for part, given in zip(parts, inputs, strict=True):
            yield losses.of_generator(part.image, kept[0] if once else module.make(part, given))

    judge = module.discriminator
    step = Step(module, of_discriminator, list(judge.parameters()))
    logs = named("discriminator", step.take(judged(), len(parts)), BALANCE)
    judge.requires_grad_(False)
    try:
        step = Step(module, of_generator, module.drawing_parameters())
        logs |= named("generator", step.take(drawn(), len(parts)))
    finally:
        judge.requires_grad_(True)
    return {"loss": logs["generator_loss"]} | logs


def alarms_of(logged: Mapping[str, float]) -> dict[str, str]:
    """Warnings of players out of balance."""
    rate, penalty = "model.module.discriminator_optimizer.lr", "model.module.relativistic_gamma"
    return balance_alarms(logged, rate, f"{penalty} (of adversarial_loss=relativistic)")


class StackGANStageOne(TextToImageModule):
    """Stage I: a small image from noise and a sentence.

    A frozen text encoder is the paper's (char-CNN-RNN); one that is trained learns with the
    generator.

    Args:
        text_encoder: see ``TextToImageModule``.
        noise_width: Z.
        condition_width: C, of conditions.
        generator_channels: GF, see ``StageOneGenerator``.
        discriminator_channels: DF, see ``Discriminator``.
        conditioning: see ``StageOneGenerator``.
        heads: number of heads in cross-attention.
        generator_optimizer: factory of the generator's and a trained text encoder's optimiser.
        discriminator_optimizer: factory of the discriminator's.
        resolution: H = W of the images, a power of two.
        null_text_probability: 0 for a GAN: it is not guided.
        gradient_clip_norm: see ``TextToImageModule``.
        adversarial_loss: loss of both players; the paper's is non-saturating.
        relativistic_gamma: weight of R1 and R2; of ``adversarial_loss=relativistic`` alone.
        kl_weight: weight of the conditions' divergence.
        augment: changes of what the discriminator sees (``DiffAugment``); the paper has none.
        accumulation: parts of a batch whose gradients are summed.
        truncation_psi: default truncation.

    Raises:
        ConfigError: an impossible choice, see ``doublings``, ``Adversary`` and ``DiffAugment``.

    Source: Zhang et al. 2017 (StackGAN), section 3.3; the authors' PyTorch code.
    Differs: the learning rate does not fall by steps.
    """

    family: ClassVar[str] = "gan"
    sampling_arguments: ClassVar[frozenset[str]] = frozenset({"truncation_psi"})

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        noise_width: int,
        condition_width: int,
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
        kl_weight: float,
        augment: Sequence[Augmentation],
        accumulation: int,
        truncation_psi: float,
    ) -> None:
        super().__init__(
            text_encoder=text_encoder,
            resolution=resolution,
            null_text_probability=null_text_probability,
            gradient_clip_norm=gradient_clip_norm,
        )
        self.noise_width = noise_width
        self.condition_width = condition_width
        self.generator = StageOneGenerator(
            resolution=resolution,
            text_width=text_encoder.width,
            noise_width=noise_width,
            condition_width=condition_width,
            channels=generator_channels,
            conditioning=conditioning,
            heads=heads,
        )
        self.discriminator = Discriminator(
            resolution=resolution,
            condition_width=condition_width,
            channels=discriminator_channels,
            unconditional=False,
        )
        initialise(self.generator)
        initialise(self.discriminator)
        adversary = Adversary(adversarial_loss, relativistic_gamma)
        self.losses = Losses(self.discriminator, adversary, DiffAugment(augment), kl_weight)
        self.make_generator_optimizer = generator_optimizer
        self.make_discriminator_optimizer = discriminator_optimizer
        self.accumulation = accumulation
        self.default_psi = truncation_psi

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Sampling knob: truncation, which multiplies z and the condition's noise by psi."""
        return (Knob("truncation_psi", self.default_psi, 0.0, 1.5, True, SWEEP),)

    @property
    def trains_in_turns(self) -> bool:
        """True: generator and discriminator train in turns."""
        return True

    def sampling_parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters of sampling: all but the discriminator's."""
        found = super().sampling_parameters()
        return {n: p for n, p in found.items() if not n.startswith("discriminator.")}

    def configure_optimizers(self) -> Any:
        """Makes the optimiser of generator and text encoder, then the discriminator's."""
        return [
            self.make_generator_optimizer(self.drawing_parameters()),
            self.make_discriminator_optimizer(self.discriminator.parameters()),
        ]

    def drawing_parameters(self) -> list[nn.Parameter]:
        """Parameters that the generator's step changes."""
        return list(self.sampling_parameters().values())

    def alarms(self, logged: Mapping[str, float]) -> dict[str, str]:
        """Warnings of players out of balance."""
        return alarms_of(logged)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs the discriminator's step, then the generator's; see ``play``."""
        return play(self, batch)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Noise of a part of the batch: z, and the conditions'."""
        noise = TrainingNoise(len(batch), batch.image.device)
        return noise.normal(self.noise_width), noise.normal(self.condition_width)

    def make(self, batch: Batch, inputs: tuple[Tensor, Tensor]) -> Made:
        """Images for a part of the batch."""
        return Made(*self.generator(self.encode_text(batch), *inputs))

    def sample(self, text: TextFeatures, noise: Noise, knobs: Mapping[str, float]) -> Images:
        """Generates images in one forward pass.

        Source: Brock et al. 2019 (BigGAN), section 3.1 (truncation).
        Differs: noise is scaled by psi, not resampled, so that its direction is kept.
        """
        psi = knobs["truncation_psi"]
        z, eps = noise.normal(self.noise_width), noise.normal(self.condition_width)
        return self.generator(text, psi * z, psi * eps)[0]


class StackGANStageTwo(TextToImageModule):
    """Stage II: redraws the small images of a trained run at a higher resolution.

    Both players learn from images that the frozen run draws at each step; the text encoder is that
    run's.

    Args:
        text_encoder: the base's, frozen (``frozen_base.BaseText``).
        base: the trained module whose images are redrawn; frozen here, its weights are not in this
            module's state dict.
        upscale: factor by which each side grows, a power of two; the paper's is 4.
        condition_width: C, of conditions.
        generator_channels: GF, see ``StageTwoGenerator``.
        residual_blocks: number of residual blocks.
        discriminator_channels: DF, see ``Discriminator``.
        conditioning: see ``StageTwoGenerator``.
        heads: number of heads in cross-attention.
        generator_optimizer: factory of the generator's optimiser.
        discriminator_optimizer: factory of the discriminator's.
        resolution: H = W of the images, a power of two.
        null_text_probability: 0 for a GAN: it is not guided.
        gradient_clip_norm: see ``TextToImageModule``.
        adversarial_loss: loss of both players; the paper's is non-saturating.
        relativistic_gamma: weight of R1 and R2; of ``adversarial_loss=relativistic`` alone.
        kl_weight: weight of the conditions' divergence.
        augment: changes of what the discriminator sees (``DiffAugment``); the paper has none.
        accumulation: parts of a batch whose gradients are summed.
        truncation_psi: default truncation of this stage's conditions.

    Raises:
        ConfigError: an impossible choice, or a base of another resolution.

    Source: Zhang et al. 2017 (StackGAN), section 3.4; the authors' PyTorch code.
    Differs: any family may stand below; stage I draws with running statistics, as it is sampled;
        the learning rate does not fall by steps.
    """

    family: ClassVar[str] = "gan"
    edits: ClassVar[frozenset[str]] = frozenset({"upscaling"})
    sampling_arguments: ClassVar[frozenset[str]] = frozenset({"truncation_psi"})

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        base: TextToImageModule,
        upscale: int,
        condition_width: int,
        generator_channels: int,
        residual_blocks: int,
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
        kl_weight: float,
        augment: Sequence[Augmentation],
        accumulation: int,
        truncation_psi: float,
    ) -> None:
        super().__init__(
            text_encoder=text_encoder,
            resolution=resolution,
            null_text_probability=null_text_probability,
            gradient_clip_norm=gradient_clip_norm,
        )
        if upscale < 2 or upscale & (upscale - 1) or base.resolution * upscale != resolution:
            raise ConfigError(
                f"model.module.upscale={upscale} must be 2, 4 or another power of two, and times "
                f"the base's {base.resolution} px be data.resolution={resolution}; set one of them."
            )
        self.base = FrozenBase(base)
        self.condition_width = condition_width
        self.generator = StageTwoGenerator(
            upscale=upscale,
            text_width=text_encoder.width,
            condition_width=condition_width,
            channels=generator_channels,
            residual_blocks=residual_blocks,
            conditioning=conditioning,
            heads=heads,
        )
        self.discriminator = Discriminator(
            resolution=resolution,
            condition_width=condition_width,
            channels=discriminator_channels,
            unconditional=True,
        )
        initialise(self.generator)
        initialise(self.discriminator)
        adversary = Adversary(adversarial_loss, relativistic_gamma)
        self.losses = Losses(self.discriminator, adversary, DiffAugment(augment), kl_weight)
        self.make_generator_optimizer = generator_optimizer
        self.make_discriminator_optimizer = discriminator_optimizer
        self.accumulation = accumulation
        self.default_psi = truncation_psi

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Sampling knobs: truncation of the condition, then the base's with the prefix ``base_``.

        The base determines the image's content, so its fidelity-alignment knob is the cascade's.
        """
        return (Knob("truncation_psi", self.default_psi, 0.0, 1.5), *self.base.knobs)

    @property
    def trains_in_turns(self) -> bool:
        """True: generator and discriminator train in turns."""
        return True

    def parts(self) -> dict[str, nn.Module]:
        """Networks by name, including the base, whose weights are not in the state dict."""
        return super().parts() | {"base": self.base.module}

    def sampling_parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters of sampling: the generator's."""
        found = super().sampling_parameters()
        return {n: p for n, p in found.items() if not n.startswith("discriminator.")}

    def configure_optimizers(self) -> Any:
        """Makes the generator's optimiser, then the discriminator's."""
        return [
            self.make_generator_optimizer(self.drawing_parameters()),
            self.make_discriminator_optimizer(self.discriminator.parameters()),
        ]

    def drawing_parameters(self) -> list[nn.Parameter]:
        """Parameters that the generator's step changes."""
        return list(self.sampling_parameters().values())

    def alarms(self, logged: Mapping[str, float]) -> dict[str, str]:
        """Warnings of players out of balance."""
        return alarms_of(logged)

    def encode_captions(self, captions: Sequence[str]) -> TextFeatures:
        """Text features of the base, which serve every stage."""
        return self.text_encoder.encode(list(captions))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs the discriminator's step, then the generator's; see ``play``."""
        return play(self, batch)

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What a part of the batch is drawn from: small images, and the conditions' noise."""
        noise = TrainingNoise(len(batch), batch.image.device)
        small = self.base.draw(self.encode_text(batch), noise)
        return small, noise.normal(self.condition_width)

    def make(self, batch: Batch, inputs: tuple[Tensor, Tensor]) -> Made:
        """Images for a part of the batch."""
        small, eps = inputs
        return Made(*self.generator(small, self.encode_text(batch), eps))

    def sample(
        self,
        text: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
        *,
        edit: Edit | None = None,
    ) -> Images:
        """Samples the base, or takes a given image, and redraws it."""
        if isinstance(edit, Upscaling):
            small = edit.image.to(self.device)
        else:
            small = self.base.generate(text, noise, knobs)
        eps = noise.normal(self.condition_width)
        return self.generator(small, text, knobs["truncation_psi"] * eps)[0]
