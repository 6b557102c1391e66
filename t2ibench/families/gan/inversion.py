"""Edits of a GAN: the latents of a given image are found by descent, one image at a time.

A generator is anything that maps text and standard normal latents to images (``Paint``). An edit
begins at the latents that the sample would have without it and moves them until the image agrees
with the given one; what is kept of the prompt and of the seed is what the given image leaves open.

Each image is optimised by itself: descent would amplify the rounding that differs between batch
sizes, and so it is a function of its own prompt, seed and image alone. A step costs a forward
pass and the gradient of the latents; ``knobs.inversion_steps`` says how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from t2ibench.core.edits import Edit, ImageToImage, Inpainting, Interpolation, lerp_text, slerp
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import Knob
from t2ibench.core.types import Images, TextFeatures

Paint = Callable[[TextFeatures, Sequence[Tensor]], Images]
"""Text features of B captions and latents, each (B, ...) standard normal, to images."""

INVERSIONS = frozenset({"img2img", "inpainting"})
"""Edits that ``edited`` makes of any generator."""

RATE, BETAS, WARM, COOL = 0.1, (0.9, 0.999), 0.05, 0.25
"""Learning rate of Adam, its decays, and the shares of the steps in which the rate rises and
falls (Karras et al. 2020, StyleGAN2, appendix D)."""

COARSEST = 4
"""Side of the smallest image of the pyramid on which two images are compared."""


def inversion_knob() -> Knob:
    """Number of descent steps of an edit; unused by sampling."""
    return Knob("inversion_steps", 100, 1, 5000, integer=True, of_edits=True)


def check_edit(edit: Edit, resolution: int) -> None:
    """Refuses an image of another size than the generator paints.

    Raises:
        ConfigError: it is.
    """
    image = getattr(edit, "image", None)
    if image is not None and tuple(image.shape[-2:]) != (resolution, resolution):
        height, width = image.shape[-2:]
        raise ConfigError(
            f"{edit.name} of {height}x{width} pixels: this generator paints {resolution}x"
            f"{resolution} alone, so it cannot outpaint; give an image of that size, or choose a "
            "model whose edits include size."
        )


def edited(
    paint: Paint,
    text: TextFeatures,
    start: Sequence[Tensor],
    edit: ImageToImage | Inpainting,
    steps: int,
    resolution: int,
) -> Images:
    """Images of an edit.

    Img2img takes (1 - strength) of the steps towards the given image: 1 forgets it, and 0 comes
    as near as the generator can. Inpainting takes all steps towards what is kept of the image,
    and pastes that over the result.

    Args:
        paint: the generator.
        text: features of B captions.
        start: latents of the B samples without the edit.
        edit: of the B samples.
        steps: number of steps at most.
        resolution: side that the generator paints.

    Raises:
        ConfigError: the image has another size.

    Source: Karras et al. 2020 (StyleGAN2), section 5 (projection by descent); Meng et al. 2022
        (SDEdit), for the meaning of strength.
    Differs: pixels are compared at several scales in place of LPIPS, whose network would be one
        more that the generator was fitted to; latents keep their length in place of a penalty.
    """
    check_edit(edit, resolution)
    painted = isinstance(edit, Inpainting)
    if isinstance(edit, ImageToImage):
        steps = round((1 - edit.strength) * steps)
    images = []
    for i in range(len(text)):
        one = slice(i, i + 1)
        wanted: Any = edit.rows(one)
        goal = wanted.image.to(start[0])
        keep = torch.ones_like(goal[:, :1])
        if painted:
            keep = (~wanted.mask).to(goal)
        latents = inverted(paint, text[one], [s[one] for s in start], goal, keep, steps)
        found = paint(text[one], latents).clamp(-1, 1)
        images.append(torch.where(keep > 0, goal, found) if painted else found)
    return torch.cat(images)


def inverted(
    paint: Paint,
    text: TextFeatures,
    start: Sequence[Tensor],
    goal: Images,
    keep: Float[Tensor, "1 1 H W"],
    steps: int,
) -> list[Tensor]:
    """Latents whose image agrees with the given one where that is kept.

    Descent by Adam; after every step each latent has the length that it began with, on which
    standard normal draws lie.

    Args:
        paint: the generator.
        text: features of one caption.
        start: latents (1, ...) to begin with.
        goal: (1, 3, H, W) in [-1, 1].
        keep: 1 where the image must agree, else 0.
        steps: number of steps.

    Source: Karras et al. 2020 (StyleGAN2), appendix D.
    Differs: see ``edited``.
    """
    latents = [latent.detach().clone() for latent in start]
    lengths = [latent.norm() for latent in latents]
    first = [torch.zeros_like(latent) for latent in latents]
    second = [torch.zeros_like(latent) for latent in latents]
    for step in range(steps):
        with torch.enable_grad():
            moved = [latent.requires_grad_() for latent in latents]
            # Views: whoever counts FLOPs watches networks' inputs, and cannot watch leaves.
            images = paint(text, [latent.view_as(latent) for latent in moved])
            gradients = torch.autograd.grad(disagreement(images, goal, keep), moved)
        rate = learning_rate(step, steps)
        for i, gradient in enumerate(gradients):
            first[i] = torch.lerp(gradient, first[i], BETAS[0])
            second[i] = torch.lerp(gradient.square(), second[i], BETAS[1])
            mean = first[i] / (1 - BETAS[0] ** (step + 1))
            spread = (second[i] / (1 - BETAS[1] ** (step + 1))).sqrt()
            latent = latents[i].detach() - rate * mean / (spread + 1e-12)
            latents[i] = latent * (lengths[i] / latent.norm().clamp(min=1e-12))
    return latents


def learning_rate(step: int, steps: int) -> float:
    """Learning rate of a step: a linear rise, and a fall along a cosine at the end."""
    share = (step + 0.5) / steps
    rise = min(1.0, share / WARM)
    fall = min(1.0, (1 - share) / COOL)
    return RATE * rise * (0.5 - 0.5 * math.cos(math.pi * fall))


def disagreement(images: Images, goal: Images, keep: Float[Tensor, "B 1 H W"]) -> Float[Tensor, ""]:
    """Mean squared difference of the kept pixels, summed over a pyramid of halved sides.

    A coarse pixel counts as much as it has kept pixels, and is their mean.
    """
    error, total = (images - goal) * keep, torch.zeros((), device=images.device)
    weight = keep
    while True:
        mean = error / weight.clamp(min=1e-6)
        total = total + (weight * mean.square()).sum() / (3 * weight.sum()).clamp(min=1e-6)
        side = error.shape[-1]
        if side % 2 or side // 2 < COARSEST:
            return total
        error, weight = avg_pool2d(error, 2), avg_pool2d(weight, 2)


def between(
    text: TextFeatures,
    start: Sequence[Tensor],
    other: Sequence[Tensor],
    edit: Interpolation,
) -> tuple[TextFeatures, list[Tensor]]:
    """Text and latents of an interpolation: a straight line and great circles.

    Args:
        text: of the first images.
        start: latents of the first.
        other: latents of the second, drawn from ``edit.noise``.
        edit: with the second images' text.
    """
    latents = [slerp(a, b.to(a), edit.weight) for a, b in zip(start, other, strict=True)]
    return lerp_text(text, edit.text.to(text.tokens.device), edit.weight), latents
