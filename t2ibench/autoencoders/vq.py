"""Autoencoders with a quantiser: discrete first stages, of the families that predict codes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from t2ibench.autoencoders.codebook_health import perplexity, usage
from t2ibench.autoencoders.codebooks import VectorQuantizer
from t2ibench.autoencoders.contract import Autoencoder, Codes, Latents, Reconstruction
from t2ibench.autoencoders.networks import ConvDecoder, ConvEncoder
from t2ibench.autoencoders.quantizer import Quantizer
from t2ibench.core.ranks import gathered
from t2ibench.core.types import Images


class CodebookAutoencoder(Autoencoder):
    """Autoencoder whose latents are decoded after each is moved to its nearest code.

    Attributes:
        codebook_size: V.
    """

    kind = "vq"
    codebook_size: int

    @property
    @abstractmethod
    def codebook(self) -> Quantizer:
        """The quantiser."""

    @abstractmethod
    def decode_vectors(self, vectors: Latents) -> Images:
        """Images of a grid of code vectors, which are taken as they are."""

    def nearest(self, vectors: Float[Tensor, "M C"]) -> Int[Tensor, " M"]:
        """Index of the nearest code of each vector."""
        return self.codebook.nearest(vectors)

    def lookup(self, codes: Int[Tensor, "*M"]) -> Float[Tensor, "*M C"]:
        """The code vectors."""
        return self.codebook.lookup(codes)

    def decode(self, latents: Latents) -> Images:
        """Images of the latents' nearest codes."""
        return self.decode_vectors(self.quantise(latents)[0])

    def quantise(self, latents: Latents) -> tuple[Latents, Codes]:
        """The nearest codes' vectors (B, C, h, w) and indices (B, h w) in raster order."""
        return self.codebook.quantise(latents)

    def codes(self, images: Images) -> Codes:
        """Code indices (B, h w) in raster order."""
        return self.quantise(self.encode(images))[1]

    def decode_codes(self, codes: Codes) -> Images:
        """Images of code indices in raster order; the grid must be square."""
        side = round(codes.shape[1] ** 0.5)
        assert side * side == codes.shape[1], f"{codes.shape[1]} codes are not a square grid"
        vectors = self.lookup(codes)
        grid = vectors.reshape(-1, side, side, vectors.shape[-1])
        return self.decode_vectors(grid.permute(0, 3, 1, 2))

    def reconstruct(self, images: Images) -> Reconstruction:
        """Quantises with gradients, see ``Quantizer.forward``, and decodes."""
        latents = self.encode(images)
        quantised = self.codebook(latents)
        chosen = gathered(quantised.codes)
        logs = {
            "codebook_perplexity": perplexity(chosen, self.codebook_size),
            "codebook_usage": usage(chosen, self.codebook_size),
            "latent_std": gathered(latents.detach()).std(),
        }
        made = self.decode_vectors(quantised.latents)
        return Reconstruction(made, quantised.penalty, logs, chosen)


class QuantizedAutoencoder(CodebookAutoencoder):
    """The project's convolutional autoencoder over any quantiser.

    Args:
        channels: width of each level, from the largest map to the smallest.
        blocks: residual blocks a level.
        stem_factor: side of the pixel blocks folded into channels at the image.
        encoder_kernel_size: 3, or 1: a code describes its own patch alone; then the flat parts
            of an image share few codes and the second stage has little to guess.
        quantizer: what makes codes of latents; its width is that of the latents, to which the
            encoder's last layer projects.

    Source: Esser et al. 2021 (VQGAN), section 3.1.
    Differs: networks of ``networks.py``; any quantiser.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        blocks: int,
        stem_factor: int,
        encoder_kernel_size: int,
        quantizer: Quantizer,
    ) -> None:
        super().__init__()
        self._build(
            quantizer.width, channels, blocks, stem_factor, encoder_kernel_size, lambda: quantizer
        )

    def _build(
        self,
        width: int,
        channels: Sequence[int],
        blocks: int,
        stem_factor: int,
        encoder_kernel_size: int,
        make_quantizer: Callable[[], Quantizer],
    ) -> None:
        """Makes encoder, quantiser and decoder in this order, which is that of random weights."""
        shape: dict[str, Any] = {
            "channels": list(channels),
            "blocks": blocks,
            "stem_factor": stem_factor,
        }
        self.encoder = ConvEncoder(out_channels=width, kernel_size=encoder_kernel_size, **shape)
        self.quantizer = make_quantizer()
        self.decoder = ConvDecoder(in_channels=width, **shape)
        self.latent_channels = width
        self.codebook_size = self.quantizer.codebook_size
        self.spatial_factor = self.encoder.spatial_factor

    @property
    def codebook(self) -> Quantizer:
        """The quantiser."""
        return self.quantizer

    def encode(self, images: Images) -> Latents:
        """The encoder's output before quantising."""
        return self.encoder(images)

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images of a grid of code vectors, which are taken as they are."""
        return self.decoder(vectors)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weights of the convolution to pixels."""
        weight = self.decoder.to_image.weight
        assert isinstance(weight, nn.Parameter)
        return weight


class VQAutoencoder(QuantizedAutoencoder):
    """``QuantizedAutoencoder`` over a codebook of moving averages, straight-through.

    Args:
        latent_channels: C, length of a code vector.
        channels: see ``QuantizedAutoencoder``.
        blocks: see ``QuantizedAutoencoder``.
        stem_factor: see ``QuantizedAutoencoder``.
        encoder_kernel_size: see ``QuantizedAutoencoder``.
        codebook_size: V.
        codebook_decay: of the moving average.
        revive_below: see ``VectorQuantizer``.

    Source: Esser et al. 2021 (VQGAN), section 3.1.
    Differs: networks of ``networks.py``; the codebook is a moving average with revival of
        dead codes, where VQGAN trains it by the codebook loss.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        channels: Sequence[int],
        blocks: int,
        stem_factor: int,
        encoder_kernel_size: int,
        codebook_size: int,
        codebook_decay: float,
        revive_below: float,
    ) -> None:
        CodebookAutoencoder.__init__(self)
        self._build(
            latent_channels,
            channels,
            blocks,
            stem_factor,
            encoder_kernel_size,
            lambda: VectorQuantizer(
                codebook_size=codebook_size,
                width=latent_channels,
                decay=codebook_decay,
                revive_below=revive_below,
                gradient="straight_through",
            ),
        )
