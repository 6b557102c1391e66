"""The text encoder of DAMSM: a bidirectional LSTM over words, without special tokens.

Xu et al. 2018, "AttnGAN", section 3.2. It is trained with an image encoder (``families/damsm.py``)
and frozen afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from t2ibench.core.errors import ConfigError
from t2ibench.core.hashing import hash_json, hash_tensors
from t2ibench.core.types import TextFeatures
from t2ibench.text.contract import TextEncoder, TokenReport, repeat_features
from t2ibench.text.word import split_words

END = 0
"""Token that pads, and stands alone for a caption without a known word."""

EMBEDDING_RANGE = 0.1
"""Word vectors begin uniformly in plus and minus this."""


class DAMSMText(TextEncoder):
    """Words to vectors by a bidirectional LSTM; the sentence is the two last states side by side.

    Args:
        vocabulary: the words in order; their ids begin at 1.
        width: D, even: each direction has D / 2.
        embedding_width: width of the word vectors.
        max_length: most words of a caption; of longer ones the first are kept.
        dropout: share of the word vectors' values zeroed in training.

    Raises:
        ConfigError: an odd width, no word, words that repeat, or a ``max_length`` below 2.

    Source: Xu et al. 2018 (AttnGAN), section 3.2; sizes and initial word vectors of the authors'
        code.
    Differs: a caption without a known word is its end token; letters outside of ASCII are kept.
    """

    trainable = False

    def __init__(
        self,
        *,
        vocabulary: Sequence[str],
        width: int,
        embedding_width: int,
        max_length: int,
        dropout: float,
    ) -> None:
        super().__init__()
        key = "parts.damsm.network"
        if width % 2:
            raise ConfigError(f"{key}.width={width} must be even for a bidirectional LSTM.")
        if max_length < 2:
            raise ConfigError(f"{key}.max_length={max_length} must be at least 2.")
        if not vocabulary or len(set(vocabulary)) != len(vocabulary):
            raise ConfigError(
                f"DAMSM needs a vocabulary of distinct words, got {len(vocabulary)} with "
                f"{len(set(vocabulary))} distinct."
            )
        self.vocabulary = list(vocabulary)
        self.width = width
        self.max_length = max_length
        self._ids = {word: i + 1 for i, word in enumerate(vocabulary)}
        self.embedding = nn.Embedding(len(vocabulary) + 1, embedding_width)
        nn.init.uniform_(self.embedding.weight, -EMBEDDING_RANGE, EMBEDDING_RANGE)
        self.drop = nn.Dropout(dropout)
        self.lstm = nn.LSTM(embedding_width, width // 2, batch_first=True, bidirectional=True)

    def known(self, caption: str) -> list[str]:
        """The words of a caption that the vocabulary has, all of them."""
        return [word for word in split_words(caption) if word in self._ids]

    def ids(
        self, captions: Sequence[str], rng: np.random.Generator | None = None
    ) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Ids and mask on the CPU, padded to the longest caption.

        Args:
            captions: B captions.
            rng: where it is given, captions that are too long keep random words in their order, as
                the authors train; else their first.
        """
        rows = []
        for caption in captions:
            words = self.known(caption)
            if rng is not None and len(words) > self.max_length:
                kept = np.sort(rng.choice(len(words), self.max_length, replace=False))
                words = [words[i] for i in kept]
            rows.append([self._ids[word] for word in words[: self.max_length]] or [END])
        length = max(map(len, rows))
        lengths = torch.tensor([len(row) for row in rows], device="cpu")
        ids = torch.tensor([row + [END] * (length - len(row)) for row in rows], device="cpu")
        return ids, torch.arange(length, device="cpu") < lengths[:, None]

    def forward(self, ids: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> TextFeatures:
        """Features of ids; ``mask`` is on the CPU, so that nothing waits for a GPU."""
        device = self.embedding.weight.device
        x = self.drop(self.embedding(ids.to(device)))
        if x.is_meta:  # of shapes alone: packing reads lengths
            tokens, (last, _) = self.lstm(x)
        else:
            packed = pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
            states, (last, _) = self.lstm(packed)
            tokens, _ = pad_packed_sequence(states, batch_first=True, total_length=ids.shape[1])
        return TextFeatures(tokens, mask.to(device), torch.cat([last[0], last[1]], dim=1))

    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Encodes captions, see ``TextEncoder``."""
        return self(*self.ids(captions))

    def null(self, count: int) -> TextFeatures:
        """The empty caption."""
        return repeat_features(self.encode([""]), count)

    @property
    def fingerprint(self) -> str:
        """Content hash of weights and vocabulary."""
        weights = hash_tensors(self.state_dict().items())
        return hash_json([weights, self.vocabulary, self.max_length])

    def token_report(self, captions: Sequence[str]) -> TokenReport:
        """Counts captions that are too long and words that are unknown."""
        words = [split_words(caption) for caption in captions]
        known = [[word for word in row if word in self._ids] for row in words]
        total = max(1, sum(map(len, words)))
        unknown = [word for row in words for word in row if word not in self._ids]
        return TokenReport(
            captions=len(captions),
            longest=max(map(len, known), default=0),
            truncated=tuple(i for i, row in enumerate(known) if len(row) > self.max_length),
            unknown=len(unknown) / total,
            lost=sum(max(0, len(row) - self.max_length) for row in known) / total,
            unknown_words=tuple(sorted(set(unknown), key=unknown.index)[:5]),
            unread=tuple(i for i, row in enumerate(known) if not row),
        )

    def token_words(self, caption: str) -> list[str]:
        """The words that are encoded."""
        return self.known(caption)[: self.max_length] or ["(end)"]
