"""DPM-Solver++(2M): exact in the linear part, second order by the last two predictions.

Both forms in x_0 and lambda = log(alpha / sigma), h = lambda' - lambda. The first step is of
first order, and so is the last one where it goes to the clean image (h infinite, x' = x_0).
One evaluation a step.
"""

from __future__ import annotations

import math

from t2ibench.core.noise import Noise
from t2ibench.samplers.deterministic import Between, Denoiser, Latent, unchanged
from t2ibench.samplers.levels import Levels


def dpm_solver_pp_2m(
    denoise: Denoiser,
    x: Latent,
    levels: Levels,
    *,
    lower_order_final: bool,
    between: Between = unchanged,
) -> Latent:
    """Steps by x' = sigma' / sigma x - alpha' (e^{-h} - 1) D, D of ``_extrapolated``.

    Args:
        denoise: see ``Denoiser``.
        x: (B, ...) at level 0.
        levels: S of them, and the last.
        lower_order_final: the last step is of first order wherever it ends.
        between: see ``Between``.

    Source: Lu et al. 2022 (DPM-Solver++), algorithm 2.
    Differs: may end at the clean image.
    """
    alpha, sigma = levels.coefficients()
    lam = levels.half_log_snr()
    previous: Latent | None = None
    for i in range(len(levels)):
        x = between(x, i)
        x0, _ = denoise(x, i)
        if i + 1 == len(levels) and (lower_order_final or sigma[-1] == 0):
            previous = None
        decay = math.expm1(lam[i] - lam[i + 1])
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * decay * _extrapolated(x0, previous, lam, i)
        previous = x0
    return x


def dpm_solver_pp_2m_sde(
    denoise: Denoiser,
    x: Latent,
    levels: Levels,
    noise: Noise,
    *,
    lower_order_final: bool,
    between: Between = unchanged,
) -> Latent:
    """Solves the reverse stochastic equation: the same solver with fresh noise.

    x' = sigma' / sigma e^{-h} x + alpha' (1 - e^{-2h}) D + sigma' sqrt(1 - e^{-2h}) z; fresh
    noise z is drawn at each step but that to the clean image.

    Args:
        denoise: see ``Denoiser``.
        x: (B, ...) at level 0.
        levels: S of them, and the last.
        noise: gives z.
        lower_order_final: the last step is of first order wherever it ends.
        between: see ``Between``.

    Source: Lu et al. 2022 (DPM-Solver++), its SDE-DPM-Solver++(2M).
    Differs: may end at the clean image.
    """
    alpha, sigma = levels.coefficients()
    lam = levels.half_log_snr()
    previous: Latent | None = None
    for i in range(len(levels)):
        x = between(x, i)
        x0, _ = denoise(x, i)
        if i + 1 == len(levels) and (lower_order_final or sigma[-1] == 0):
            previous = None
        h = lam[i + 1] - lam[i]
        fresh = -math.expm1(-2 * h)
        x = sigma[i + 1] / sigma[i] * math.exp(-h) * x + alpha[i + 1] * fresh * _extrapolated(
            x0, previous, lam, i
        )
        if sigma[i + 1] > 0:
            x = x + sigma[i + 1] * math.sqrt(fresh) * noise.normal(*x.shape[1:])
        previous = x0
    return x


def _extrapolated(x0: Latent, previous: Latent | None, lam: list[float], i: int) -> Latent:
    """Extrapolation D = x_0 + (x_0 - x_0^prev) / (2r), r = h_prev / h; x_0 at the first step."""
    if previous is None:
        return x0
    r = (lam[i] - lam[i - 1]) / (lam[i + 1] - lam[i])
    return x0 + (x0 - previous) / (2 * r)
