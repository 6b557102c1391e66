"""Solvers that draw fresh noise at each step; see ``deterministic`` for the denoiser."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import Noise
from t2ibench.samplers.deterministic import Between, Denoiser, Latent, unchanged
from t2ibench.samplers.levels import Levels

FixedVariance = Literal["small", "large"]
Variance = Literal[FixedVariance, "learned"]


def ddim(
    denoise: Denoiser,
    x: Latent,
    levels: Levels,
    noise: Noise,
    *,
    eta: float,
    between: Between = unchanged,
) -> Latent:
    """Steps by x' = alpha' x_0 + sqrt(sigma'^2 - s^2) eps + s z.

    s is eta times ``posterior_deviations``. One evaluation a step; nothing is drawn at eta = 0,
    nor where the step ends at the clean image.

    Args:
        denoise: see ``Denoiser``.
        x: (B, ...) at level 0.
        levels: S of them, and the last.
        noise: gives z.
        eta: 0 is ``euler``, 1 has the variance of DDPM's posterior.
        between: see ``Between``.

    Source: Song et al. 2021 (DDIM), eq. 12 and 16.
    Differs: none.
    """
    alpha, sigma = levels.coefficients()
    for i, posterior in enumerate(posterior_deviations(levels)):
        x0, eps = denoise(between(x, i), i)
        s = eta * posterior
        x = alpha[i + 1] * x0 + max(sigma[i + 1] ** 2 - s**2, 0.0) ** 0.5 * eps
        if s > 0:
            x = x + s * noise.normal(*x.shape[1:])
    return x


def euler_ancestral(
    denoise: Denoiser,
    x: Latent,
    levels: Levels,
    noise: Noise,
    *,
    between: Between = unchanged,
) -> Latent:
    """Euler's step to less noise than the next level has, and fresh noise up to it.

    In r = sigma / alpha: down to sqrt(r'^2 - u^2), then up by u = r' / r sqrt(r^2 - r'^2). With
    alpha' u = ``posterior_deviations`` this is DDIM's step at eta = 1, of any alpha and sigma.

    Args:
        denoise: see ``Denoiser``.
        x: (B, ...) at level 0.
        levels: S of them, and the last.
        noise: gives what is drawn.
        between: see ``Between``.

    Source: Song et al. 2021 (Score-based generative modeling through SDEs), appendix F
        (ancestral sampling of the variance-exploding equation).
    Differs: none.
    """
    return ddim(denoise, x, levels, noise, eta=1.0, between=between)


def ddpm(
    denoise: Denoiser,
    x: Latent,
    levels: Levels,
    noise: Noise,
    *,
    variance: str,
    between: Between = unchanged,
) -> Latent:
    """Ancestral sampling: the mean of q(x' | x, x_0) and noise of a chosen variance.

    The mean is alpha' x_0 + sqrt(sigma'^2 - s^2) eps, s = ``posterior_deviations``; the variance
    s^2 (small), beta = 1 - (alpha / alpha')^2 (large), or exp(f log beta + (1 - f) log s^2) with
    f = (v + 1) / 2 of the network's v in [-1, 1] (learned). No noise where the step ends at the
    clean image. One evaluation a step.

    Args:
        denoise: see ``Denoiser``; with a learned variance it also gives v.
        x: (B, ...) at level 0.
        levels: S of them, and the last; variance-preserving.
        noise: gives what is drawn.
        variance: a ``Variance``.
        between: see ``Between``.

    Source: Ho et al. 2020 (DDPM), algorithm 2 and section 3.2; Nichol and Dhariwal 2021
        (Improved DDPM), eq. 15, and section 4 for fewer steps.
    Differs: none.
    """
    alpha, sigma = levels.coefficients()
    for i, s in enumerate(posterior_deviations(levels)):
        x0, eps, *learned = denoise(between(x, i), i)
        x = alpha[i + 1] * x0 + max(sigma[i + 1] ** 2 - s**2, 0.0) ** 0.5 * eps
        if s == 0:
            continue
        beta = 1 - (alpha[i] / alpha[i + 1]) ** 2
        deviation: Tensor | float = beta**0.5 if variance == "large" else s
        if variance == "learned":
            # The root of the variance, interpolated in its logarithm.
            deviation = s * torch.exp((learned[0] + 1) / 4 * math.log(beta / s**2))
        x = x + deviation * noise.normal(*x.shape[1:])
    return x


def posterior_deviations(levels: Levels) -> list[float]:
    """The standard deviation of x' given x and x_0, of each step.

    sigma' sqrt(1 - (r' / r)^2) with r = sigma / alpha, which for alpha^2 + sigma^2 = 1 is
    sqrt((1 - abar') / (1 - abar)) sqrt(1 - abar / abar').

    Source: Ho et al. 2020 (DDPM), eq. 7.
    Differs: of any alpha and sigma.
    """
    alpha, sigma = levels.alpha, levels.sigma
    kept = alpha[:-1] * sigma[1:] / (alpha[1:] * sigma[:-1])
    deviations: list[float] = (sigma[1:] * (1 - kept.square()).clamp(min=0).sqrt()).tolist()
    return deviations


def check_variance(name: str) -> None:
    """Refuses a name that is no ``FixedVariance``.

    Raises:
        ConfigError: so.
    """
    if name not in get_args(FixedVariance):
        raise ConfigError(
            f"process.variance={name} is unknown; choose {', '.join(get_args(FixedVariance))}, or "
            "process.learned_variance=true."
        )
