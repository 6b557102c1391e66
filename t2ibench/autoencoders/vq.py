"""The vector-quantised autoencoder: a discrete first stage, the autoregressive family's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, one_hot

from t2ibench.autoencoders.contract import Autoencoder, Codes, Latents, Reconstruction
from t2ibench.autoencoders.networks import ConvDecoder, ConvEncoder
from t2ibench.core.ranks import gathered, summed
from t2ibench.core.types import Images

LAPLACE_EPSILON = 1e-5
"""Smoothing of the cluster sizes (van den Oord et al. 2017, appendix A.1)."""


class VectorQuantizer(nn.Module):
    """Quantiser to the nearest code; each code is a moving average of the vectors nearest to it.

    k(z) = argmin_j ||z - e_j||^2. A training step moves N_j <- g N_j + (1 - g) n_j and
    m_j <- g m_j + (1 - g) sum(z: k(z) = j), and e_j = m_j / N_j. A code whose N_j is below
    ``revive_below`` of an equal share is put on a vector of the batch, drawn in proportion to its
    squared distance to its code; at the start all are, so the first batch initialises the
    codebook.

    Args:
        codebook_size: V.
        width: C, length of a code.
        decay: g.
        revive_below: least use, as a share of the use of a code were all used alike; keep it
            small, for a code revived too early never settles.

    Source: van den Oord et al. 2017 (VQ-VAE), section 3.1 and appendix A.1; revival after
        Dhariwal et al. 2020 (Jukebox), section 3.1, draws as in Arthur and Vassilvitskii 2007
        (k-means++), section 2.2.
    Differs: revived codes go where the error is, not anywhere: most patches are background.
    """

    codebook: Float[Tensor, "V C"]
    sizes: Float[Tensor, " V"]
    sums: Float[Tensor, "V C"]

    def __init__(
        self, *, codebook_size: int, width: int, decay: float, revive_below: float
    ) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.decay = decay
        self.revive_below = revive_below
        start = torch.randn(codebook_size, width)
        self.register_buffer("codebook", start)
        self.register_buffer("sizes", torch.zeros(codebook_size))
        self.register_buffer("sums", torch.zeros(codebook_size, width))

    def nearest(self, vectors: Float[Tensor, "M C"]) -> Int[Tensor, " M"]:
        """Index of the nearest code of each vector."""
        return nearest_code(vectors, self.codebook)

    def lookup(self, codes: Int[Tensor, "*M"]) -> Float[Tensor, "*M C"]:
        """The code vectors."""
        return embedding(codes, self.codebook)

    @torch.no_grad()
    def update(self, vectors: Float[Tensor, "M C"], codes: Int[Tensor, " M"]) -> None:
        """One moving-average step from a batch's vectors and their codes (over all ranks)."""
        vectors = vectors.float()
        chosen = one_hot(codes, self.codebook_size).to(vectors.dtype)
        counts, totals = summed(chosen.sum(0)), summed(chosen.T @ vectors)
        error = gathered((vectors - self.lookup(codes)).square().sum(1))
        vectors = gathered(vectors)
        self.sizes.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(totals, 1 - self.decay)
        # One host-free rule for all codes: the dead ones take a random vector as if its use
        # were just enough.
        least = self.revive_below * len(vectors) / self.codebook_size
        dead = (self.sizes < least).unsqueeze(1)
        likely = error + torch.finfo(error.dtype).eps * (1 + error.max())
        drawn = vectors[torch.multinomial(likely, self.codebook_size, replacement=True)]
        self.sizes.copy_(torch.where(dead[:, 0], least, self.sizes))
        self.sums.copy_(torch.where(dead, least * drawn, self.sums))
        total = self.sizes.sum()
        smooth = (self.sizes + LAPLACE_EPSILON) / (total + self.codebook_size * LAPLACE_EPSILON)
        self.codebook.copy_(self.sums / (smooth * total).unsqueeze(1))


def nearest_code(
    vectors: Float[Tensor, "M C"], codebook: Float[Tensor, "V C"]
) -> Int[Tensor, " M"]:
    """Index of the nearest code of each vector: argmin_j |e_j|^2 - 2 z . e_j.

    |z|^2 is the same for every code and is left out. In float32 under autocast too: bfloat16
    gives neighbouring codes the same distance.

    Source: van den Oord et al. 2017 (VQ-VAE), eq. 1.
    Differs: none.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        codes = codebook.float()
        distance = torch.addmm(codes.square().sum(1), vectors.float(), codes.T, alpha=-2)
        return distance.argmin(1)


def commitment_loss(latents: Tensor, quantised: Tensor) -> Float[Tensor, ""]:
    """Commitment loss, mean ||z - sg[e]||^2: pulls the encoder to its codes.

    Args:
        latents: z, any shape.
        quantised: e, the same shape; takes no gradient.

    Source: van den Oord et al. 2017 (VQ-VAE), eq. 3, third term.
    Differs: a mean over elements, as published code has it.
    """
    return (latents - quantised.detach()).square().mean()


class CodebookAutoencoder(Autoencoder):
    """Autoencoder whose latents are decoded after each is moved to its nearest code.

    Attributes:
        codebook_size: V.
    """

    kind = "vq"
    codebook_size: int

    @abstractmethod
    def nearest(self, vectors: Float[Tensor, "M C"]) -> Int[Tensor, " M"]:
        """Index of the nearest code of each vector."""

    @abstractmethod
    def lookup(self, codes: Int[Tensor, "*M"]) -> Float[Tensor, "*M C"]:
        """The code vectors."""

    @abstractmethod
    def decode_vectors(self, vectors: Latents) -> Images:
        """Images of a grid of code vectors, which are taken as they are."""

    def decode(self, latents: Latents) -> Images:
        """Images of the latents' nearest codes."""
        return self.decode_vectors(self.quantise(latents)[0])

    def quantise(self, latents: Latents) -> tuple[Latents, Codes]:
        """The nearest codes' vectors (B, C, h, w) and indices (B, h w) in raster order."""
        b, c, h, w = latents.shape
        codes = self.nearest(latents.permute(0, 2, 3, 1).reshape(-1, c))
        vectors = self.lookup(codes).reshape(b, h, w, c).permute(0, 3, 1, 2)
        return vectors, codes.reshape(b, h * w)

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


