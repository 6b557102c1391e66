"""Numbers as people read them: counts, FLOPs, seconds, shares, p-values."""

from __future__ import annotations

import math

NOTHING = "–"
"""What is printed where there is no value."""


def count_text(value: float | None) -> str:
    """1234567 as ``1.23 M``; None as a dash."""
    if value is None or math.isnan(value):
        return NOTHING
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def flops_text(value: float | None) -> str:
    """FLOPs as ``3.20e12``; None and 0 as a dash."""
    if not value:
        return NOTHING
    exponent = math.floor(math.log10(value))
    return f"{value / 10**exponent:.2f}e{exponent}"


def seconds_text(value: float | None) -> str:
    """Seconds with a fitting unit: ms, s, min or h; None as a dash."""
    if value is None or math.isnan(value):
        return NOTHING
    if value < 1:
        return f"{value * 1000:.3g} ms"
    if value < 120:
        return f"{value:.3g} s"
    return f"{value / 60:.3g} min" if value < 7200 else f"{value / 3600:.3g} h"


def share_text(share: float | None) -> str:
    """A share as ``26 %``; None as a dash."""
    return NOTHING if share is None else f"{100 * share:.0f} %"


def p_text(p_value: float) -> str:
    """``< 0.001`` or three decimals."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
