"""The contract of a text encoder: captions in, ``TextFeatures`` out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from t2ibench.core.types import TextFeatures


@dataclass(frozen=True)
class TokenReport:
    """What tokenisation did to a set of captions.

    Attributes:
        captions: how many there are.
        longest: tokens of the longest caption before it was cut, special tokens included.
        truncated: positions of the captions that lost tokens to ``max_length``.
        unknown: share of tokens, special ones left out, that the tokeniser does not know.
    """

    captions: int
    longest: int
    truncated: tuple[int, ...]
    unknown: float


class TextEncoder(nn.Module, ABC):
    """One text encoder, the same object for every family.

    What a caption is encoded to depends on that caption alone, never on the batch: other
    captions change L, and the vectors after a caption's last real token are zero.

    Attributes:
        width: D of tokens and pooled vectors.
        max_length: most tokens of a caption; longer ones are cut, the end token kept.
        trainable: True where it is trained with the generator; a frozen encoder's weights
            are not in its state dict.
        needs_vocabulary: whether it is made with the words of the training captions.
        cacheable: whether the features of a caption never change and are all that is needed of
            it, so that a cache can keep them.
    """

    width: int
    max_length: int
    trainable: bool
    needs_vocabulary: ClassVar[bool] = False
    cacheable: ClassVar[bool] = False

    @abstractmethod
    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Features of B captions, padded to the longest, on the encoder's device.

        An empty caption is a valid one; B must be at least 1.
        """

    @abstractmethod
    def null(self, count: int) -> TextFeatures:
        """The unconditional input of classifier-free guidance, ``count`` times."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Content hash: weights and tokeniser of a frozen encoder, layout of a trained one."""

    @abstractmethod
    def token_report(self, captions: Sequence[str]) -> TokenReport:
        """Which captions are too long, and how much of their words is unknown."""


def repeat_features(one: TextFeatures, count: int) -> TextFeatures:
    """One caption's features ``count`` times, without copying them."""
    return TextFeatures(
        one.tokens.expand(count, -1, -1), one.mask.expand(count, -1), one.pooled.expand(count, -1)
    )


def clear_padding(
    tokens: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L D"]:
    """Tokens with zeros where the mask is False, as ``pad_to_same_length`` pads."""
    return tokens.masked_fill(~mask.unsqueeze(-1), 0.0)


def mean_of_real_tokens(
    tokens: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"]
) -> Float[Tensor, "B D"]:
    """Mean over the tokens that are not padding; each row has at least one."""
    return clear_padding(tokens, mask).sum(1) / mask.sum(1, keepdim=True)
