"""Training of a first stage: reconstruction, latent penalty and, optionally, an adversary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from t2ibench.autoencoders.adversarial import adaptive_weight, hinge_discriminator_loss
from t2ibench.autoencoders.codebook_health import CodebookHealth, codebook_alarms
from t2ibench.autoencoders.contract import Autoencoder
from t2ibench.autoencoders.vq import CodebookAutoencoder
from t2ibench.core.errors import ConfigError
from t2ibench.core.types import Batch, Images

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]

UNSEEN = "codebook_unseen"
"""Name in a checkpoint of ``CodebookHealth``'s counts."""


class AutoencoderModule(pl.LightningModule):
    """Trains L = l1 |x - x_hat| + l2 (x - x_hat)^2 + penalty_weight * penalty [+ w * adversarial].

    Means over pixels. The adversarial term -mean D(x_hat) enters after
    ``discriminator_start_images`` with w = adversarial_weight * ``adaptive_weight``.

    Args:
        autoencoder: what is trained.
        resolution: H = W of the images.
        l1_weight: of the absolute error.
        l2_weight: of the squared error.
        penalty_weight: of KL nats a pixel value, or of the quantiser's penalty.
        optimizer: factory of the autoencoder's optimiser.
        gradient_clip_norm: greatest gradient norm of one step; 0 is off.
        discriminator: judges patches; None trains without an adversary.
        discriminator_optimizer: factory of its optimiser.
        adversarial_weight: see above.
        discriminator_start_images: images seen before the adversary enters.

    Attributes:
        images_seen: the clock, set before every step.

    Source: Esser et al. 2021 (VQGAN), section 3.1; Rombach et al. 2022 (LDM), appendix G.
    Differs: no perceptual term (``VQGANTraining`` has one); squared error beside the absolute one.
    """

    def __init__(
        self,
        *,
        autoencoder: Autoencoder,
        resolution: int,
        l1_weight: float,
        l2_weight: float,
        penalty_weight: float,
        optimizer: OptimizerFactory,
        gradient_clip_norm: float,
        discriminator: nn.Module | None,
        discriminator_optimizer: OptimizerFactory | None,
        adversarial_weight: float,
        discriminator_start_images: int,
    ) -> None:
        super().__init__()
        if resolution % autoencoder.spatial_factor:
            raise ConfigError(
                f"data.resolution={resolution} is not a multiple of the first stage's "
                f"spatial_factor {autoencoder.spatial_factor}; choose such a resolution."
            )
        if (discriminator is None) != (discriminator_optimizer is None):
            raise ConfigError(
                "a first stage has discriminator and discriminator_optimizer, or neither: set "
                "both in its file under conf/autoencoder/."
            )
        least = getattr(discriminator, "least_side", 0)
        if resolution < least:
            raise ConfigError(
                f"data.resolution={resolution} is below the {least} px that the first stage's "
                "discriminator needs; lower parts.first_stage.module.discriminator."
                "layers."
            )
        self.automatic_optimization = False
        self.autoencoder = autoencoder
        self.discriminator = discriminator
        self.health: CodebookHealth | None = None
        if isinstance(autoencoder, CodebookAutoencoder):
            self.health = CodebookHealth(autoencoder.codebook_size)
        self.l1_weight = l1_weight
        self.l2_weight = l2_weight
        self.penalty_weight = penalty_weight
        self.optimizer_factory = optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.gradient_clip_norm = gradient_clip_norm
        self.adversarial_weight = adversarial_weight
        self.discriminator_start_images = discriminator_start_images
        self.images_seen = 0

    @classmethod
    def check_files(cls, arguments: Mapping[str, Any]) -> None:
        """Refuses arguments that name files which are not there, before any work; none here."""

    def configure_optimizers(self) -> Any:
        """The autoencoder's optimiser and, where there is one, the discriminator's."""
        first = self.optimizer_factory(self.autoencoder.parameters())
        if self.discriminator is None or self.discriminator_optimizer is None:
            return first
        return [first, self.discriminator_optimizer(self.discriminator.parameters())]

    def networks(self) -> dict[str, nn.Module]:
        """The networks that are trained."""
        found = {"autoencoder": self.autoencoder, "discriminator": self.discriminator}
        return {name: network for name, network in found.items() if network is not None}

    @property
    def trains_in_turns(self) -> bool:
        """True where a discriminator trains in turns with the autoencoder."""
        return self.discriminator is not None

    def sampling_parameters(self) -> dict[str, nn.Parameter]:
        """The autoencoder's parameters: those that EMA averages."""
        return {n: p for n, p in self.named_parameters() if n.startswith("autoencoder.")}

    def alarms(self, logged: Mapping[str, float]) -> dict[str, str]:
        """Warnings of a codebook that is not used, a sentence by its kind.

        Args:
            logged: means of what ``training_step`` returned, over one logging interval.
        """
        if not isinstance(self.autoencoder, CodebookAutoencoder):
            return {}
        remedy = self.autoencoder.codebook.remedy
        return codebook_alarms(logged, "parts.first_stage.module.autoencoder", remedy)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps for how long each code was not used, so that a resumed curve goes on."""
        if self.health is not None:
            checkpoint[UNSEEN] = self.health.unseen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up where the use of codes was left."""
        if self.health is not None and UNSEEN in checkpoint:
            self.health.unseen.copy_(checkpoint[UNSEEN])

    def reconstruction_loss(
        self, made: Images, images: Images
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Loss of the reconstruction, and its terms for the log.

        Args:
            made: (B, 3, H, W) reconstructions with their graph.
            images: (B, 3, H, W) in [-1, 1].
        """
        error = made - images
        l1, l2 = error.abs().mean(), error.square().mean()
        return self.l1_weight * l1 + self.l2_weight * l2, {"l1": l1, "l2": l2}

    def fooling_loss(self, fake: Tensor) -> Float[Tensor, ""]:
        """The autoencoder's adversarial loss, of the logits of reconstructions."""
        return -fake.mean()

    def judging_loss(self, real: Tensor, fake: Tensor) -> Float[Tensor, ""]:
        """The discriminator's loss, of the logits of images and of reconstructions."""
        return hinge_discriminator_loss(real, fake)

    @property
    def started(self) -> float:
        """1 once the adversary has entered, 0 before."""
        return float(self.images_seen >= self.discriminator_start_images)

    @property
    def adversarial_share(self) -> float:
        """Share of the adversarial weight that is used by now, 0 to 1."""
        return self.started

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step of the autoencoder and, where there is one, one of the discriminator."""
        made = self.autoencoder.reconstruct(batch.image)
        reconstruction, logs = self.reconstruction_loss(made.images, batch.image)
        loss = reconstruction + self.penalty_weight * made.penalty
        logs |= {"penalty": made.penalty, **made.logs}
        if self.health is not None and made.codes is not None:
            logs["codebook_dead"] = self.health(made.codes)
        optimizers: Any = self.optimizers()
        if self.discriminator is None:
            self._optimise(optimizers, loss, self.autoencoder)
        else:
            adversarial = self.fooling_loss(self.discriminator(made.images))
            weight = adaptive_weight(reconstruction, adversarial, self.autoencoder.last_layer)
            weight = self.adversarial_share * self.adversarial_weight * weight
            self._optimise(optimizers[0], loss + weight * adversarial, self.autoencoder)
            judged = self.judging_loss(
                self.discriminator(batch.image), self.discriminator(made.images.detach())
            )
            self._optimise(optimizers[1], self.started * judged, self.discriminator)
            logs |= {"discriminator": judged, "adversarial_weight": weight}
        return {"loss": loss.detach()} | {name: value.detach() for name, value in logs.items()}

    def _optimise(self, optimizer: Any, loss: Tensor, part: nn.Module) -> None:
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        if self.gradient_clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(part.parameters(), self.gradient_clip_norm)
        optimizer.step()
