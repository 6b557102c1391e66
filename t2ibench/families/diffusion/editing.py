"""Edits of latent and pixel diffusion: sampling with a given image or a second prompt."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from t2ibench.core.errors import ConfigError
from t2ibench.core.ranks import own_rows
from t2ibench.core.types import Images
from t2ibench.samplers.deterministic import Between
from t2ibench.samplers.levels import Levels
from t2ibench.samplers.prediction import add_noise

Latent = Float[Tensor, "B C h w"]
Predict = Callable[[Tensor, Tensor], Tensor]

WHOLE_IMAGE = 0.25
"""Share of training masks that cover the whole image, so that the network also generates freely."""


def latent_mask(mask: Bool[Tensor, "B 1 H W"], side: tuple[int, int]) -> Float[Tensor, "B 1 h w"]:
    """Mask at latent size: 1 where any pixel of the position is painted, 0 elsewhere."""
    return adaptive_max_pool2d(mask.float(), side)


def keep_known(
    known: Latent, eps: Latent, mask: Float[Tensor, "B 1 h w"], levels: Levels
) -> Between:
    """Makes the hook that resets x outside the mask to the noised known image at each step.

    Args:
        known: x_0 of the given image.
        eps: the noise that sampling started from, the same at every level.
        mask: 1 where x is painted.
        levels: noise levels that the solver visits.

    Source: Avrahami et al. 2023 (Blended latent diffusion), algorithm 1.
    Differs: one eps for all levels, so that the result does not depend on their number through
        fresh draws; pixels outside the mask are pasted at the end (``Inpainting.paste``).
    """
    alpha, sigma = levels.coefficients()

    def between(x: Tensor, i: int) -> Tensor:
        return torch.lerp(add_noise(known, eps, alpha[i], sigma[i]), x, mask)

    return between


def beside(mask: Float[Tensor, "B 1 h w"], masked: Latent) -> Float[Tensor, "B C1 h w"]:
    """Condition of an inpainting network: the mask, then the masked image's latents.

    Source: Rombach et al. 2022 (LDM), section 4.5; Stable Diffusion's inpainting checkpoint for
        the order.
    Differs: none.
    """
    return torch.cat([mask, masked], 1)


def without_region(images: Images, mask: Bool[Tensor, "B 1 H W"]) -> Images:
    """Images that are mid-grey where the mask is True, as published: the pixels to be painted."""
    return images.masked_fill(mask, 0.0)


def random_masks(images: Images) -> Bool[Tensor, "B 1 H W"]:
    """Random training masks, one an image: a box of random position and size, or the whole image.

    Drawn from torch's generator.

    Source: Rombach et al. 2022 (LDM), appendix E.2.2 (synthetic masks); Stable Diffusion's
        inpainting model card: a quarter of the masks cover everything.
    Differs: boxes alone, with sides from a quarter of the image's to all of it.
    """
    count, _, height, width = images.shape
    device = images.device

    def uniform(columns: int) -> Tensor:
        return own_rows(lambda n: torch.rand(n, columns, device=device), count)

    extent = 0.25 + 0.75 * uniform(2)
    extent = torch.where(uniform(1) < WHOLE_IMAGE, 1.0, extent)
    start = uniform(2) * (1 - extent)

    def inside(axis: int, length: int) -> Tensor:
        place = (torch.arange(length, device=device) + 0.5) / length
        low = start[:, axis, None]
        return (place >= low) & (place <= low + extent[:, axis, None])

    return (inside(0, height)[:, None, :, None] & inside(1, width)[:, None, None, :]).bool()


def switching(first: Predict, second: Predict, after: int) -> tuple[Predict, Between]:
    """A network that switches to a second prompt at step ``after``, and the hook that counts steps.

    Source: Hertz et al. 2022 (Prompt-to-prompt), section 4.1: what is drawn early decides the
        layout.
    Differs: whole prompts are swapped, not attention maps.
    """
    step = 0

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return first(x, t) if step < after else second(x, t)

    def between(x: Tensor, i: int) -> Tensor:
        nonlocal step
        step = i
        return x

    return predict, between


def check_size(size: tuple[int, int], multiple: int) -> None:
    """Checks that height and width are positive multiples of the networks' downsampling factor.

    Raises:
        ConfigError: they are not.
    """
    height, width = size
    if min(height, width) < multiple or height % multiple or width % multiple:
        near = tuple(max(1, round(side / multiple)) * multiple for side in size)
        raise ConfigError(
            f"size={height}x{width}: this model's sides are multiples of {multiple}; "
            f"{near[0]}x{near[1]} is near."
        )
