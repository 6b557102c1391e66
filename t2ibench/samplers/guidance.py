"""Classifier-free guidance, one batch for both branches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def guided(
    predict_both: Callable[[Tensor], Float[Tensor, "B2 ..."]],
    predict_conditional: Callable[[Tensor], Float[Tensor, "B ..."]],
    guidance_scale: float,
) -> Callable[[Tensor], Float[Tensor, "B ..."]]:
    """p(x) = u + w (c - u), with c and u from one forward of 2B rows.

    Args:
        predict_both: of x repeated twice (2B rows): conditional rows first, then unconditional.
        predict_conditional: of x; used alone where w = 1, which costs half.
        guidance_scale: w; 1 is no guidance, 0 is unconditional.

    Source: Ho and Salimans 2022 (classifier-free guidance), eq. 6, with w = 1 + their w.
    Differs: none.
    """
    if guidance_scale == 1:
        return predict_conditional

    def predict(x: Tensor) -> Tensor:
        conditional, unconditional = predict_both(torch.cat([x, x])).chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    return predict
