"""Masked sampling: pure functions of a callable that gives the logits of all codes at once.

Everything begins masked; each step draws all masked codes together, keeps the most certain and
masks the rest again, so that a few evaluations write a whole image (Chang et al. 2022, MaskGIT).
Codes that are known from the start are never drawn, which is inpainting.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import Noise

MASKED = -1
"""Code of a position that is not known yet."""

LEAST_RATE = 1e-6
"""Least mask rate; released code of MaskGIT."""

LEAST_UNIFORM = 1e-20
"""Least uniform number of which a logarithm is taken."""

MaskSchedule = Literal[
    "cosine",
    "linear",
    "square",
    "cubic",
    "square_root",
    "logarithmic",
    "exponential",
    "arccos",
]

POWERS = {"linear": 1.0, "square": 2.0, "cubic": 3.0, "square_root": 0.5}
"""Exponents of the schedules 1 - r^p."""

LogitsOfAll = Callable[[Int[Tensor, "B N"], int], Float[Tensor, "B N V"]]
"""Function (codes with ``MASKED`` where not known, number of the step) -> logits of all codes."""


def mask_rate(
    ratio: Float[Tensor, "*B"], schedule: MaskSchedule, length: int
) -> Float[Tensor, "*B"]:
    """Share of the codes that are masked at ``ratio`` of the way: 1 at 0, nearly 0 at 1.

    With r the ratio and N the length: ``cosine`` cos(pi r / 2), ``linear`` 1 - r, ``square``
    1 - r^2, ``cubic`` 1 - r^3, ``square_root`` 1 - r^(1/2), ``logarithmic`` -log2(r) / log2(N),
    ``exponential`` 1 - N^(r - 1), ``arccos`` 2 arccos(r) / pi; clipped to [1e-6, 1].

    Of a uniform ratio, ``cosine`` has the density 2 / pi (1 - x^2)^(-1/2), truncated to [0, 1]: the
    one from which Muse draws its rates in training, with mean 2 / pi = 0.64.

    Args:
        ratio: in [0, 1].
        schedule: one of ``MaskSchedule``.
        length: N, at least 2 where the schedule depends on it.

    Raises:
        ConfigError: the schedule is none of them.

    Source: Chang et al. 2022 (MaskGIT), section 3.3 and appendix A, authors' code for the limits;
        Chang et al. 2023 (Muse), section 2.6, for the density; ``arccos`` of Besnier et al. 2025
        (Halton scheduler), section 4.
    Differs: none.

    Example:
        >>> mask_rate(torch.tensor([0.0, 0.5, 1.0]), "square", 64).tolist()
        [1.0, 0.75, 9.999999974752427e-07]
    """
    if schedule == "cosine":
        rate = (ratio * (math.pi / 2)).cos()
    elif schedule in POWERS:
        rate = 1 - ratio ** POWERS[schedule]
    elif schedule == "logarithmic":
        rate = -ratio.log2() / math.log2(length)
    elif schedule == "exponential":
        rate = 1 - torch.exp2((ratio - 1) * math.log2(length))
    elif schedule == "arccos":
        rate = ratio.arccos() * (2 / math.pi)
    else:
        raise ConfigError(
            f"mask schedule {schedule} is unknown; choose {', '.join(get_args(MaskSchedule))}."
        )
    return rate.clamp(LEAST_RATE, 1)


def random_masks(rates: Float[Tensor, " B"], uniform: Float[Tensor, "B N"]) -> Bool[Tensor, "B N"]:
    """Masks of ceil(rate N) positions, those of the least uniform numbers.

    Args:
        rates: (B,) in [0, 1].
        uniform: (B, N), in [0, 1).

    Source: Chang et al. 2022 (MaskGIT), section 3.1.
    Differs: none.
    """
    count = (rates * uniform.shape[1]).ceil()
    return uniform.argsort(1).argsort(1) < count[:, None]


def gumbel(uniform: Float[Tensor, "*M"]) -> Float[Tensor, "*M"]:
    """Gumbel noise -log(-log(u)) of uniform numbers.

    Source: Gumbel 1954 (Statistical theory of extreme values), lecture 2.
    Differs: none.
    """
    return -(-uniform.clamp(min=LEAST_UNIFORM).log()).clamp(min=LEAST_UNIFORM).log()


def draw_codes(
    logits: Float[Tensor, "B N V"], uniform: Float[Tensor, "B N"], temperature: float
) -> tuple[Int[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Draws every code by itself; also gives the logarithm of the probability that it had.

    Args:
        logits: (B, N, V).
        uniform: (B, N) in [0, 1), at which each distribution function is inverted.
        temperature: the logits are divided by it; 0 takes the most likely code.

    Source: Chang et al. 2022 (MaskGIT), section 3.2, step 2.
    Differs: one uniform number a code in place of one a code and vocabulary entry.
    """
    logits = logits.float() / temperature if temperature > 0 else logits.float()
    log_probabilities = logits.log_softmax(-1)
    if temperature > 0:
        cumulative = log_probabilities.exp().cumsum(-1)
        threshold = uniform.unsqueeze(-1) * cumulative[..., -1:]
        codes = torch.searchsorted(cumulative, threshold, right=True)
        codes = codes.clamp(max=logits.shape[-1] - 1)
    else:
        codes = logits.argmax(-1, keepdim=True)
    return codes.squeeze(-1), log_probabilities.gather(-1, codes).squeeze(-1)


