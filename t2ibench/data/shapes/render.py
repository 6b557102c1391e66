"""Rendering of a scene, with nothing random left to decide."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8

from t2ibench.data.shapes.masks import shape_patch
from t2ibench.data.shapes.world import BACKGROUNDS, COLOURS, Backdrop, Scene

Canvas = Float[np.ndarray, "3 H W"]


def render(scene: Scene, resolution: int) -> UInt8[np.ndarray, "3 H W"]:
    """Draws a scene: ``canvas + coverage * (colour - canvas)`` object by object.

    Args:
        scene: what to draw.
        resolution: side of the image in pixels.

    Returns:
        (3, H, W) uint8.
    """
    canvas = _backdrop(scene.backdrop, resolution)
    for item in scene.objects:
        rows, columns, coverage = shape_patch(
            item.shape,
            item.x * resolution,
            item.y * resolution,
            item.radius * resolution,
            resolution,
        )
        below = canvas[:, rows, columns]
        colour = np.array(COLOURS[item.colour])[:, None, None]
        canvas[:, rows, columns] = below + coverage * (colour - below)
    return np.rint(canvas.clip(0, 1) * 255).astype(np.uint8)


def _backdrop(backdrop: Backdrop, resolution: int) -> Canvas:
    """The background in unit RGB: flat, a ramp into the gamut, or smooth waves."""
    base = np.array(BACKGROUNDS[backdrop.colour])[:, None, None]
    canvas = np.broadcast_to(base, (3, resolution, resolution)).copy()
    if backdrop.style == "gradient":
        canvas += _ramp(backdrop, resolution)
    elif backdrop.style == "texture":
        canvas += _waves(backdrop, resolution)
    return canvas


def _ramp(backdrop: Backdrop, resolution: int) -> Float[np.ndarray, "H W"]:
    """A linear ramp of the wanted amplitude, shifted so that it stays inside [0, 1].

    White ramps run downwards, black ramps upwards, grey ramps both ways.
    """
    x, y = _frame(resolution)
    along = x * math.cos(backdrop.angle) + y * math.sin(backdrop.angle)
    reach = abs(math.cos(backdrop.angle)) + abs(math.sin(backdrop.angle))
    shift = {"white": -0.5, "grey": 0.0, "black": 0.5}[backdrop.colour]
    return backdrop.amplitude * (along / reach + shift)


def _waves(backdrop: Backdrop, resolution: int) -> Float[np.ndarray, "H W"]:
    """A sum of slow plane waves with standard deviation ``amplitude``, shifted into the gamut."""
    x, y = _frame(resolution)
    waves = np.zeros((resolution, resolution))
    parameters = np.array(backdrop.phases).reshape(-1, 4)
    for fx, fy, phase, weight in parameters:
        cycles = 3 * (fx - 0.5) * x + 3 * (fy - 0.5) * y + phase
        waves += (0.5 + weight) * np.cos(2 * math.pi * cycles)
    waves *= backdrop.amplitude / max(float(waves.std()), 1e-6)
    shift = {"white": -2.0, "grey": 0.0, "black": 2.0}[backdrop.colour] * backdrop.amplitude
    return waves - waves.mean() + shift


@lru_cache(maxsize=8)
def _frame(resolution: int) -> tuple[Float[np.ndarray, "1 W"], Float[np.ndarray, "H 1"]]:
    """Pixel centres in [-0.5, 0.5]."""
    centres = (np.arange(resolution) + 0.5) / resolution - 0.5
    return centres[None, :], centres[:, None]
