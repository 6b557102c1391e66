"""Training of a first stage as VQGAN and LDM were trained: perceptual loss and late adversary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from t2ibench.autoencoders.adversarial import (
    AdversarialLoss,
    hinge_discriminator_loss,
    non_saturating_discriminator_loss,
)
from t2ibench.autoencoders.contract import Autoencoder
from t2ibench.autoencoders.module import AutoencoderModule, OptimizerFactory
from t2ibench.autoencoders.perceptual import LPIPS, PerceptualLoss, RandomFeatures, located
from t2ibench.core.errors import ConfigError
from t2ibench.core.types import Images

Perceptual = Literal["none", "features", "lpips"]


class VQGANTraining(AutoencoderModule):
    """Trains L = R + penalty_weight * penalty + w(t) * adversarial, R the reconstruction.

    R = l1 |x - x_hat| + l2 (x - x_hat)^2 + perceptual_weight * P(x, x_hat), means over pixels. w is
    adversarial_weight times || grad_L R || / || grad_L adversarial || at the decoder's last
    weights L, in [0, 1e4]; it is 0 until ``discriminator_start_images`` and grows linearly over
    ``discriminator_ramp_images``. The discriminator learns from its start on at once.

        hinge           autoencoder: -mean D(x_hat)              discriminator: hinge, halved
        non_saturating  autoencoder: mean softplus(-D(x_hat))    discriminator: softplus, halved

    Args:
        autoencoder: see ``AutoencoderModule``.
        resolution: see ``AutoencoderModule``.
        l1_weight: see ``AutoencoderModule``.
        l2_weight: see ``AutoencoderModule``.
        perceptual: P: ``lpips`` (needs VGG16's weights), ``features`` (a random network,
            ``RandomFeatures``), or ``none``.
        perceptual_weight: of P.
        lpips_weights: file of VGG16's weights, see ``LPIPS``.
        lpips_sha256: how its SHA-256 begins; the file is known by it.
        penalty_weight: see ``AutoencoderModule``.
        optimizer: see ``AutoencoderModule``.
        gradient_clip_norm: see ``AutoencoderModule``.
        discriminator: see ``AutoencoderModule``.
        discriminator_optimizer: see ``AutoencoderModule``.
        adversarial_loss: see above.
        adversarial_weight: see above.
        discriminator_start_images: images seen before the adversary enters.
        discriminator_ramp_images: images over which its weight grows; 0: it enters at once.

    Raises:
        ConfigError: perceptual_weight or discriminator_ramp_images is negative.

    Source: Esser et al. 2021 (VQGAN), section 3.1, eq. 6-7 and released loss; Rombach et al. 2022
        (LDM), appendix G.
    Differs: with ``features`` or ``none`` for LPIPS where chosen; the start is counted in images.
    """

    neutral_arguments: ClassVar[frozenset[str]] = frozenset({"lpips_weights"})

    def __init__(
        self,
        *,
        autoencoder: Autoencoder,
        resolution: int,
        l1_weight: float,
        l2_weight: float,
        perceptual: Perceptual,
        perceptual_weight: float,
        lpips_weights: str | None,
        lpips_sha256: str,
        penalty_weight: float,
        optimizer: OptimizerFactory,
        gradient_clip_norm: float,
        discriminator: nn.Module | None,
        discriminator_optimizer: OptimizerFactory | None,
        adversarial_loss: AdversarialLoss,
        adversarial_weight: float,
        discriminator_start_images: int,
        discriminator_ramp_images: int,
    ) -> None:
        super().__init__(
            autoencoder=autoencoder,
            resolution=resolution,
            l1_weight=l1_weight,
            l2_weight=l2_weight,
            penalty_weight=penalty_weight,
            optimizer=optimizer,
            gradient_clip_norm=gradient_clip_norm,
            discriminator=discriminator,
            discriminator_optimizer=discriminator_optimizer,
            adversarial_weight=adversarial_weight,
            discriminator_start_images=discriminator_start_images,
        )
        for name, value in {
            "perceptual_weight": perceptual_weight,
            "discriminator_ramp_images": discriminator_ramp_images,
        }.items():
            if value < 0:
                raise ConfigError(
                    f"parts.first_stage.module.{name}={value:g} must not be negative; 0 is off."
                )
        self.perceptual_kind = perceptual
        self.perceptual_weight = perceptual_weight
        self.lpips_weights = lpips_weights
        self.lpips_sha256 = lpips_sha256
        self.adversarial_loss = adversarial_loss
        self.discriminator_ramp_images = discriminator_ramp_images
        # Made when training begins: who only decodes needs no network of the loss.
        self.perceptual: PerceptualLoss | None = None

    @classmethod
    def check_files(cls, arguments: Mapping[str, Any]) -> None:
        """Refuses LPIPS without VGG16's weights, before any work."""
        if arguments.get("perceptual") == "lpips":
            located(arguments["lpips_weights"], arguments["lpips_sha256"])

    def configure_optimizers(self) -> Any:
        """The optimisers; makes the network of the perceptual loss."""
        if self.perceptual_kind == "lpips":
            self.perceptual = LPIPS(self.lpips_weights, self.lpips_sha256).to(self.device)
        elif self.perceptual_kind == "features":
            self.perceptual = RandomFeatures().to(self.device)
        return super().configure_optimizers()

    def reconstruction_loss(
        self, made: Images, images: Images
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """R of the class, and its terms for the log."""
        loss, logs = super().reconstruction_loss(made, images)
        if self.perceptual is None:
            return loss, logs
        distance = self.perceptual(images, made)
        return loss + self.perceptual_weight * distance, logs | {"perceptual": distance}

    def fooling_loss(self, fake: Tensor) -> Float[Tensor, ""]:
        """The autoencoder's adversarial loss, of the logits of reconstructions."""
        if self.adversarial_loss == "non_saturating":
            return softplus(-fake).mean()
        return -fake.mean()

    def judging_loss(self, real: Tensor, fake: Tensor) -> Float[Tensor, ""]:
        """The discriminator's loss, of the logits of images and of reconstructions."""
        if self.adversarial_loss == "non_saturating":
            return non_saturating_discriminator_loss(real, fake)
        return hinge_discriminator_loss(real, fake)

    @property
    def adversarial_share(self) -> float:
        """Share of the adversarial weight that is used by now, 0 to 1."""
        since = self.images_seen - self.discriminator_start_images
        if self.discriminator_ramp_images == 0:
            return self.started
        return min(max(since / self.discriminator_ramp_images, 0.0), 1.0)
