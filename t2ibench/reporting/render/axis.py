"""Axes of charts: limits with a margin, round ticks in few characters, the same in SVG and PDF."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A mapping from values to places on the drawing, with its ticks.

    Attributes:
        low: lowest value.
        high: highest value.
        start: place of ``low``.
        end: place of ``high``.
        log: logarithmic.
        whole: whether only whole numbers are ticks.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool
    whole: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value, held inside the axis."""
        if self.log:
            share = math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside the axis: decades (and 2, 5 where few) or 1-2-5 steps."""
        if not self.log:
            found = linear_ticks(self.low, self.high)
            return [tick for tick in found if tick.is_integer()] if self.whole else found
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
            found = [d * 10.0**e for e in decades for d in digits]
            inside = [v for v in found if self.low <= v * 1.0000001 and v <= self.high * 1.0000001]
            if len(inside) >= 3:
                break
        step = -(-len(inside) // 5)
        return inside[::step]


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside [low, high]."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def axis(values: Iterable[float], start: float, end: float, log: bool, whole: bool = False) -> Axis:
    """An axis that holds all finite values with a margin of 6%."""
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(finite), max(finite)) if finite else (1.0, 2.0)
    if log:
        if high / low < 1.5:
            low, high = low / 1.5, high * 1.5
        margin = (high / low) ** 0.06
        return Axis(low / margin, high * margin, start, end, True)
    if high - low < 1e-9 * max(abs(high), 1.0):
        low, high = low - 0.5, high + 0.5
    margin = 0.06 * (high - low)
    floor = low - margin if low < 0 or low - margin > 0 else 0.0
    return Axis(floor, high + margin, start, end, False, whole)


def tick_text(value: float) -> str:
    """A tick's value in few characters: ``20k``, ``1e16``."""
    if value == 0:
        return "0"
    size = abs(value)
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= scale and (unit != "k" or size >= 1e4):
            if size >= 1e15:
                return f"1e{round(math.log10(size))}" if _is_decade(size) else f"{value:.0e}"
            return f"{value / scale:.4g}{unit}"
    if size < 0.001:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.4g}"


def _is_decade(value: float) -> bool:
    exponent = math.log10(value)
    return abs(exponent - round(exponent)) < 1e-6
