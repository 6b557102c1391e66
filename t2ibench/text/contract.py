"""The contract of a text encoder: captions in, ``TextFeatures`` out."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenReport:
    """Losses of tokenising a set of captions.

    Attributes:
        captions: how many there are.
        longest: tokens of the longest caption before it was cut, special tokens included.
        truncated: positions of the captions that lost tokens to ``max_length``.
        unknown: share of tokens, special ones left out, that the tokeniser does not know.
        lost: share of tokens, special ones left out, that are cut off.
        unknown_words: the most frequent of the unknown words, where the tokeniser has words.
        unread: positions of the captions of which no word is known; of word tokenisers alone.
    """

    captions: int
    longest: int
    truncated: tuple[int, ...]
    unknown: float
    lost: float = 0.0
    unknown_words: tuple[str, ...] = ()
    unread: tuple[int, ...] = ()

    @staticmethod
    def of_lengths(
        lengths: Sequence[int], special: int, max_length: int, unknown: int, **words: Any
    ) -> TokenReport:
        """A report from the captions' lengths.

        Args:
            lengths: tokens of each caption before any cut, special ones included.
            special: how many special tokens each caption has; a cut keeps them.
            max_length: most tokens that are kept.
            unknown: how many of all tokens the tokeniser does not know.
            words: ``unknown_words`` and ``unread``.

        Example:
            >>> TokenReport.of_lengths([3, 12], special=2, max_length=7, unknown=0).lost
            0.45454545454545453
        """
        own = max(1, sum(lengths) - special * len(lengths))
        return TokenReport(
            captions=len(lengths),
            longest=max(lengths, default=0),
            truncated=tuple(i for i, n in enumerate(lengths) if n > max_length),
            unknown=unknown / own,
            lost=sum(max(0, n - max_length) for n in lengths) / own,
            **words,
        )

    def losses(self, max_length: int) -> str:
        """One sentence of what the encoder never sees; empty where nothing is lost.

        Args:
            max_length: the encoder's.

        Example:
            >>> TokenReport(captions=10, longest=31, truncated=(2, 7), unknown=0.0).losses(24)
            '2 of 10 captions are cut at 24 tokens (the longest has 31)'
            >>> TokenReport(captions=10, longest=9, truncated=(), unknown=0.0).losses(24)
            ''
        """
        found = []
        if self.truncated:
            share = f", {100 * self.lost:.3g}% of all tokens are never seen" if self.lost else ""
            found.append(
                f"{len(self.truncated)} of {self.captions} captions are cut at {max_length} tokens "
                f"(the longest has {self.longest}{share})"
            )
        if self.unknown:
            words = f" ({', '.join(self.unknown_words)}, …)" if self.unknown_words else ""
            found.append(f"{100 * self.unknown:.3g}% of the tokens are unknown words{words}")
        if self.unread:
            found.append(f"of {len(self.unread)} captions no word is known")
        return " and ".join(found)


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
        word_tokens: whether ``tokens`` has a vector for each word or piece of a caption; False
            where it repeats the caption's only one.
    """

    width: int
    max_length: int
    trainable: bool
    needs_vocabulary: ClassVar[bool] = False
    cacheable: ClassVar[bool] = False
    word_tokens: bool = True

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
        """Counts the captions that are too long and the words that are unknown."""

    def token_words(self, caption: str) -> list[str]:
        """Name of each of a caption's real tokens in a figure; numbers by default."""
        return [str(i + 1) for i in range(int(self.encode([caption]).mask.sum()))]


def check_word_tokens(encoder: TextEncoder | type[TextEncoder], reader: str) -> None:
    """Refuses an encoder without a vector for each token, for a network that attends to them.

    Raises:
        ConfigError: it gives captions alone a vector.
    """
    if not encoder.word_tokens:
        cls = encoder if isinstance(encoder, type) else type(encoder)
        raise ConfigError(
            f"text: {cls.__name__} gives one vector a caption and none a word, and {reader} "
            "attends to words; choose an encoder of words (text=damsm, text=word_lstm), or "
            "conditioning=concat or modulation."
        )


def losses_of(encoder: TextEncoder, captions: Sequence[str]) -> str:
    """A sentence on captions that the encoder cuts and on words that it does not know, or empty."""
    report = encoder.token_report(captions)
    losses = report.losses(encoder.max_length)
    if report.truncated:
        losses += f"; text.encoder.max_length={report.longest} keeps all where the encoder has room"
    return losses


def warn_of_losses(encoder: TextEncoder, losses: str, where: str) -> None:
    """Warns of what the encoder loses of some captions.

    Args:
        encoder: encodes the captions.
        losses: what ``losses_of`` says of them; empty: no warning.
        where: name of the captions (``val``).
    """
    if losses:
        log.warning("%s, text encoder %s: %s", where, type(encoder).__name__, losses)


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