class VQAutoencoder(CodebookAutoencoder):
    """Autoencoder over a grid of codes, with straight-through gradients.

    Args:
        latent_channels: C, length of a code vector.
        channels: width of each level, from the largest map to the smallest.
        blocks: residual blocks a level.
        stem_factor: side of the pixel blocks folded into channels at the image.
        encoder_kernel_size: 3, or 1: a code describes its own patch alone; then the flat parts
            of an image share few codes and the second stage has little to guess.
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
        super().__init__()
        self.latent_channels = latent_channels
        self.codebook_size = codebook_size
        shape: dict[str, Any] = {
            "channels": list(channels),
            "blocks": blocks,
            "stem_factor": stem_factor,
        }
        self.encoder = ConvEncoder(
            out_channels=latent_channels, kernel_size=encoder_kernel_size, **shape
        )
        self.quantizer = VectorQuantizer(
            codebook_size=codebook_size,
            width=latent_channels,
            decay=codebook_decay,
            revive_below=revive_below,
        )
        self.decoder = ConvDecoder(in_channels=latent_channels, **shape)
        self.spatial_factor = self.encoder.spatial_factor

    def encode(self, images: Images) -> Latents:
        """The encoder's output before quantising."""
        return self.encoder(images)

    def nearest(self, vectors: Float[Tensor, "M C"]) -> Int[Tensor, " M"]:
        """Index of the nearest code of each vector."""
        return self.quantizer.nearest(vectors)

    def lookup(self, codes: Int[Tensor, "*M"]) -> Float[Tensor, "*M C"]:
        """The code vectors."""
        return self.quantizer.lookup(codes)

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images of a grid of code vectors, which are taken as they are."""
        return self.decoder(vectors)

    def reconstruct(self, images: Images) -> Reconstruction:
        """Straight-through pass; in training mode the codebook takes one step first."""
        latents = self.encode(images)
        vectors = latents.detach().permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        if self.training:
            self.quantizer.update(vectors, self.quantizer.nearest(vectors))
        nearest, codes = self.quantise(latents)
        through = latents + (nearest - latents).detach()
        penalty = commitment_loss(latents, nearest)
        chosen = gathered(codes)
        logs = {
            "codebook_perplexity": perplexity(chosen, self.codebook_size),
            "codebook_usage": usage(chosen, self.codebook_size),
            "latent_std": gathered(latents.detach()).std(),
        }
        return Reconstruction(self.decoder(through), penalty, logs)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weights of the convolution to pixels."""
        weight = self.decoder.to_image.weight
        assert isinstance(weight, nn.Parameter)
        return weight


def code_counts(codes: Int[Tensor, "*M"], codebook_size: int) -> Float[Tensor, " V"]:
    """Number of times that each code occurs."""
    # index_add_ rather than bincount, which waits for the GPU.
    counts = torch.zeros(codebook_size, device=codes.device)
    return counts.index_add_(
        0, codes.flatten(), torch.ones_like(codes.flatten(), dtype=torch.float)
    )


def perplexity(codes: Int[Tensor, "*M"], codebook_size: int) -> Float[Tensor, ""]:
    """Number of codes in effective use, 1 to V: exp(entropy) of the codes' frequencies.

    Source: van den Oord et al. 2017 (VQ-VAE), as its authors' code logs it.
    Differs: none.

    Example:
        >>> codes = torch.tensor([0, 0, 3, 3])
        >>> round(perplexity(codes, 8).item(), 6)
        2.0
    """
    share = code_counts(codes, codebook_size) / max(codes.numel(), 1)
    return torch.special.entr(share).sum().exp()


def usage(codes: Int[Tensor, "*M"], codebook_size: int) -> Float[Tensor, ""]:
    """Share of the codebook that occurs at all in these codes, 0 to 1.

    Example:
        >>> usage(torch.tensor([0, 0, 3, 3]), 8).item()
        0.25
    """
    return (code_counts(codes, codebook_size) > 0).float().mean()
