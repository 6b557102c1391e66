"""Autoregressive sampling: pure functions of a callable that gives next-token logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from t2ibench.core.noise import Noise

NextLogits = Callable[[Int[Tensor, " B"] | None, int], Float[Tensor, "B V"]]
"""Function (token just drawn, or None at the start; its successor's position) -> logits."""


def filter_logits(
    logits: Float[Tensor, "B V"], top_k: int = 0, top_p: float = 1.0
) -> Float[Tensor, "B V"]:
    """Keeps the ``top_k`` largest logits and the smallest set of probability ``top_p``.

    Args:
        logits: (B, V).
        top_k: 0 keeps all.
        top_p: 1 keeps all; the most likely token is always kept.

    Returns:
        The logits with -inf where a token is left out.

    Source: Fan et al. 2018, section 5.4 (top-k); Holtzman et al. 2020, section 3.1 (nucleus).
    Differs: none.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, 2.0]])
        >>> filter_logits(logits, top_k=2).tolist()
        [[3.0, -inf, 2.0]]
    """
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        mass = ordered.softmax(-1).cumsum(-1)
        outside = mass - ordered.softmax(-1) >= top_p
        outside[:, 0] = False
        drop = torch.zeros_like(outside).scatter(1, order, outside)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits


def draw_token(
    logits: Float[Tensor, "B V"], uniform: Float[Tensor, " B"], greedy: bool = False
) -> Int[Tensor, " B"]:
    """Draws a token: the inverse distribution function of softmax at ``uniform``, or the mode.

    Args:
        logits: (B, V), -inf where a token is left out.
        uniform: (B,) in [0, 1).
        greedy: take the most likely token instead.

    Source: Devroye 1986 (Non-uniform random variate generation), section III.2.
    Differs: none.
    """
    if greedy:
        return logits.argmax(-1)
    cumulative = logits.float().softmax(-1).double().cumsum(-1)
    threshold = uniform.double()[:, None] * cumulative[:, -1:]
    return (cumulative <= threshold).sum(-1).clamp(max=logits.shape[-1] - 1)


def guided_logits(
    conditional: Float[Tensor, "B V"],
    unconditional: Float[Tensor, "B V"],
    guidance_scale: float,
) -> Float[Tensor, "B V"]:
    """The logits u + w (c - u); w = 1 is no guidance.

    Source: Yu et al. 2022 (Parti), section 3.1, after Ho and Salimans 2022, eq. 6.
    Differs: none.
    """
    return unconditional + guidance_scale * (conditional - unconditional)


def sample_tokens(
    next_logits: NextLogits,
    length: int,
    noise: Noise,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
) -> Int[Tensor, "B N"]:
    """Draws ``length`` tokens one after the other, one evaluation a token.

    Args:
        next_logits: see ``NextLogits``; it keeps the cache of keys and values.
        length: N.
        noise: gives one uniform number a token, drawn at once.
        temperature: the logits are divided by it; 0 takes the most likely token.
        top_k: see ``filter_logits``.
        top_p: see ``filter_logits``.

    Source: Esser et al. 2021 (VQGAN), section 3.2.
    Differs: none.
    """
    uniform = noise.uniform(length)
    tokens: list[Tensor] = []
    for position in range(length):
        logits = next_logits(tokens[-1] if tokens else None, position)
        if temperature > 0:
            logits = filter_logits(logits.float() / temperature, top_k, top_p)
        tokens.append(draw_token(logits, uniform[:, position], greedy=temperature == 0))
    return torch.stack(tokens, dim=1)
