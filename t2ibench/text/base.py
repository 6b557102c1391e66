"""The contract of a text encoder: captions in, ``TextFeatures`` out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn

from t2ibench.core.types import TextFeatures


class TextEncoder(nn.Module, ABC):
    """One text encoder, the same object for every family.

    What a caption is encoded to depends on that caption alone, never on the batch.

    Attributes:
        width: D of tokens and pooled vectors.
        max_length: most tokens of a caption; longer ones are cut, the end token kept.
        trainable: True where it is trained with the generator; a frozen encoder's weights
            are not in its state dict.
    """

    width: int
    max_length: int
    trainable: bool

    @abstractmethod
    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Features of B captions, padded to the longest, on the encoder's device."""

    @abstractmethod
    def null(self, count: int) -> TextFeatures:
        """The unconditional input of classifier-free guidance, ``count`` times."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Content hash: weights and tokeniser of a frozen encoder, layout of a trained one."""
