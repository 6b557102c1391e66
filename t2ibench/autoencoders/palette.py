"""A palette: the first stage that is measured and not trained, one code a pixel.

k-means over the colours of the training images gives V of them; a pixel's code is its nearest
colour. Nothing is learned by gradient, no position is lost, and what is lost of a colour is the
distance to the palette.

U is the number of distinct colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding

from t2ibench.autoencoders.codebooks import nearest_code
from t2ibench.autoencoders.contract import Latents
from t2ibench.autoencoders.quantizer import Quantised, Quantizer, passed
from t2ibench.autoencoders.vq import CodebookAutoencoder
from t2ibench.core.errors import ConfigError
from t2ibench.core.types import Images, PixelImages

AT_ONCE = 1 << 15
"""Pixels whose distances to all colours are held in memory."""

LEVELS = 256
"""Values of one channel of a stored pixel."""


class Palette(Quantizer):
    """Quantiser of pixels to the nearest of V colours.

    Args:
        colours: V. They begin evenly spread over the cube.

    Source: Chen et al. 2020 (Image-GPT), section 3.2 (context reduction).
    Differs: none.
    """

    colours: Float[Tensor, "V 3"]
    width = 3

    def __init__(self, *, colours: int) -> None:
        super().__init__()
        self.codebook_size = colours
        self.register_buffer("colours", even_colours(colours))

    def nearest(self, vectors: Float[Tensor, "M 3"]) -> Int[Tensor, " M"]:
        """Index of the nearest colour of each pixel."""
        return torch.cat([nearest_code(part, self.colours) for part in vectors.split(AT_ONCE)])

    def lookup(self, codes: Int[Tensor, "*M"]) -> Float[Tensor, "*M 3"]:
        """The colours."""
        return embedding(codes, self.colours)

    def forward(self, latents: Latents) -> Quantised:
        """The pixels in colours of the palette; there is nothing to train."""
        vectors, codes = self.quantise(latents)
        return Quantised(passed(latents, vectors), codes, latents.new_zeros(()))

    @property
    def remedy(self) -> str:
        """The number of colours."""
        return f"lower parts.first_stage.colours={self.codebook_size}"


class PaletteAutoencoder(CodebookAutoencoder):
    """Images as indices of their pixels' nearest colours; its latents are the pixels themselves.

    Args:
        colours: V, see ``Palette``; ``fill`` puts measured ones in place.

    Source: Chen et al. 2020 (Image-GPT), section 3.2 (context reduction).
    Differs: none.
    """

    spatial_factor = 1
    latent_channels = 3

    def __init__(self, *, colours: int) -> None:
        super().__init__()
        self.codebook_size = colours
        self.quantizer = Palette(colours=colours)

    @property
    def codebook(self) -> Palette:
        """The palette as a quantiser."""
        return self.quantizer

    @property
    def palette(self) -> Float[Tensor, "V 3"]:
        """The colours."""
        return self.quantizer.colours

    def fill(self, palette: Float[Tensor, "V 3"]) -> None:
        """Takes measured colours in [-1, 1]."""
        self.palette.copy_(palette)

    def encode(self, images: Images) -> Latents:
        """The images."""
        return images

    def decode_vectors(self, vectors: Latents) -> Images:
        """The colours as an image."""
        return vectors

    @property
    def last_layer(self) -> nn.Parameter:
        """None: a palette has no weights.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "a palette is measured and has no layer to balance an adversarial loss at; choose "
            "another first stage, for example autoencoder=vq_f4."
        )


def even_colours(count: int) -> Float[Tensor, "V 3"]:
    """Colours of a regular grid over [-1, 1]^3: all of its smallest grid, or V evenly of them."""
    side = math.ceil(round(count ** (1 / 3), 6))
    places = torch.arange(count) * side**3 // count
    digits = torch.stack([places // side**2, places // side % side, places % side], 1)
    return digits.float() * (2 / max(side - 1, 1)) - 1


def distinct_colours(
    batches: Iterable[PixelImages],
) -> tuple[Float[Tensor, "U 3"], Float[Tensor, " U"]]:
    """Distinct colours of images in [-1, 1], and how many pixels have each.

    Args:
        batches: (B, 3, H, W) uint8 each.

    Returns:
        Both float64, in the order of red, green, blue.
    """
    counts = np.zeros(LEVELS**3, dtype=np.int64)
    for pixels in batches:
        red, green, blue = pixels.numpy().astype(np.int64).transpose(1, 0, 2, 3)
        places = (red * LEVELS + green) * LEVELS + blue
        found, times = np.unique(places, return_counts=True)
        counts[found] += times
    places = np.flatnonzero(counts)
    channels = [places // LEVELS**2, places // LEVELS % LEVELS, places % LEVELS]
    colours = torch.from_numpy(np.stack(channels, 1)).double() / 127.5 - 1
    return colours, torch.from_numpy(counts[places]).double()


def k_means(
    points: Float[Tensor, "U C"],
    weights: Float[Tensor, " U"],
    count: int,
    *,
    iterations: int,
    seed: int,
) -> Float[Tensor, "V C"]:
    """Centres that least sum w_u min_v ||x_u - m_v||^2 as Lloyd's iterations find them.

    Fewer points than centres are all of them centres, the last one several times.

    Args:
        points: distinct, float64.
        weights: w, positive.
        count: V.
        iterations: at most; fewer where nothing moves any more.
        seed: of the first centres, each a point drawn by w times its squared distance to those
            before it.

    Source: Lloyd 1982, section III; Arthur and Vassilvitskii 2007 (k-means++), section 2.2.
    Differs: a centre without points stays where it is.
    """
    if len(points) <= count:
        return torch.cat([points, points[-1:].expand(count - len(points), -1)])
    centres = spread_centres(points, weights, count, seed)
    former = None
    for _ in range(iterations):
        nearest = nearest_centre(points, centres)
        if former is not None and torch.equal(nearest, former):
            break
        mass = weights.new_zeros(count).index_add_(0, nearest, weights)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points * weights[:, None])
        means = sums / mass[:, None].clamp(min=1e-12)
        centres, former = torch.where(mass[:, None] > 0, means, centres), nearest
    return centres


def spread_centres(
    points: Float[Tensor, "U C"], weights: Float[Tensor, " U"], count: int, seed: int
) -> Float[Tensor, "V C"]:
    """First centres of k-means: points drawn one by one, far from those before.

    Source: Arthur and Vassilvitskii 2007 (k-means++), section 2.2.
    Differs: none.
    """
    draws = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    far = torch.ones_like(weights)
    chosen: list[Tensor] = []
    for draw in draws:
        mass = (weights * far).cumsum(0)
        place = torch.searchsorted(mass, draw * mass[-1], right=True).clamp(max=len(points) - 1)
        distance = (points - points[place]).square().sum(1)
        far = distance if not chosen else torch.minimum(far, distance)
        chosen.append(points[place])
    return torch.stack(chosen)


def nearest_centre(
    points: Float[Tensor, "U C"], centres: Float[Tensor, "V C"]
) -> Int[Tensor, " U"]:
    """Index of the nearest centre of each point, in float64."""
    square = centres.square().sum(1)
    parts = points.split(AT_ONCE)
    return torch.cat([torch.addmm(square, p, centres.T, alpha=-2).argmin(1) for p in parts])
