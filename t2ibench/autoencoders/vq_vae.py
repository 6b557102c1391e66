"""VQ-VAE: the first autoencoder over learned codes."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.autoencoders.codebooks import LearnedCodebook
from t2ibench.autoencoders.contract import Latents
from t2ibench.autoencoders.quantizer import GradientEstimator, Quantizer
from t2ibench.autoencoders.vq import CodebookAutoencoder
from t2ibench.core.types import Images

STRIDED = 2
"""Layers of stride 2 in the encoder, and in the decoder."""


class ResidualBlock(nn.Module):
    """Residual block x + Conv1x1(relu(Conv3x3(relu(x)))).

    Source: van den Oord et al. 2017 (VQ-VAE), section 4.1.
    Differs: none.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1)
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Computes the layer, see the class."""
        return x + self.layers(x)


class VQVAE(CodebookAutoencoder):
    """VQ-VAE of factor 4: two strided convolutions and two residual blocks, mirrored.

    With squared error for a Gaussian likelihood and weight 1 of the penalty it is trained by eq. 3
    of the paper.

    Args:
        width: channels of every hidden map and length C of a code; the paper's is 256.
        blocks: residual blocks of the encoder, and of the decoder; the paper's are 2.
        codebook_size: V; the paper's is 512.
        beta: weight of the commitment; the paper's is 0.25.
        gradient: see ``passed``; the paper's is ``straight_through``.

    Source: van den Oord et al. 2017 (VQ-VAE), section 4.1.
    Differs: codes have the hidden width, which the paper leaves open; a ReLU follows every strided
        layer but the last, and the encoder's residual blocks end without one.
    """

    def __init__(
        self,
        *,
        width: int,
        blocks: int,
        codebook_size: int,
        beta: float,
        gradient: GradientEstimator,
    ) -> None:
        super().__init__()
        self.latent_channels = width
        self.codebook_size = codebook_size
        self.spatial_factor = 2**STRIDED
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 4, stride=2, padding=1),
            *(ResidualBlock(width) for _ in range(blocks)),
        )
        self.quantizer = LearnedCodebook(
            codebook_size=codebook_size,
            width=width,
            beta=beta,
            legacy_beta=False,
            gradient=gradient,
        )
        self.decoder = nn.Sequential(
            *(ResidualBlock(width) for _ in range(blocks)),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
            nn.ReLU(),
        )
        self.to_image = nn.ConvTranspose2d(width, 3, 4, stride=2, padding=1)

    @property
    def codebook(self) -> Quantizer:
        """The quantiser."""
        return self.quantizer

    def encode(self, images: Images) -> Latents:
        """The encoder's output before quantising."""
        return self.encoder(images)

    def decode_vectors(self, vectors: Latents) -> Images:
        """Images of a grid of code vectors, which are taken as they are."""
        return self.to_image(self.decoder(vectors))

    @property
    def last_layer(self) -> nn.Parameter:
        """The weights of the transposed convolution to pixels."""
        weight = self.to_image.weight
        assert isinstance(weight, nn.Parameter)
        return weight
