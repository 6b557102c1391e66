"""A trained first stage as a family sees it: frozen, with latents of measured scale."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.autoencoders.contract import Autoencoder, Codes, Latents
from t2ibench.autoencoders.vq import CodebookAutoencoder
from t2ibench.core.errors import CheckpointError, ConfigError
from t2ibench.core.files import atomic_path
from t2ibench.core.hashing import hash_tensors
from t2ibench.core.tensors import read_safetensors, write_safetensors
from t2ibench.core.types import Images


class FrozenFirstStage(nn.Module):
    """An autoencoder that no longer learns, its latents normalised channel by channel.

    encode(x) = (E(x) - mean) / std with mean and std (C,) of the latents that the decoder was
    trained on, measured on training images: those have zero mean and unit variance whatever the
    autoencoder's own scale is. Of a KL autoencoder they are posterior samples. A channel that it
    does not use has means near 0 and variance near 1, and stays near 0; scaled by its means alone,
    its faint noise would be blown up to the size of the picture.

    Args:
        autoencoder: frozen and put in eval mode; the caller's object, not a copy.
    """

    latent_mean: Float[Tensor, " C"]
    latent_std: Float[Tensor, " C"]

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False)
        channels = autoencoder.latent_channels
        self.register_buffer("latent_mean", torch.zeros(channels))
        self.register_buffer("latent_std", torch.ones(channels))
        self.eval()

    @classmethod
    def scaled(cls, autoencoder: Autoencoder, latent_scale: float) -> FrozenFirstStage:
        """Wraps ``autoencoder`` so that encode(x) = latent_scale E(x), as published models do.

        Args:
            autoencoder: see the class.
            latent_scale: for example Stable Diffusion's 0.18215.

        Raises:
            ConfigError: the scale is not positive.
        """
        if not latent_scale > 0:
            raise ConfigError(
                f"latent_scale={latent_scale} must be greater than 0: latents are multiplied by "
                "it before diffusion and divided after."
            )
        stage = cls(autoencoder)
        stage.latent_std.fill_(1 / latent_scale)
        return stage

    @classmethod
    def measure(cls, autoencoder: Autoencoder, images: Iterable[Tensor]) -> FrozenFirstStage:
        """Wraps ``autoencoder`` with the latent statistics of ``images``, batches (B, 3, H, W).

        The variance of samples is the variance of their means plus the mean of their variances,
        so nothing is drawn.

        Raises:
            ConfigError: there are no images.

        Source: Rombach et al. 2022 (LDM), appendix G (the standard deviation of latents of the
            first batch, drawn from the posterior).
        Differs: a mean and a deviation a channel, over many images.
        """
        stage = cls(autoencoder)
        count = 0
        total = torch.zeros_like(stage.latent_mean, dtype=torch.float64)
        squares = torch.zeros_like(total)
        with torch.no_grad():
            for batch in images:
                mean, variance = autoencoder.moments(batch.to(stage.latent_mean.device))
                mean, variance = mean.double(), variance.double()
                total += mean.sum((0, 2, 3))
                squares += (mean.square() + variance).sum((0, 2, 3))
                count += mean[:, 0].numel()
        if count == 0:
            raise ConfigError("a first stage is measured on at least one batch of images.")
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=1e-12)
        stage.latent_mean.copy_(mean)
        stage.latent_std.copy_(variance.sqrt())
        return stage

    def train(self, mode: bool = True) -> FrozenFirstStage:
        """Stays in eval mode whatever the family around it does."""
        return super().train(False)

    @property
    def kind(self) -> str:
        """Kind of the latents, ``kl`` or ``vq``."""
        return self.autoencoder.kind

    @property
    def spatial_factor(self) -> int:
        """Pixels a latent position spans along each side."""
        return self.autoencoder.spatial_factor

    @property
    def latent_channels(self) -> int:
        """Channels C of the latents."""
        return self.autoencoder.latent_channels

    @property
    def latent_scale(self) -> Float[Tensor, " C"]:
        """Factor 1 / std of each channel by which latents, less their mean, are multiplied."""
        return 1 / self.latent_std

    @property
    def codebook_size(self) -> int:
        """Number of codes V.

        Raises:
            ConfigError: the first stage has no codes.
        """
        return self._vq.codebook_size

    @property
    def fingerprint(self) -> str:
        """Content hash of weights and statistics."""
        return hash_tensors(self.state_dict().items())

    @torch.no_grad()
    def encode(self, images: Images) -> Latents:
        """Normalised latents."""
        latents = self.autoencoder.encode(images)
        return (latents - self._column(self.latent_mean)) / self._column(self.latent_std)

    def decode(self, latents: Latents) -> Images:
        """Images of normalised latents; gradients flow to the latents."""
        scaled = latents * self._column(self.latent_std) + self._column(self.latent_mean)
        return self.autoencoder.decode(scaled)

    @torch.no_grad()
    def codes(self, images: Images) -> Codes:
        """Code indices (B, N) in raster order.

        Raises:
            ConfigError: the first stage has no codes.
        """
        return self._vq.codes(images)

    @torch.no_grad()
    def decode_codes(self, codes: Codes) -> Images:
        """Images of code indices in raster order.

        Raises:
            ConfigError: the first stage has no codes.
        """
        return self._vq.decode_codes(codes)

    def save(self, path: str | Path) -> None:
        """Writes weights and statistics as safetensors, atomically."""
        tensors = {n: t.detach().cpu().clone() for n, t in self.state_dict().items()}
        with atomic_path(path) as aside:
            write_safetensors(tensors, aside)

    @classmethod
    def load(cls, path: str | Path, autoencoder: Autoencoder) -> FrozenFirstStage:
        """Fills ``autoencoder`` and its statistics from ``save``'s file, strictly.

        Raises:
            CheckpointError: the file is absent, unreadable, or of another architecture.
        """
        stage = cls(autoencoder)
        tensors = read_safetensors(path)
        own = {name: tensor.shape for name, tensor in stage.state_dict().items()}
        wrong = sorted(set(own) ^ set(tensors)) or [
            name for name, tensor in tensors.items() if tensor.shape != own[name]
        ]
        if wrong:
            raise CheckpointError(
                f"{path} does not fit {type(autoencoder).__name__}: {len(wrong)} tensors differ, "
                f"the first is {wrong[0]}; use the configuration that it was trained with."
            )
        stage.load_state_dict(tensors, strict=True)
        return stage

    @property
    def _vq(self) -> CodebookAutoencoder:
        if not isinstance(self.autoencoder, CodebookAutoencoder):
            raise ConfigError(
                f"a first stage of kind {self.kind!r} has no codes; choose one of kind vq, "
                "for example autoencoder=vq_f4."
            )
        return self.autoencoder

    def _column(self, statistic: Float[Tensor, " C"]) -> Float[Tensor, "1 C 1 1"]:
        return statistic[None, :, None, None]
