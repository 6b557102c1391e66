"""Differentiable augmentation of what the discriminator sees, for small data sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from t2ibench.core.errors import ConfigError
from t2ibench.core.ranks import own_rows
from t2ibench.core.types import Images

Augmentation = Literal["color", "translation", "cutout"]

MOVED = 1 / 8
"""Greatest translation, as a share of the side."""

CUT = 1 / 2
"""Side of the square that is cut out, as a share of the image's."""


class DiffAugment:
    """Random changes of real and generated images alike, through which gradients flow.

    Args:
        policy: kinds of changes, in order; none leaves images as they are.
        cut: side of the square that is cut out, as a share of the image's.

    Raises:
        ConfigError: a kind is unknown.

    Source: Zhao et al. 2020 (DiffAugment), section 3.2.
    Differs: none.
    """

    def __init__(self, policy: Sequence[Augmentation], cut: float = CUT) -> None:
        unknown = [kind for kind in policy if kind not in get_args(Augmentation)]
        if unknown:
            raise ConfigError(
                f"model.module.augment={list(policy)} names {unknown[0]}; choose from "
                f"{', '.join(get_args(Augmentation))}."
            )
        self.policy = tuple(policy)
        self.cut = cut

    def __call__(self, images: Images) -> Images:
        """Changed images, each by numbers of its own, which are drawn for the whole batch."""
        for kind in self.policy:
            images = cutout(images, self.cut) if kind == "cutout" else CHANGES[kind](images)
        return images


def color(images: Images) -> Images:
    """Brightness shifted by up to 0.5, saturation scaled by 0 to 2, contrast by 0.5 to 1.5."""
    brightness, saturation, contrast = (d[:, :, None, None] for d in uniform(images, 3).split(1, 1))
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    middle = images.mean((1, 2, 3), keepdim=True)
    return (images - middle) * (contrast + 0.5) + middle


def translation(images: Images) -> Images:
    """Moved by whole pixels, up to an eighth of each side; what comes in is black (0)."""
    sides = torch.tensor(images.shape[-2:][::-1], device=images.device)  # x, y
    most = (sides * MOVED + 0.5).floor()
    steps = (uniform(images, 2) * (2 * most + 1)).floor() - most
    matrix = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    matrix[:, :, 2] = 2 * steps / sides
    grid = affine_grid(matrix, list(images.shape), align_corners=False).to(images.dtype)
    return grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def cutout(images: Images, share: float = CUT) -> Images:
    """A square of a share of the side, centred anywhere, is grey (0)."""
    height, width = images.shape[-2:]
    centres = uniform(images, 2)
    inside = []
    for side, centre in zip((height, width), centres.unbind(1), strict=True):
        cut = int(side * share + 0.5)
        first = (centre * (side + 1 - cut % 2)).floor() - cut // 2
        places = torch.arange(side, device=images.device)
        inside.append((places >= first[:, None]) & (places < first[:, None] + cut))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images * ~square


CHANGES: dict[str, Callable[[Images], Images]] = {"color": color, "translation": translation}


def uniform(images: Images, count: int) -> Tensor:
    """Numbers (B, count) of [0, 1), of this rank's images."""
    return own_rows(lambda n: torch.rand(n, count, device=images.device), len(images))
