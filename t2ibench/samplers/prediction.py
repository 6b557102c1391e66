"""Prediction types of a network: noise, image, velocity or flow, and their conversion."""

from __future__ import annotations

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from t2ibench.core.errors import ConfigError

PredictionType = Literal["epsilon", "v", "x0", "flow"]
Latent = Float[Tensor, "B ..."]
Level = Float[Tensor, "B ..."] | float
"""Noise level, alpha or sigma: a number, or one a row that broadcasts against ``Latent``."""


def add_noise(x0: Latent, eps: Latent, alpha: Level, sigma: Level) -> Latent:
    """Adds noise: x = alpha x_0 + sigma eps.

    Source: Ho et al. 2020 (DDPM), eq. 4; Liu et al. 2023 (Rectified flow), eq. 1.
    Differs: none.
    """
    return alpha * x0 + sigma * eps


def training_target(
    x0: Latent, eps: Latent, alpha: Level, sigma: Level, prediction: PredictionType
) -> Latent:
    """Training target: eps, x_0, v = alpha eps - sigma x_0, or flow = eps - x_0.

    Source: Ho et al. 2020, eq. 14; Salimans and Ho 2022 (progressive distillation), section 4;
        Liu et al. 2023 (Rectified flow), eq. 1, with time towards the noise.
    Differs: none.
    """
    if prediction == "epsilon":
        return eps
    if prediction == "x0":
        return x0
    if prediction == "v":
        return alpha * eps - sigma * x0
    return eps - x0


def split_prediction(
    output: Latent, x: Latent, alpha: Level, sigma: Level, prediction: PredictionType
) -> tuple[Latent, Latent]:
    """Splits a network's output at x = alpha x_0 + sigma eps, sigma > 0, into (x_0, eps).

    The two equations of x and of the output are solved for x_0 and eps, so any prediction goes
    with any schedule; only an epsilon in pure noise (alpha = 0) says nothing of the image.

    Source: Salimans and Ho 2022 (progressive distillation), section 4.
    Differs: also where alpha^2 + sigma^2 is not 1.
    """
    if prediction == "epsilon":
        return (x - sigma * output) / alpha, output
    if prediction == "x0":
        return output, (x - alpha * output) / sigma
    if prediction == "v":
        power = alpha**2 + sigma**2
        return (alpha * x - sigma * output) / power, (alpha * output + sigma * x) / power
    total = alpha + sigma
    return (x - sigma * output) / total, (x + alpha * output) / total


def check_prediction(name: str) -> PredictionType:
    """Checks that ``name`` is a ``PredictionType``.

    Raises:
        ConfigError: it is not.
    """
    for known in get_args(PredictionType):
        if name == known:
            return known
    raise ConfigError(
        f"process.prediction_type={name} is unknown; choose {', '.join(get_args(PredictionType))}."
    )
