"""Word-level text encoders that are trained with the generator."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2ibench.core.errors import ConfigError
from t2ibench.core.hashing import hash_json
from t2ibench.core.types import TextFeatures
from t2ibench.nn.attention import TransformerBlock, masked_mean
from t2ibench.text.base import TextEncoder

PAD, END, UNKNOWN, NULL = 0, 1, 2, 3
SPECIAL = 4
WORD = re.compile(r"[^\W_]+")


def split_words(caption: str) -> list[str]:
    """Lower-case runs of letters and digits; punctuation only separates."""
    return WORD.findall(caption.lower())


def build_vocabulary(
    captions: Iterable[str], min_count: int = 1, max_size: int = 50_000
) -> list[str]:
    """The words of the training captions, most frequent first, ties in alphabetical order.

    Args:
        captions: training captions only; test words stay unknown.
        min_count: rarer words are left out.
        max_size: most words kept.
    """
    counts = Counter(word for caption in captions for word in split_words(caption))
    kept = [word for word, n in counts.items() if n >= min_count]
    return sorted(kept, key=lambda word: (-counts[word], word))[:max_size]


class WordTokenizer:
    """Words to ids: 0 pad, 1 end, 2 unknown, 3 null, then the vocabulary.

    Args:
        vocabulary: the words in order.
        max_length: most tokens of a caption, the end token included.

    Raises:
        ConfigError: an empty or repeating vocabulary, or a max_length below 2.
    """

    def __init__(self, vocabulary: Sequence[str], max_length: int) -> None:
        if not vocabulary or len(set(vocabulary)) != len(vocabulary):
            raise ConfigError(
                f"a word-level text encoder needs a vocabulary of distinct words, got "
                f"{len(vocabulary)} with {len(set(vocabulary))} distinct."
            )
        if max_length < 2:
            raise ConfigError(f"text.encoder.max_length={max_length} must be at least 2.")
        self.vocabulary = list(vocabulary)
        self.max_length = max_length
        self._ids = {word: SPECIAL + i for i, word in enumerate(vocabulary)}
        self._known: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return SPECIAL + len(self.vocabulary)

    def ids(self, caption: str) -> list[int]:
        """Token ids of one caption, cut to ``max_length`` with the end token kept."""
        if caption not in self._known:
            words = split_words(caption)[: self.max_length - 1]
            self._known[caption] = [self._ids.get(w, UNKNOWN) for w in words] + [END]
        return self._known[caption]

    def truncated(self, captions: Iterable[str]) -> int:
        """How many captions lose words to ``max_length``."""
        return sum(len(split_words(c)) > self.max_length - 1 for c in captions)

    def __call__(self, captions: Sequence[str]) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Ids and mask, padded to the longest caption."""
        rows = [self.ids(caption) for caption in captions]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
        return ids, ids != PAD


class WordEncoder(TextEncoder):
    """What the word-level encoders share: tokeniser, embedding, null caption."""

    trainable = True

    def __init__(self, vocabulary: Sequence[str], width: int, max_length: int) -> None:
        super().__init__()
        self.tokenizer = WordTokenizer(vocabulary, max_length)
        self.width = width
        self.max_length = max_length
        self.embedding = nn.Embedding(len(self.tokenizer), width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)

    @abstractmethod
    def contextualise(self, ids: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> TextFeatures:
        """Token ids to features."""

    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """See ``TextEncoder``; an empty caption is its end token alone."""
        ids, mask = self.tokenizer(captions)
        device = self.embedding.weight.device
        return self.contextualise(ids.to(device), mask.to(device))

    def null(self, count: int) -> TextFeatures:
        """A learned null token, encoded like a caption."""
        ids = torch.full((1, 1), NULL, device=self.embedding.weight.device)
        one = self.contextualise(ids, torch.ones_like(ids, dtype=torch.bool))
        return TextFeatures(
            one.tokens.expand(count, -1, -1),
            one.mask.expand(count, -1),
            one.pooled.expand(count, -1),
        )

    @property
    def fingerprint(self) -> str:
        """Hash of layout and vocabulary: the weights are the run's own."""
        return hash_json(
            {
                "encoder": type(self).__name__,
                "width": self.width,
                "max_length": self.max_length,
                "tensors": [[n, list(p.shape)] for n, p in self.named_parameters()],
                "vocabulary": self.tokenizer.vocabulary,
            }
        )


class WordTransformer(WordEncoder):
    """A small bidirectional pre-norm transformer over words.

    Args:
        vocabulary: words of the training captions.
        width: D.
        depth: blocks.
        heads: A.
        max_length: most tokens of a caption.

    Source: Vaswani et al. 2017, section 3, encoder; pre-norm as in Xiong et al. 2020.
    Differs: learned positions; pooled is the mean over real tokens.
    """

    def __init__(
        self, *, vocabulary: Sequence[str], width: int, depth: int, heads: int, max_length: int
    ) -> None:
        super().__init__(vocabulary, width, max_length)
        self.position = nn.Parameter(torch.randn(max_length, width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def contextualise(self, ids: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> TextFeatures:
        """See ``WordEncoder``."""
        x: Float[Tensor, "B L D"] = self.embedding(ids) + self.position[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        return TextFeatures(x, mask, masked_mean(x, mask))


class WordLSTM(WordEncoder):
    """A bidirectional LSTM over words; pooled is the two last states side by side.

    Args:
        vocabulary: words of the training captions.
        width: D, even: each direction has D / 2.
        max_length: most tokens of a caption.

    Raises:
        ConfigError: an odd width.

    Source: Xu et al. 2018 (AttnGAN), section 3.2, text encoder.
    Differs: no dropout; trained with the generator instead of with DAMSM.
    """

    def __init__(self, *, vocabulary: Sequence[str], width: int, max_length: int) -> None:
        if width % 2:
            raise ConfigError(f"text.encoder.width={width} must be even for a bidirectional LSTM.")
        super().__init__(vocabulary, width, max_length)
        self.lstm = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)

    def contextualise(self, ids: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> TextFeatures:
        """See ``WordEncoder``; packing keeps padding out of the backward direction."""
        lengths = mask.sum(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(ids), lengths, batch_first=True, enforce_sorted=False
        )
        states, (last, _) = self.lstm(packed)
        tokens, _ = nn.utils.rnn.pad_packed_sequence(
            states, batch_first=True, total_length=ids.shape[1]
        )
        return TextFeatures(tokens, mask, torch.cat([last[0], last[1]], dim=-1))
