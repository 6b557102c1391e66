"""The diffusion objective."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from t2ibench.samplers.diffusion import PredictionType


def weighted_error(
    predicted: Float[Tensor, "B ..."],
    target: Float[Tensor, "B ..."],
    alphas_bar: Float[Tensor, " B"],
    prediction: PredictionType,
    snr_cap: float,
) -> Float[Tensor, ""]:
    """Mean of w_t |predicted - target|^2 with w_t = min(SNR, gamma) / SNR (or / (SNR + 1)).

    SNR = abar / (1 - abar); the denominator is SNR for eps and SNR + 1 for v, so that both
    weigh the error of x_0 by min(SNR, gamma).

    Args:
        predicted: (B, ...) the network's output.
        target: (B, ...) eps or v.
        alphas_bar: (B,) in (0, 1).
        prediction: what the target is.
        snr_cap: gamma; 0 means w_t = 1.

    Source: Hang et al. 2023 (min-SNR weighting), eq. 7 and section 3.4.
    Differs: none.
    """
    error = (predicted - target).float().square().flatten(1).mean(1)
    if snr_cap > 0:
        snr = alphas_bar / (1 - alphas_bar).clamp(min=1e-8)
        error = error * snr.clamp(max=snr_cap) / (snr + (1 if prediction == "v" else 0))
    return error.mean()
