"""Interfaces of the evaluator's parts: dual encoders, a grader, a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from t2ibench.core.types import PixelImages


@runtime_checkable
class ImageTextEncoder(Protocol):
    """An image tower and a caption tower with one space (``metrics.dual_encoder``, CLIP)."""

    @property
    def key(self) -> str:
        """The encoder's part of a score's key."""

    @property
    def fingerprint(self) -> str:
        """Content hash of the weights."""

    @property
    def context_length(self) -> int:
        """Longest caption, in the tokens of ``caption_lengths``; what is longer is cut."""

    @property
    def kernel_distance_name(self) -> str:
        """``cmmd`` for the network that CMMD is defined with, else ``cmmd-style``."""

    def caption_lengths(self, captions: Sequence[str]) -> list[int]:
        """Length of each caption before any cut, in tokens."""

    def image_features(self, pixels: PixelImages) -> Tensor:
        """Embeds (B, 3, H, W) uint8 images as (B, D)."""

    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Embeds B captions as (B, D)."""


@runtime_checkable
class ExactGrader(Protocol):
    """An exact grader with its parser (``metrics.grader`` bound to a world)."""

    key: str

    def grade(
        self, pixels: PixelImages, captions: Sequence[str]
    ) -> Mapping[str, Float[np.ndarray, " B"]]:
        """Grades by skill, one number an image; NaN where the caption asks for no such skill."""

    def objects(self, captions: Sequence[str]) -> Sequence[int]:
        """Number of objects that each caption asks for."""


@runtime_checkable
class FeatureCache(Protocol):
    """A content-addressed store of arrays (``data.cache.ArrayCache``)."""

    def get_or_build(self, key: str, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The arrays kept under ``key``, built and kept at first use."""
