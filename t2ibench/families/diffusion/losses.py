"""The diffusion objective."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from t2ibench.samplers.prediction import PredictionType
from t2ibench.samplers.schedules import Schedule

PIXEL = 1 / 255
"""Half the distance between two neighbouring pixel values in [-1, 1]."""


def weighted_errors(
    predicted: Float[Tensor, "B ..."],
    target: Float[Tensor, "B ..."],
    alpha: Float[Tensor, " B"],
    sigma: Float[Tensor, " B"],
    prediction: PredictionType,
    snr_cap: float,
) -> Float[Tensor, " B"]:
    """Weighted squared error of each row: w_t |predicted - target|^2, averaged over its numbers.

    With SNR = alpha^2 / sigma^2 and gamma > 0:

        epsilon  w_t = min(SNR, gamma) / SNR
        v        w_t = min(SNR, gamma) sigma^2 / (alpha^2 + sigma^2)^2
        flow     w_t = min(SNR, gamma) sigma^2 / (alpha + sigma)^2
        x0       w_t = min(1 / sigma^2, gamma)

    The first three weigh the error of x_0 by min(SNR, gamma). The last is the error of the
    velocity that a predicted x_0 makes, capped: of v in variance-preserving diffusion, where it
    is SNR + 1, and of flow in rectified flow. Unlike SNR it is not zero in pure noise.

    Args:
        predicted: (B, ...) the network's output.
        target: (B, ...) eps, v, x_0 or eps - x_0.
        alpha: (B,) of the image.
        sigma: (B,) of the noise, above 0.
        prediction: what the target is.
        snr_cap: gamma; 0 means w_t = 1.

    Source: Hang et al. 2023 (min-SNR weighting), eq. 7 and section 3.4; for x0 the v loss of
        Li and He 2025 (Back to basics: let denoising generative models denoise), table 1.
    Differs: those of flow, and of v outside of alpha^2 + sigma^2 = 1, are derived in the same way.
    """
    errors = (predicted - target).float().square().flatten(1).mean(1)
    if snr_cap == 0:
        return errors
    snr = (alpha / sigma).square()
    if prediction == "x0":
        return errors * sigma.square().reciprocal().clamp(max=snr_cap)
    if prediction == "flow":
        return errors * snr.clamp(max=snr_cap) * (sigma / (alpha + sigma)).square()
    if prediction == "v":
        return (
            errors * snr.clamp(max=snr_cap) * (sigma / (alpha.square() + sigma.square())).square()
        )
    # min(SNR, gamma) / SNR, which is 1 and not 0 / 0 in pure noise.
    return errors * (snr_cap / snr).clamp(max=1)


@dataclass(frozen=True)
class Posterior:
    """Posterior q(x_{t-1} | x_t, x_0) of a variance-preserving schedule; t - 1 = -1 is the image.

    Holds all T values, or those of some rows.

    Attributes:
        log_small: (T,) log of its variance beta~; at t = 0, where that is 0, the value of t = 1.
        log_large: (T,) log of beta.
        gain: (T,) derivative of its mean by x_0.

    Source: Ho et al. 2020 (DDPM), eq. 7; Nichol and Dhariwal 2021 (Improved DDPM), section 3.1.
    Differs: none.
    """

    log_small: Float[Tensor, ...]
    log_large: Float[Tensor, ...]
    gain: Float[Tensor, ...]

    @staticmethod
    def of(schedule: Schedule) -> Posterior:
        """Posterior of a schedule, in float64."""
        alpha, sigma = schedule.alpha, schedule.sigma
        next_alpha = torch.cat([torch.ones_like(alpha[:1]), alpha[:-1]])
        next_sigma = torch.cat([torch.zeros_like(sigma[:1]), sigma[:-1]])
        kept = alpha * next_sigma / (next_alpha * sigma)
        small = next_sigma.square() * (1 - kept.square())
        large = 1 - (alpha / next_alpha).square()
        small[0] = small[1]
        return Posterior(small.log(), large.log(), next_alpha - alpha * kept * next_sigma / sigma)


def variance_bound(
    predicted_x0: Float[Tensor, "B ..."],
    fraction: Float[Tensor, "B ..."],
    x0: Float[Tensor, "B ..."],
    posterior: Posterior,
    last: Float[Tensor, ...],
) -> Float[Tensor, " B"]:
    """Variational bound in bits a number of each row's step t -> t - 1, with a learned variance.

    KL(q(x' | x, x_0) || N(mean(x, predicted x_0), Sigma)), and at t = 0 -log of the probability
    of the pixel values, with log Sigma = f log beta + (1 - f) log beta~, f = (v + 1) / 2.

    Args:
        predicted_x0: (B, ...), without gradient: the bound trains the variance alone.
        fraction: (B, ...) the network's v, -1 for beta~ and 1 for beta.
        x0: (B, ...) in [-1, 1], of 256 values.
        posterior: at each row's t, shaped to broadcast.
        last: 1 where t = 0 and else 0, shaped to broadcast.

    Source: Nichol and Dhariwal 2021 (Improved DDPM), eq. 4 to 7 and 15; Ho et al. 2020 (DDPM),
        eq. 13.
    Differs: none.
    """
    share = (fraction.float() + 1) / 2
    log_sigma = share * posterior.log_large + (1 - share) * posterior.log_small
    error = (x0 - predicted_x0).float()
    moved = (posterior.gain * error).square() * torch.exp(-log_sigma)
    excess = posterior.log_small - log_sigma
    divergence = 0.5 * (torch.exp(excess) - 1 - excess + moved)
    # The probability of a pixel's bin; those of black and white reach to infinity.
    scale = torch.exp(-log_sigma / 2)
    above = torch.special.ndtr((error + PIXEL) * scale).masked_fill(x0 > 1 - PIXEL, 1)
    below = torch.special.ndtr((error - PIXEL) * scale).masked_fill(x0 < PIXEL - 1, 0)
    surprise = -(above - below).clamp(min=1e-12).log()
    return torch.where(last > 0, surprise, divergence).flatten(1).mean(1) / math.log(2)
