"""The diffusion objective."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from t2ibench.samplers.prediction import PredictionType


def weighted_errors(
    predicted: Float[Tensor, "B ..."],
    target: Float[Tensor, "B ..."],
    alpha: Float[Tensor, " B"],
    sigma: Float[Tensor, " B"],
    prediction: PredictionType,
    snr_cap: float,
) -> Float[Tensor, " B"]:
    """w_t |predicted - target|^2 of each row, the mean over its numbers.

    With SNR = alpha^2 / sigma^2 and gamma > 0:

        epsilon  w_t = min(SNR, gamma) / SNR
        v        w_t = min(SNR, gamma) / (SNR + 1)
        flow     w_t = min(SNR, gamma) sigma^2 / (alpha + sigma)^2
        x0       w_t = min(SNR + 1, gamma)

    The first three weigh the error of x_0 by min(SNR, gamma). The last is the error of v that a
    predicted x_0 makes, capped: unlike SNR it is not zero in pure noise.

    Args:
        predicted: (B, ...) the network's output.
        target: (B, ...) eps, v, x_0 or eps - x_0.
        alpha: (B,) of the image.
        sigma: (B,) of the noise, above 0; for v, alpha^2 + sigma^2 = 1.
        prediction: what the target is.
        snr_cap: gamma; 0 means w_t = 1.

    Source: Hang et al. 2023 (min-SNR weighting), eq. 7 and section 3.4; for x0 the v loss of
        Li and He 2025 (Back to basics: let denoising generative models denoise), table 1.
    Differs: flow's is derived in the same way.
    """
    errors = (predicted - target).float().square().flatten(1).mean(1)
    if snr_cap == 0:
        return errors
    snr = (alpha / sigma).square()
    if prediction == "x0":
        return errors * (snr + 1).clamp(max=snr_cap)
    if prediction == "flow":
        return errors * snr.clamp(max=snr_cap) * (sigma / (alpha + sigma)).square()
    if prediction == "v":
        return errors * snr.clamp(max=snr_cap) / (snr + 1)
    # min(SNR, gamma) / SNR, which is 1 and not 0 / 0 in pure noise.
    return errors * (snr_cap / snr).clamp(max=1)
