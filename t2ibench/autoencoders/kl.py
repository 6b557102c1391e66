"""The KL autoencoder: a continuous first stage, the diffusion family's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.autoencoders.contract import Autoencoder, Latents, Reconstruction
from t2ibench.autoencoders.networks import ConvDecoder, ConvEncoder
from t2ibench.core.ranks import gathered, noise_like
from t2ibench.core.types import Images


def gaussian_kl(mean: Latents, log_variance: Latents) -> Float[Tensor, " B"]:
    """Divergence KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, summed over an image's latents.

    0.5 sum(mean^2 + exp(log_variance) - 1 - log_variance).

    Args:
        mean: (B, C, h, w).
        log_variance: (B, C, h, w).

    Returns:
        (B,), never negative.

    Source: Kingma and Welling 2014 (VAE), appendix B.
    Differs: none.
    """
    terms = mean.square() + log_variance.exp() - 1 - log_variance
    return 0.5 * terms.flatten(1).sum(1)


class GaussianAutoencoder(Autoencoder):
    """Encoder to a diagonal Gaussian a latent, decoder from its sample.

    Source: Rombach et al. 2022 (LDM), section 3.1 and appendix G ("KL-reg").
    Differs: the penalty is nats divided by the image's pixel values (3 H W), the same ratio to
        the mean reconstruction loss as the published sums have, at every resolution.
    """

    kind = "kl"

    @abstractmethod
    def posterior(self, images: Images) -> tuple[Latents, Latents]:
        """Mean and log variance, each (B, C, h, w)."""

    def encode(self, images: Images) -> Latents:
        """The posterior mean."""
        return self.posterior(images)[0]

    def moments(self, images: Images) -> tuple[Latents, Latents]:
        """The posterior's mean and variance."""
        mean, log_variance = self.posterior(images)
        return mean, log_variance.exp()

    def reconstruct(self, images: Images) -> Reconstruction:
        """Decodes one posterior sample; the penalty is KL nats a pixel value."""
        mean, log_variance = self.posterior(images)
        std = (0.5 * log_variance).exp()
        nats = gaussian_kl(mean, log_variance).mean() / images[0].numel()
        logs = {"posterior_std": std.detach().mean(), "latent_std": gathered(mean.detach()).std()}
        return Reconstruction(self.decode(mean + std * noise_like(std)), nats, logs)


class KLAutoencoder(GaussianAutoencoder):
    """Encoder to a diagonal Gaussian a latent, decoder from its sample.

    Args:
        latent_channels: C.
        channels: width of each level, from the largest map to the smallest.
        blocks: residual blocks a level.
        stem_factor: side of the pixel blocks folded into channels at the image.

    Source: Rombach et al. 2022 (LDM), section 3.1 and appendix G ("KL-reg").
    Differs: networks of ``networks.py``.
    """

    def __init__(
        self, *, latent_channels: int, channels: Sequence[int], blocks: int, stem_factor: int
    ) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        shape: dict[str, Any] = {
            "channels": list(channels),
            "blocks": blocks,
            "stem_factor": stem_factor,
        }
        self.encoder = ConvEncoder(out_channels=2 * latent_channels, **shape)
        self.decoder = ConvDecoder(in_channels=latent_channels, **shape)
        self.spatial_factor = self.encoder.spatial_factor

    def posterior(self, images: Images) -> tuple[Latents, Latents]:
        """Mean and log variance, each (B, C, h, w); the log variance is kept in [-20, 10]."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 10.0)

    def decode(self, latents: Latents) -> Images:
        """Images of latents."""
        return self.decoder(latents)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weights of the convolution to pixels."""
        weight = self.decoder.to_image.weight
        assert isinstance(weight, nn.Parameter)
        return weight
