"""Solvers of the probability-flow equation: noise in, image out, nothing drawn on the way.

A denoiser maps (x, i), x at level i, to its prediction of x_0 and of eps at once, so that a
solver never asks what the network was trained to predict: x = alpha_i x_0 + sigma_i eps always,
and along the flow dx = x_0 d(alpha) + eps d(sigma). Steps run from level 0 to level S.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from t2ibench.samplers.levels import Levels

Latent = Float[Tensor, "B ..."]
Denoiser = Callable[[Latent, int], tuple[Latent, ...]]
"""Function (x, i) -> (x_0, eps); a third is for ``stochastic.ddpm`` alone."""
Between = Callable[[Latent, int], Latent]
"""Function (x, i) -> x as the step from level i shall find it (known regions of inpainting)."""


def unchanged(x: Latent, i: int) -> Latent:
    """The ``Between`` that does nothing."""
    return x


def euler(denoise: Denoiser, x: Latent, levels: Levels, *, between: Between = unchanged) -> Latent:
    """Steps by x' = alpha' x_0 + sigma' eps: x_0 and eps hold over the step.

    It is Euler's method for diffusion, where eps is the slope of x / alpha in sigma / alpha, and
    for rectified flow, where eps - x_0 is the slope of x in t; and it is DDIM with eta = 0. One
    evaluation a step.

    Args:
        denoise: see ``Denoiser``.
        x: (B, ...) at level 0.
        levels: S of them, and the last.
        between: see ``Between``.

    Source: Karras et al. 2022 (EDM), algorithm 1 without its correction; Song et al. 2021
        (DDIM), eq. 13; Liu et al. 2023 (Rectified flow), algorithm 1.
    Differs: none.
    """
    alpha, sigma = levels.coefficients()
    for i in range(len(levels)):
        x0, eps = denoise(between(x, i), i)
        x = alpha[i + 1] * x0 + sigma[i + 1] * eps
    return x


def heun(denoise: Denoiser, x: Latent, levels: Levels, *, between: Between = unchanged) -> Latent:
    """Euler's step, then again with the mean of the eps at its two ends.

    The trapezoid of eps over sigma / alpha. Two evaluations a step; the last step is Euler's,
    so 2S - 1 in all.

    Args:
        denoise: see ``Denoiser``.
        x: (B, ...) at level 0, which is not pure noise.
        levels: S of them, and the last.
        between: see ``Between``.

    Source: Karras et al. 2022 (EDM), algorithm 1.
    Differs: the last step is of first order also where it ends above sigma = 0.
    """
    alpha, sigma = levels.coefficients()

    def interval(i: int) -> float:
        return sigma[i + 1] - alpha[i + 1] * sigma[i] / alpha[i]

    return _trapezoid(denoise, x, levels, interval, between)


def flow_heun(
    denoise: Denoiser, x: Latent, levels: Levels, *, between: Between = unchanged
) -> Latent:
    """Euler's step, then again with the mean of the eps - x_0 at its two ends.

    The trapezoid over flow time t = sigma = 1 - alpha. 2S - 1 evaluations. Both ends' x_0 and
    eps make up the same x', so eps - x_0 differs by 1 / alpha' of the difference in eps.

    Args:
        denoise: see ``Denoiser``.
        x: (B, ...) at level 0.
        levels: S of them, and the last.
        between: see ``Between``.

    Source: Liu et al. 2023 (Rectified flow), section 2.1 (any solver of ordinary differential
        equations); Heun 1900.
    Differs: the last step is of first order.
    """
    alpha, sigma = levels.coefficients()

    def interval(i: int) -> float:
        return (sigma[i + 1] - sigma[i]) / alpha[i + 1]

    return _trapezoid(denoise, x, levels, interval, between)


def _trapezoid(
    denoise: Denoiser,
    x: Latent,
    levels: Levels,
    interval: Callable[[int], float],
    between: Between,
) -> Latent:
    """Steps by Euler's x' + ``interval`` / 2 (eps' - eps), the interval in units of eps."""
    alpha, sigma = levels.coefficients()
    for i in range(len(levels)):
        x0, eps = denoise(between(x, i), i)
        x = alpha[i + 1] * x0 + sigma[i + 1] * eps
        if i + 1 < len(levels):
            _, eps_next = denoise(x, i + 1)
            x = x + interval(i) / 2 * (eps_next - eps)
    return x


def plms(denoise: Denoiser, x: Latent, levels: Levels, *, between: Between = unchanged) -> Latent:
    """DDIM's step with eps extrapolated from the last four, by Adams and Bashforth.

    (55 e - 59 e_1 + 37 e_2 - 9 e_3) / 24, fewer at the start: (23 e - 16 e_1 + 5 e_2) / 12,
    (3 e - e_1) / 2; the first step is ``heun``'s. S + 1 evaluations; S = 1 is one, Euler's.

    Args:
        denoise: see ``Denoiser``.
        x: (B, ...) at level 0, which is not pure noise.
        levels: S of them, and the last.
        between: see ``Between``.

    Source: Liu et al. 2022 (PNDM), the pseudo linear multi-step method, started by two
        evaluations as Rombach et al. 2022 (LDM) published it.
    Differs: one step of S = 1 has no second evaluation.
    """
    alpha, sigma = levels.coefficients()
    past: list[Latent] = []

    def transfer(x: Latent, eps: Latent, i: int) -> Latent:
        return alpha[i + 1] * (x - sigma[i] * eps) / alpha[i] + sigma[i + 1] * eps

    for i in range(len(levels)):
        x = between(x, i)
        _, eps = denoise(x, i)
        past = [eps, *past[:3]]
        if i == 0 and len(levels) > 1:
            _, eps_next = denoise(transfer(x, eps, i), i + 1)
            slope = (eps + eps_next) / 2
        else:
            slope = _adams_bashforth(past)
        x = transfer(x, slope, i)
    return x


def _adams_bashforth(past: list[Latent]) -> Latent:
    """Extrapolates from the newest four or fewer evaluations, the newest first."""
    weights = {
        1: (1.0,),
        2: (3 / 2, -1 / 2),
        3: (23 / 12, -16 / 12, 5 / 12),
        4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
    }[len(past)]
    slope = weights[0] * past[0]
    for weight, eps in zip(weights[1:], past[1:], strict=True):
        slope = slope + weight * eps
    return slope
