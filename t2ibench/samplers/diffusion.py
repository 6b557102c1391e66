"""Diffusion solvers: pure functions of a denoiser, a schedule and noise.

A denoiser maps (x, t) to its prediction of x_0 and of eps at once, so that a solver never
asks what the network was trained to predict. Steps run from the first of ``timesteps`` to
the last, and then to the clean image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import Noise
from t2ibench.samplers.schedules import AlphasBar

PredictionType = Literal["epsilon", "v", "x0"]
Latent = Float[Tensor, "B ..."]
Denoiser = Callable[[Latent, int], tuple[Latent, Latent]]
"""(x_t, t) -> (x_0, eps)."""


def add_noise(x0: Latent, eps: Latent, alphas_bar: AlphasBar, t: Int[Tensor, " B"]) -> Latent:
    """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.

    Source: Ho et al. 2020 (DDPM), eq. 4.
    Differs: none.
    """
    bar = alphas_bar[t].to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))
    return bar.sqrt() * x0 + (1 - bar).sqrt() * eps


def training_target(
    x0: Latent,
    eps: Latent,
    alphas_bar: AlphasBar,
    t: Int[Tensor, " B"],
    prediction: PredictionType,
) -> Latent:
    """Eps, x_0, or v = sqrt(abar) eps - sqrt(1 - abar) x_0.

    Raises:
        ConfigError: the prediction type is unknown.

    Source: Ho et al. 2020, eq. 14; Salimans and Ho 2022 (progressive distillation), section 4.
    Differs: none.
    """
    if prediction == "epsilon":
        return eps
    if prediction == "x0":
        return x0
    if prediction == "v":
        bar = alphas_bar[t].to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))
        return bar.sqrt() * eps - (1 - bar).sqrt() * x0
    raise ConfigError(
        f"prediction_type={prediction} is unknown; choose {', '.join(get_args(PredictionType))}."
    )


def split_prediction(
    output: Latent, x: Latent, bar: float, prediction: PredictionType
) -> tuple[Latent, Latent]:
    """(x_0, eps) from a network's output at abar = ``bar``.

    Source: Salimans and Ho 2022 (progressive distillation), section 4.
    Differs: none.
    """
    signal, sigma = bar**0.5, (1 - bar) ** 0.5
    if prediction == "v":
        return signal * x - sigma * output, signal * output + sigma * x
    if prediction == "x0":
        return output, (x - signal * output) / sigma
    return (x - sigma * output) / signal, output


def ddim(
    denoise: Denoiser,
    x: Latent,
    alphas_bar: AlphasBar,
    timesteps: Int[Tensor, " S"],
    eta: float = 0.0,
    noise: Noise | None = None,
) -> Latent:
    """x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - sigma^2) eps + sigma z.

    sigma = eta sqrt((1 - abar_s) / (1 - abar_t)) sqrt(1 - abar_t / abar_s); the last step goes
    to abar = 1, the clean image. One evaluation a step.

    Args:
        denoise: see ``Denoiser``.
        x: (B, ...) noise at the first timestep.
        alphas_bar: the schedule.
        timesteps: falling.
        eta: 0 is deterministic, 1 is ancestral (DDPM's variance).
        noise: gives z; needed where eta > 0.

    Source: Song et al. 2021 (DDIM), eq. 12 and 16.
    Differs: the last step ends at the clean image.
    """
    bars = [float(alphas_bar[t]) for t in timesteps] + [1.0]
    for i, t in enumerate(timesteps.tolist()):
        bar, bar_next = bars[i], bars[i + 1]
        x0, eps = denoise(x, t)
        sigma = eta * ((1 - bar_next) / (1 - bar)) ** 0.5 * (1 - bar / bar_next) ** 0.5
        x = bar_next**0.5 * x0 + max(1 - bar_next - sigma**2, 0.0) ** 0.5 * eps
        if sigma > 0:
            assert noise is not None, "eta > 0 draws noise"
            x = x + sigma * noise.normal(*x.shape[1:])
    return x


def dpm_solver_pp_2m(
    denoise: Denoiser, x: Latent, alphas_bar: AlphasBar, timesteps: Int[Tensor, " S"]
) -> Latent:
    """The second-order multistep solver in x_0 and lambda = log(sqrt(abar) / sqrt(1 - abar)).

    x_s = sigma_s / sigma_t x_t - alpha_s (e^{-h} - 1) D, h = lambda_s - lambda_t,
    D = (1 + 1 / (2r)) x_0^t - 1 / (2r) x_0^prev, r = h_prev / h. The first step, and the last
    one to the clean image, are of first order. One evaluation a step.

    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2.
    Differs: the last step ends at the clean image, x_0 itself.
    """
    bars = alphas_bar[timesteps].double()
    alpha, sigma = bars.sqrt(), (1 - bars).sqrt()
    lam = alpha.log() - sigma.log()
    previous: Latent | None = None
    for i, t in enumerate(timesteps.tolist()):
        x0, _ = denoise(x, t)
        if i + 1 == len(timesteps):
            return x0
        h = lam[i + 1] - lam[i]
        direction = x0
        if previous is not None:
            r = float((lam[i] - lam[i - 1]) / h)
            direction = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * previous
        step = float(alpha[i + 1] * torch.expm1(-h))
        x = float(sigma[i + 1] / sigma[i]) * x - step * direction
        previous = x0
    return x
