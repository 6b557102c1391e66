"""Balance of two players: what is logged of them, and warnings of silent failure."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from t2ibench.core.ranks import averaged
from t2ibench.core.types import Images

BALANCE = ("real_logit", "fake_logit", "accuracy", "real_spread", "fake_spread")
"""Names of what ``balance`` returns."""

LOGGED = (
    "loss",
    "generator_adversarial",
    "generator_gradient_norm",
    "discriminator_loss",
    "discriminator_gradient_norm",
    *BALANCE,
)
"""Names of what every GAN logs: the generator's whole loss and its adversarial term, the
discriminator's adversarial loss, norms before clipping, and the balance. Other terms are named
after their player too (``generator_clip``, ``discriminator_penalty``)."""

WON, LOST, DEAD, COLLAPSED = 0.995, 0.05, 1e-3, 0.1
"""Accuracy above which the discriminator has won, and below which it takes generated images for
real; difference of mean logits below which it tells nothing; spread of generated images, over that
of real ones, below which they are all one."""

GENERATOR_RATE = "model.module.generator_optimizer.lr"
"""Configuration key of the generator's learning rate."""


@torch.no_grad()
def balance(
    real: Tensor, fake: Tensor, real_images: Images, fake_images: Images
) -> dict[str, Tensor]:
    """Scalars of one step, to be logged.

    Args:
        real: (B, ...) logits of real images with their captions.
        fake: (B, ...) logits of generated images.
        real_images: (B, 3, H, W).
        fake_images: (B, 3, H, W).

    Returns:
        ``real_logit`` and ``fake_logit``, means; ``accuracy``, share of pairs in which the real
        image has the greater mean logit (0.5: the discriminator cannot tell); ``real_spread`` and
        ``fake_spread``, standard deviation over the batch of all ranks, averaged over pixels.
    """
    real, fake = (
        logits.float().flatten(1).mean(1) if logits.ndim > 1 else logits.float()
        for logits in (real, fake)
    )
    return {
        "real_logit": real.mean(),
        "fake_logit": fake.mean(),
        "accuracy": (real > fake).float().mean(),
        "real_spread": spread(real_images),
        "fake_spread": spread(fake_images),
    }


@torch.no_grad()
def spread(images: Images) -> Tensor:
    """Standard deviation over the batch of all ranks, averaged over pixels."""
    images = images.float()
    mean = averaged(images.mean(0))
    return averaged((images - mean).square().mean(0)).sqrt().mean()


def balance_alarms(logged: Mapping[str, float], rate: str, penalty: str) -> dict[str, str]:
    """Warnings of players out of balance, by kind.

    Args:
        logged: means over a logging interval, with those of ``balance``.
        rate: configuration key of the discriminator's learning rate.
        penalty: configuration key that holds the discriminator back.
    """
    found = {}
    if logged["fake_spread"] < COLLAPSED * logged["real_spread"]:
        found["collapse"] = (
            f"generated images differ {logged['fake_spread'] / logged['real_spread']:.2g} times as "
            f"much as real ones, so the generator has all but collapsed to one image; lower "
            f"{GENERATOR_RATE} or {rate}, or raise {penalty}."
        )
    if logged["accuracy"] > WON:
        found["won"] = (
            f"the discriminator tells real from generated in {logged['accuracy']:.1%} of pairs, so "
            f"the generator learns little from it; lower {rate} or raise {penalty}."
        )
    if logged["accuracy"] < LOST:
        found["lost"] = (
            f"the discriminator takes generated images for real in {1 - logged['accuracy']:.1%} of "
            f"pairs, so it learns too little; raise {rate} or lower {penalty}."
        )
    if abs(logged["real_logit"] - logged["fake_logit"]) < DEAD:
        found["dead"] = (
            "the discriminator gives real and generated images the same logit, so nothing is "
            f"learned; raise {rate} or lower {penalty}."
        )
    return found
