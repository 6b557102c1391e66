"""Classifier-free guidance, one batch for both branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Predict = Callable[[Tensor, Any], Float[Tensor, "B ..."]]
"""(x, t) -> the network's prediction."""


def guided(predict: Predict, guidance_scale: float) -> Predict:
    """U + w (c - u), with c and u from one evaluation of 2B rows.

    Args:
        predict: knows the prompts' features: where w is not 1, those of the B prompts followed
            by B unconditional ones, and it is then called with x twice, (2B, ...); at w = 1
            those of the B prompts alone.
        guidance_scale: w; 1 is no guidance and costs half, 0 is unconditional.

    Source: Ho and Salimans 2022 (classifier-free guidance), eq. 6, with w = 1 + their w.
    Differs: none.
    """
    if guidance_scale == 1:
        return predict

    def both(x: Tensor, t: Any) -> Tensor:
        conditional, unconditional = predict(torch.cat([x, x]), t).chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    return both
