"""The published first stages: VQGAN's and LDM's, KL and VQ, f4 to f32, layer by layer.

A state dict has the names of the files that diffusers writes for ``AutoencoderKL`` and
``VQModel``, so that such a file loads strictly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from t2ibench.autoencoders.codebooks import LearnedCodebook
from t2ibench.autoencoders.contract import Latents
from t2ibench.autoencoders.kl import GaussianAutoencoder
from t2ibench.autoencoders.published_blocks import Decoder, Encoder
from t2ibench.autoencoders.quantizer import Quantizer
from t2ibench.autoencoders.vq import CodebookAutoencoder
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


class PublishedQuantized(CodebookAutoencoder):
    """VQGAN's networks over any quantiser; with codes of 8 numbers on the sphere LlamaGen's.

    Args:
        quantizer: what makes codes of latents.
        z_channels: channels between the networks and the 1x1 convolutions to and from the codes.
        channels: width of each level, from the largest map to the smallest; f is
            2^(levels - 1).
        blocks: residual blocks a level of the encoder; the decoder has one more.
        attention_levels: levels whose blocks are followed by attention, 0 the largest map.
        middle_attention: whether the middle of encoder and decoder has attention.
        groups: of every GroupNorm; must divide every width.

    Source: Esser et al. 2021 (VQGAN), section 3.1 and appendix table 8; Sun et al. 2024
        (LlamaGen), section 3.1.
    Differs: none in the network.
    """

    def __init__(
        self,
        *,
        quantizer: Quantizer,
        z_channels: int,
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
        self.latent_channels = quantizer.width
        self.codebook_size = quantizer.codebook_size
        self.encoder = Encoder(out_channels=z_channels, **layout)
        self.decoder = Decoder(in_channels=z_channels, **layout)
        self.quant_conv = nn.Conv2d(z_channels, quantizer.width, 1)
        self.post_quant_conv = nn.Conv2d(quantizer.width, z_channels, 1)
        self.quantize = quantizer
        self.spatial_factor = 2 ** (len(channels) - 1)

    @property
    def codebook(self) -> Quantizer:
        """The quantiser."""
        return self.quantize

    def encode(self, images: Images) -> Latents:
        """The encoder's output before quantising."""
        return self.quant_conv(self.encoder(images))

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images of a grid of code vectors, which are taken as they are."""
        return self.decoder(self.post_quant_conv(vectors))

    @property
    def last_layer(self) -> nn.Parameter:
        """The weights of the convolution to pixels."""
        return _last_layer(self.decoder)


class PublishedVQ(PublishedQuantized):
    """VQGAN, and LDM's VQ-regularised first stage; straight-through gradients.

    Args:
        latent_channels: C, length of a code vector.
        channels: see ``PublishedQuantized``.
        blocks: see ``PublishedQuantized``.
        attention_levels: see ``PublishedQuantized``.
        middle_attention: see ``PublishedQuantized``.
        groups: see ``PublishedQuantized``.
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
        super().__init__(
            quantizer=LearnedCodebook(
                codebook_size=codebook_size,
                width=latent_channels,
                beta=beta,
                legacy_beta=legacy_beta,
                gradient="straight_through",
            ),
            z_channels=latent_channels,
            channels=channels,
            blocks=blocks,
            attention_levels=attention_levels,
            middle_attention=middle_attention,
            groups=groups,
        )


def _last_layer(decoder: nn.Module) -> nn.Parameter:
    weight = decoder.conv_out.weight
    assert isinstance(weight, nn.Parameter)
    return weight