def number_masked(
    rate: float, at_start: Int[Tensor, " B"], now: Int[Tensor, " B"]
) -> Int[Tensor, " B"]:
    """Number of codes that stay masked: floor(rate x at_start), within [1, now - 1].

    Each step then keeps at least one code and leaves at least one to the next.

    Args:
        rate: of ``mask_rate``, at the end of the step.
        at_start: (B,) number of codes that were masked at the start.
        now: (B,) number of codes that are masked before the step.

    Source: Chang et al. 2022 (MaskGIT), section 3.2, step 3; authors' code for the limits.
    Differs: none.
    """
    return (at_start.double() * rate).floor().long().minimum(now - 1).clamp(min=1)


def least_confident(
    confidence: Float[Tensor, "B N"], count: Int[Tensor, " B"]
) -> Bool[Tensor, "B N"]:
    """True at the ``count`` positions of least confidence; fewer where several tie at the limit.

    Source: Chang et al. 2022 (MaskGIT), section 3.2, step 4; authors' code for ties.
    Differs: none.
    """
    ordered = confidence.sort(1).values
    limit = ordered.gather(1, count.clamp(max=confidence.shape[1] - 1)[:, None])
    return confidence < limit


def rising_scale(guidance_scale: float, ratio: float) -> float:
    """Guidance scale at ``ratio`` of the way: 1 + ratio (w - 1), from none to all of it.

    Early codes are then drawn more freely, and the last ones follow the prompt.

    Source: Chang et al. 2023 (Muse), section 2.7.
    Differs: the ends are not published; w is reached in the last step.
    """
    return 1 + ratio * (guidance_scale - 1)


@lru_cache(maxsize=32)
def halton_ranks(height: int, width: int) -> Int[Tensor, " N"]:
    """Rank of each position of a grid in the Halton sequence, in raster order: 0 comes first.

    The k-th point, k = 1, 2..., lies in row floor(h v_2(k)) and column floor(w v_3(k)), with v_b
    the digits of k in base b mirrored at the point; each position counts where it is met first.

    Args:
        height: h.
        width: w.

    Source: Besnier et al. 2025 (Halton scheduler for masked generative image transformers),
        section 4; Halton 1960 for the sequence.
    Differs: as many points as it takes to meet every position, not 10,000.

    Example:
        >>> halton_ranks(2, 3).tolist()
        [5, 3, 1, 2, 0, 4]
    """
    # A side of 1 / h holds an aligned interval of base 2 that is longer than 1 / 4 h, one of 1 / w
    # an interval of base 3 that is longer than 1 / 6 w: so many points meet all positions.
    index = torch.arange(1, 24 * height * width + 1, device="cpu")
    rows = (radical_inverse(index, 2) * height).long()
    columns = (radical_inverse(index, 3) * width).long()
    first = torch.full((height * width,), len(index), device="cpu")
    first.scatter_reduce_(0, rows * width + columns, index, "amin")
    return first.argsort().argsort()


def radical_inverse(index: Int[Tensor, " M"], base: int) -> Float[Tensor, " M"]:
    """Digits of each number in a base, mirrored at the point: van der Corput's sequence.

    Source: van der Corput 1935.
    Differs: none.

    Example:
        >>> radical_inverse(torch.tensor([1, 2, 3]), 2).tolist()
        [0.5, 0.25, 0.75]
    """
    found, scale, left = torch.zeros_like(index, dtype=torch.float64), 1.0, index
    while left.any():
        scale /= base
        found += scale * (left % base)
        left = left // base
    return found


def sample_masked(
    logits_of: LogitsOfAll,
    codes: Int[Tensor, "B N"],
    noise: Noise,
    *,
    num_steps: int,
    schedule: MaskSchedule,
    temperature: float,
    choice_temperature: float,
    ranks: Int[Tensor, " N"] | None = None,
) -> Int[Tensor, "B N"]:
    """Draws all masked codes in ``num_steps`` evaluations.

    A step draws every masked code; its confidence is log p of what was drawn + choice_temperature
    (1 - r) Gumbel noise, with r the share of the steps done; the least confident are masked again.
    The last step keeps all.

    Args:
        logits_of: see ``LogitsOfAll``.
        codes: (B, N), ``MASKED`` where a code is drawn; the others are kept.
        noise: gives two uniform numbers a position and step.
        num_steps: T.
        schedule: of ``mask_rate``.
        temperature: the logits are divided by it; 0 takes the most likely codes.
        choice_temperature: weight of the Gumbel noise at the start; 0 is none.
        ranks: (N,) order in which positions are kept, the least first, in place of confidence.

    Source: Chang et al. 2022 (MaskGIT), section 3.2, and authors' code; Besnier et al. 2025 (Halton
        scheduler), section 4, for ``ranks``.
    Differs: by ``ranks``, the number kept is rounded as by confidence, and kept codes stay.
    """
    masked = codes == MASKED
    at_start = masked.sum(1)
    ratios = torch.arange(1, num_steps + 1, dtype=torch.float64, device="cpu") / num_steps
    rates = mask_rate(ratios, schedule, max(2, codes.shape[1])).tolist()
    for step, rate in enumerate(rates):
        uniform = noise.uniform(2, codes.shape[1])
        drawn, log_probability = draw_codes(logits_of(codes, step), uniform[:, 0], temperature)
        codes = torch.where(masked, drawn, codes)
        if step + 1 == num_steps:
            break
        if ranks is None:
            weight = choice_temperature * (1 - (step + 1) / num_steps)
            confidence = log_probability + weight * gumbel(uniform[:, 1])
        else:
            confidence = -ranks.to(log_probability).expand_as(log_probability)
        confidence = confidence.masked_fill(~masked, torch.inf)
        masked = least_confident(confidence, number_masked(rate, at_start, masked.sum(1)))
        codes = codes.masked_fill(masked, MASKED)
    return codes
