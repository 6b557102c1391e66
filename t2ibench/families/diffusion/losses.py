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
    """Mean of w_t |predicted - target|^2.

    With SNR = abar / (1 - abar) and gamma > 0:

        epsilon  w_t = min(SNR, gamma) / SNR
        v        w_t = min(SNR, gamma) / (SNR + 1)
        x0       w_t = min(SNR + 1, gamma)

    The first two weigh the error of x_0 by min(SNR, gamma). The last is the error of v that a
    predicted x_0 makes, capped: unlike SNR it is not zero in pure noise.

    Args:
        predicted: (B, ...) the network's output.
        target: (B, ...) eps, v or x_0.
        alphas_bar: (B,) in (0, 1).
        prediction: what the target is.
        snr_cap: gamma; 0 means w_t = 1.

    Source: Hang et al. 2023 (min-SNR weighting), eq. 7 and section 3.4; for x0 the v loss of
        Li and He 2025 (Back to basics: let denoising generative models denoise), table 1.
    Differs: none.
    """
    error = (predicted - target).float().square().flatten(1).mean(1)
    if snr_cap > 0:
        snr = alphas_bar / (1 - alphas_bar).clamp(min=1e-8)
        if prediction == "x0":
            error = error * (snr + 1).clamp(max=snr_cap)
        else:
            error = error * snr.clamp(max=snr_cap) / (snr + (1 if prediction == "v" else 0))
    return error.mean()
