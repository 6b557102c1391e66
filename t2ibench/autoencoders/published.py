"""The published first stages: VQGAN's and LDM's, KL and VQ, f4 to f32, layer by layer.

A state dict has the names of the files that diffusers writes for ``AutoencoderKL`` and
``VQModel``, so that such a file loads strictly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from t2ibench.autoencoders.contract import Latents, Reconstruction
from t2ibench.autoencoders.kl import GaussianAutoencoder
from t2ibench.autoencoders.published_blocks import Decoder, Encoder
from t2ibench.autoencoders.vq import CodebookAutoencoder, nearest_code, perplexity, usage
from t2ibench.core.ranks import gathered
from t2ibench.core.types import Images

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Range in which the posterior's log variance is kept (released code of LDM)."""


class PublishedKL(GaussianAutoencoder):
    """LDM's KL-regularised first stage; with four levels and C = 4 Stable Diffusion's kl-f8.

    Args:
        latent_channels: C.
        channels: width of each level, from the largest map to the smallest; f is
            2^(levels - 1).
        blocks: residual blocks a level of the encoder; the decoder has one more.
        attention_levels: levels whose blocks are followed by attention, 0 the largest map.
        middle_attention: whether the middle of encoder and decoder has attention.
        groups: of every GroupNorm; must divide every width.

    Source: Rombach et al. 2022 (LDM), section 3.1, appendix E.1 and G; released configurations.
    Differs: none in the network; for the penalty's scale see ``GaussianAutoencoder``.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        channels: Sequence[int],
        blocks: int,
        attention_levels: Sequence[int],
        middle_attention: bool,
        groups: int,
    ) -> None:
        super().__init__()
        layout: dict[str, Any] = {
            "channels": list(channels),
            "blocks": blocks,
            "attention_levels": list(attention_levels),
            "middle_attention": middle_attention,
            "groups": groups,
        }
        self.latent_channels = latent_channels
        self.encoder = Encoder(out_channels=2 * latent_channels, **layout)
        self.decoder = Decoder(in_channels=latent_channels, **layout)
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        self.spatial_factor = 2 ** (len(channels) - 1)

    def posterior(self, images: Images) -> tuple[Latents, Latents]:
        """Mean and log variance, each (B, C, h, w); the log variance is kept in [-30, 20]."""
        mean, log_variance = self.quant_conv(self.encoder(images)).chunk(2, dim=1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)

    def decode(self, latents: Latents) -> Images:
        """Images of latents."""
        return self.decoder(self.post_quant_conv(latents))

    @property
    def last_layer(self) -> nn.Parameter:
        """The weights of the convolution to pixels."""
        return _last_layer(self.decoder)


class LearnedCodebook(nn.Module):
    """Code vectors that gradients move.

    Args:
        codebook_size: V.
        width: C, length of a code.

    Source: released code of Esser et al. 2021 (VQGAN): uniform in [-1 / V, 1 / V] at the start.
    Differs: none.
    """

    def __init__(self, codebook_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, width)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)

    def nearest(self, vectors: Float[Tensor, "M C"]) -> Int[Tensor, " M"]:
        """Index of the nearest code of each vector."""
        return nearest_code(vectors, self.embedding.weight)


def codebook_loss(
    latents: Latents, quantised: Latents, *, beta: float, legacy: bool
) -> Float[Tensor, ""]:
    """Codebook loss L = mean (sg[z] - e)^2 + beta mean (z - sg[e])^2.

    With ``legacy`` beta stands at the other term: beta mean (sg[z] - e)^2 + mean (z - sg[e])^2.

    Args:
        latents: z, (B, C, h, w).
        quantised: e, the codes of z, with their graph.
        beta: weight of the commitment, or with ``legacy`` of the codebook term.
        legacy: how VQGAN and LDM were trained: beta is at the codebook term.

    Source: van den Oord et al. 2017 (VQ-VAE), eq. 3; ``legacy`` is the released code of Esser et
        al. 2021 (VQGAN) and Rombach et al. 2022 (LDM).
    Differs: a mean over elements, as published code has it.
    """
    codebook = (latents.detach() - quantised).square().mean()
    commitment = (latents - quantised.detach()).square().mean()
    return beta * codebook + commitment if legacy else codebook + beta * commitment


class PublishedVQ(CodebookAutoencoder):
    """VQGAN, and LDM's VQ-regularised first stage; straight-through gradients.

    Args:
        latent_channels: C, length of a code vector.
        channels: width of each level, from the largest map to the smallest; f is
            2^(levels - 1).
        blocks: residual blocks a level of the encoder; the decoder has one more.
        attention_levels: levels whose blocks are followed by attention, 0 the largest map.
        middle_attention: whether the middle of encoder and decoder has attention.
        groups: of every GroupNorm; must divide every width.
        codebook_size: V.
        beta: see ``codebook_loss``.
        legacy_beta: see ``codebook_loss``.

    Source: Esser et al. 2021 (VQGAN), section 3.1 and appendix table 8; Rombach et al. 2022
        (LDM), section 3.1 ("VQ-reg"): latents are those before quantising, ``decode`` quantises.
    Differs: none in the network.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        channels: Sequence[int],
        blocks: int,
        attention_levels: Sequence[int],
        middle_attention: bool,
        groups: int,
        codebook_size: int,
        beta: float,
        legacy_beta: bool,
    ) -> None:
        super().__init__()
        layout: dict[str, Any] = {
            "channels": list(channels),
            "blocks": blocks,
            "attention_levels": list(attention_levels),
            "middle_attention": middle_attention,
            "groups": groups,
        }
        self.latent_channels = latent_channels
        self.codebook_size = codebook_size
        self.beta = beta
        self.legacy_beta = legacy_beta
        self.encoder = Encoder(out_channels=latent_channels, **layout)
        self.decoder = Decoder(in_channels=latent_channels, **layout)
        self.quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1)
        self.quantize = LearnedCodebook(codebook_size, latent_channels)
        self.spatial_factor = 2 ** (len(channels) - 1)

    def encode(self, images: Images) -> Latents:
        """The encoder's output before quantising."""
        return self.quant_conv(self.encoder(images))

    def nearest(self, vectors: Float[Tensor, "M C"]) -> Int[Tensor, " M"]:
        """Index of the nearest code of each vector."""
        return self.quantize.nearest(vectors)

    def lookup(self, codes: Int[Tensor, "*M"]) -> Float[Tensor, "*M C"]:
        """The code vectors."""
        return self.quantize.embedding(codes)

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images of a grid of code vectors, which are taken as they are."""
        return self.decoder(self.post_quant_conv(vectors))

    def reconstruct(self, images: Images) -> Reconstruction:
        """Straight-through pass; the penalty moves the codebook and commits the encoder."""
        latents = self.encode(images)
        quantised, codes = self.quantise(latents)
        penalty = codebook_loss(latents, quantised, beta=self.beta, legacy=self.legacy_beta)
        through = latents + (quantised - latents).detach()
        chosen = gathered(codes)
        logs = {
            "codebook_perplexity": perplexity(chosen, self.codebook_size),
            "codebook_usage": usage(chosen, self.codebook_size),
            "latent_std": gathered(latents.detach()).std(),
        }
        return Reconstruction(self.decode_vectors(through), penalty, logs)

    @property
    def last_layer(self) -> nn.Parameter:
        """The weights of the convolution to pixels."""
        return _last_layer(self.decoder)


def _last_layer(decoder: nn.Module) -> nn.Parameter:
    weight = decoder.conv_out.weight
    assert isinstance(weight, nn.Parameter)
    return weight
