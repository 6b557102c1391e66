"""Image encoders of DAMSM: an image to vectors of its regions, and to one of the whole.

N is the number of regions, D the width that they share with words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, relu

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import Images

PROJECTION_RANGE = 0.1
"""Projections begin uniformly in plus and minus this (authors' code of AttnGAN)."""

BEFORE_REGIONS = (
    "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "pool", "Conv2d_3b_1x1", "Conv2d_4a_3x3",
    "pool", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d",
    "Mixed_6e",
)  # fmt: skip
AFTER_REGIONS = ("Mixed_7a", "Mixed_7b", "Mixed_7c")
"""Inception-v3's layers in order, as torchvision names them."""


class Seen(NamedTuple):
    """An image's vectors.

    Attributes:
        regions: (B, N, D) of its regions.
        whole: (B, D) of the image.
    """

    regions: Float[Tensor, "B N D"]
    whole: Float[Tensor, "B D"]


class InceptionConv(nn.Module):
    """Convolution, batch norm and ReLU, under torchvision's names.

    In evaluation the norm is folded into the kernels: one pass over the map in place of two, and
    two in place of three in the backward pass.

    Args:
        channels: C of the input.
        out: C of the output.
        shape: kernel, stride and padding, as ``nn.Conv2d`` takes them.

    Source: Szegedy et al. 2016 (Inception-v3), section 6; torchvision for epsilon.
    Differs: none.
    """

    def __init__(self, channels: int, out: int, **shape: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, bias=False, **shape)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        """Computes the layer, see the class."""
        conv, norm = self.conv, self.bn
        if self.training:
            return relu(norm(conv(x)), inplace=True)
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        kernels = conv.weight * scale[:, None, None, None]
        shift = norm.bias - norm.running_mean * scale
        # The convolution of the class, so that autocast and padding are its own.
        return relu(conv._conv_forward(x, kernels, shift), inplace=True)


class InceptionRegions(nn.Module):
    """Inception-v3 with two projections: regions from 768 x 17 x 17, the whole from the last pool.

    Its own weights are frozen; the projections are trained.

    Args:
        width: D.

    Source: Xu et al. 2018 (AttnGAN), section 3.2; layout of the authors' code.
    Differs: none.
    """

    side = 299

    def __init__(self, *, width: int) -> None:
        super().__init__()
        from torchvision.models import inception

        kinds = (getattr(inception, f"Inception{letter}") for letter in "ABCDE")
        blocks = [partial(kind, conv_block=InceptionConv) for kind in kinds]
        published = inception.inception_v3(
            weights=None,
            aux_logits=False,
            init_weights=False,
            inception_blocks=[InceptionConv, *blocks, inception.InceptionAux],
        )
        layers = [name for name in (*BEFORE_REGIONS, *AFTER_REGIONS) if name != "pool"]
        self.layers = nn.ModuleDict({name: getattr(published, name) for name in layers})
        self.layers.requires_grad_(False)
        self.region = nn.Conv2d(768, width, 1, bias=False)
        self.image = nn.Linear(2048, width)
        for projection in (self.region, self.image):
            nn.init.uniform_(projection.weight, -PROJECTION_RANGE, PROJECTION_RANGE)

    def forward(self, images: Images) -> Seen:
        """Vectors of images in [-1, 1] of any size."""
        size = (self.side, self.side)
        x = interpolate(images, size=size, mode="bilinear", align_corners=False)
        # These convolutions are faster so, on CPUs as well.
        x = x.contiguous(memory_format=torch.channels_last)
        for name in BEFORE_REGIONS:
            x = max_pool2d(x, 3, 2) if name == "pool" else self.layers[name](x)
        regions = self.region(x).flatten(2).transpose(1, 2)
        for name in AFTER_REGIONS:
            x = self.layers[name](x)
        return Seen(regions, self.image(avg_pool2d(x, 8).flatten(1)))

    def load_published(self, tensors: Mapping[str, Tensor], source: str) -> None:
        """Loads ImageNet weights in torchvision's names; classifiers are left aside.

        Raises:
            ConfigError: a layer's tensor is missing.
        """
        own = self.layers.state_dict()
        missing = [n for n in own if n not in tensors and not n.endswith("num_batches_tracked")]
        if missing:
            raise ConfigError(
                f"{source} lacks {len(missing)} tensors of Inception-v3, first {missing[0]}; give "
                "torchvision's inception_v3_google-0cc3c7bd.pth as parts.damsm.path."
            )
        self.layers.load_state_dict({n: tensors.get(n, t) for n, t in own.items()}, strict=True)


class ConvRegions(nn.Module):
    """A small convolutional encoder, trained along: a grid of regions, and the whole.

    Args:
        width: D.
        image_size: side to which images are brought.
        channels: of the first layer; doubled at each halving.
        grid: side of the grid of regions; N = grid^2.
        groups: number of groups in every GroupNorm.

    Raises:
        ConfigError: ``image_size`` is not ``grid`` times a power of two of at least 2.

    Source: Xu et al. 2018 (AttnGAN), section 3.2 (regions of a middle layer, the whole from the
        last).
    Differs: a small network, from random weights, in place of Inception-v3.
    """

    def __init__(
        self, *, width: int, image_size: int, channels: int, grid: int, groups: int
    ) -> None:
        super().__init__()
        ratio = image_size / grid
        if ratio < 2 or not math.log2(ratio).is_integer():
            raise ConfigError(
                f"parts.damsm.network.image.image_size={image_size} must be a power of two, of at "
                f"least 2, times parts.damsm.network.image.grid={grid}."
            )
        self.side = image_size
        widths = [channels * 2**i for i in range(int(math.log2(ratio)))]
        layers: list[nn.Module] = []
        for before, after in zip([3, *widths[:-1]], widths, strict=True):
            layers += [*halving(before, after, groups), *keeping(after, after, groups)]
        last = widths[-1]
        self.trunk = nn.Sequential(*layers)
        self.top = nn.Sequential(
            *halving(last, 2 * last, groups), *keeping(2 * last, 2 * last, groups)
        )
        self.region = nn.Conv2d(last, width, 1, bias=False)
        self.image = nn.Linear(2 * last, width)

    def forward(self, images: Images) -> Seen:
        """Vectors of images in [-1, 1] of any size."""
        size = (self.side, self.side)
        if images.shape[-2:] != size:
            images = interpolate(images, size=size, mode="bilinear", align_corners=False)
        x = self.trunk(images)
        regions = self.region(x).flatten(2).transpose(1, 2)
        return Seen(regions, self.image(self.top(x).amax((2, 3))))


def halving(channels: int, out: int, groups: int) -> list[nn.Module]:
    """Convolution of stride 2, GroupNorm, ReLU."""
    return [nn.Conv2d(channels, out, 4, 2, 1), nn.GroupNorm(groups, out), nn.ReLU()]


def keeping(channels: int, out: int, groups: int) -> list[nn.Module]:
    """Convolution that keeps the side, GroupNorm, ReLU."""
    return [nn.Conv2d(channels, out, 3, 1, 1), nn.GroupNorm(groups, out), nn.ReLU()]
