"""Training of a first stage: reconstruction, latent penalty and, optionally, an adversary."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from t2ibench.autoencoders.adversarial import adaptive_weight, hinge_discriminator_loss
from t2ibench.autoencoders.contract import Autoencoder
from t2ibench.core.errors import ConfigError
from t2ibench.core.types import Batch

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class AutoencoderModule(pl.LightningModule):
    """Trains L = l1 |x - x_hat| + l2 (x - x_hat)^2 + penalty_weight * penalty [+ w * adversarial].

    Means over pixels. The adversarial term -mean D(x_hat) enters after
    ``discriminator_start_images`` with w = adversarial_weight * ``adaptive_weight``.

    Args:
        autoencoder: what is trained.
        resolution: H = W of the images.
        l1_weight: of the absolute error.
        l2_weight: of the squared error.
        penalty_weight: of KL nats a pixel value, or of the commitment loss.
        optimizer: factory of the autoencoder's optimiser.
        gradient_clip_norm: greatest gradient norm of one step; 0 is off.
        discriminator: judges patches; None trains without an adversary.
        discriminator_optimizer: factory of its optimiser.
        adversarial_weight: see above.
        discriminator_start_images: images seen before the adversary enters.

    Attributes:
        images_seen: the clock, set before every step.

    Source: Esser et al. 2021 (VQGAN), section 3.1; Rombach et al. 2022 (LDM), appendix G.
    Differs: no perceptual term; squared error beside the absolute one.
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
        self.automatic_optimization = False
        self.autoencoder = autoencoder
        self.discriminator = discriminator
        self.l1_weight = l1_weight
        self.l2_weight = l2_weight
        self.penalty_weight = penalty_weight
        self.optimizer_factory = optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.gradient_clip_norm = gradient_clip_norm
        self.adversarial_weight = adversarial_weight
        self.discriminator_start_images = discriminator_start_images
        self.images_seen = 0

    def configure_optimizers(self) -> Any:
        """The autoencoder's optimiser and, where there is one, the discriminator's."""
        first = self.optimizer_factory(self.autoencoder.parameters())
        if self.discriminator is None or self.discriminator_optimizer is None:
            return first
        return [first, self.discriminator_optimizer(self.discriminator.parameters())]

    def networks(self) -> dict[str, nn.Module]:
        """The networks that are trained."""
        return dict(self.named_children())

    @property
    def trains_in_turns(self) -> bool:
        """True where a discriminator trains in turns with the autoencoder."""
        return self.discriminator is not None

    def sampling_parameters(self) -> dict[str, nn.Parameter]:
        """The autoencoder's parameters: those that EMA averages."""
        return {n: p for n, p in self.named_parameters() if n.startswith("autoencoder.")}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step of the autoencoder and, where there is one, one of the discriminator."""
        made = self.autoencoder.reconstruct(batch.image)
        error = made.images - batch.image
        l1, l2 = error.abs().mean(), error.square().mean()
        reconstruction = self.l1_weight * l1 + self.l2_weight * l2
        loss = reconstruction + self.penalty_weight * made.penalty
        logs = {"l1": l1, "l2": l2, "penalty": made.penalty, **made.logs}
        optimizers: Any = self.optimizers()
        if self.discriminator is None:
            self._optimise(optimizers, loss, self.autoencoder)
        else:
            started = float(self.images_seen >= self.discriminator_start_images)
            adversarial = -self.discriminator(made.images).mean()
            weight = adaptive_weight(reconstruction, adversarial, self.autoencoder.last_layer)
            weight = started * self.adversarial_weight * weight
            self._optimise(optimizers[0], loss + weight * adversarial, self.autoencoder)
            judged = hinge_discriminator_loss(
                self.discriminator(batch.image), self.discriminator(made.images.detach())
            )
            self._optimise(optimizers[1], started * judged, self.discriminator)
            logs |= {"discriminator": judged, "adversarial_weight": weight}
        return {"loss": loss.detach()} | {name: value.detach() for name, value in logs.items()}

    def _optimise(self, optimizer: Any, loss: Tensor, part: nn.Module) -> None:
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        if self.gradient_clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(part.parameters(), self.gradient_clip_norm)
        optimizer.step()
