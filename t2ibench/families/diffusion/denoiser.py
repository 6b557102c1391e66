"""A network as a solver calls it: guided, converted to (x_0, eps), kept in range."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from t2ibench.core.errors import ConfigError
from t2ibench.samplers.deterministic import Denoiser
from t2ibench.samplers.guidance import Guidance, dynamic_threshold
from t2ibench.samplers.levels import Levels
from t2ibench.samplers.prediction import PredictionType, split_prediction

Latent = Float[Tensor, "B ..."]
Predict = Callable[[Latent, Float[Tensor, " B"]], Float[Tensor, "B ..."]]
"""Network call (x, time input) -> output; a learned variance doubles the channels (axis 1)."""


def make_denoiser(
    predict: Predict,
    levels: Levels,
    prediction_type: PredictionType,
    *,
    learned: bool,
    tells_variance: bool,
    guide: Guidance | None,
    clip_sample: bool,
    threshold: float,
) -> Denoiser:
    """Makes the function that gives the network's predictions at the levels of a solver.

    Guidance acts on the prediction alone, and a learned variance is the conditional one. Where
    x_0 is kept in range, eps is what then remains of x.

    Args:
        predict: see ``Predict``; called with 2B rows where guidance acts.
        levels: noise levels that the solver visits.
        prediction_type: quantity that the network predicts.
        learned: True where half of the network's channels predict the variance.
        tells_variance: True where the solver uses that variance.
        guide: classifier-free guidance; None: none.
        clip_sample: True to clip x_0 to [-1, 1].
        threshold: percentile of dynamic thresholding, in place of clipping; 0: none.

    Source: Ho and Salimans 2022 (classifier-free guidance), algorithm 2; Nichol et al. 2022
        (GLIDE), as published, with a learned variance.
    Differs: none.
    """
    times = levels.timesteps.tolist()
    alphas, sigmas = levels.coefficients()

    def denoise(x: Latent, i: int) -> tuple[Latent, ...]:
        alpha, sigma = alphas[i], sigmas[i]
        t = torch.full((len(x),), times[i], device=x.device)
        if guide is not None and guide.active(sigma):
            rows = predict(torch.cat([x, x]), torch.cat([t, t])).to(x.dtype).chunk(2)
            conditional, fraction = parted(rows[0], x, learned=learned)
            output = guide.combine(conditional, parted(rows[1], x, learned=learned)[0])
        else:
            output, fraction = parted(predict(x, t).to(x.dtype), x, learned=learned)
        x0, eps = split_prediction(output, x, alpha, sigma, prediction_type)
        if threshold > 0 or clip_sample:
            x0 = dynamic_threshold(x0, threshold) if threshold > 0 else x0.clamp(-1, 1)
            eps = (x - alpha * x0) / sigma
        return (x0, eps, fraction) if tells_variance and fraction is not None else (x0, eps)

    return denoise


def parted(output: Tensor, x: Tensor, *, learned: bool) -> tuple[Tensor, Tensor | None]:
    """Splits the output into the prediction and, where it is learned, the variance's channels.

    Raises:
        ConfigError: the network has another number of channels.
    """
    wanted = 2 * x.shape[1] if learned else x.shape[1]
    if output.shape[1] != wanted:
        raise ConfigError(
            f"process.learned_variance={str(learned).lower()} needs a network of {wanted} output "
            f"channels for {x.shape[1]}, and this one has {output.shape[1]}; change either."
        )
    if not learned:
        return output, None
    prediction, fraction = output.chunk(2, dim=1)
    return prediction, fraction
