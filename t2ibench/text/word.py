"""Word-level text encoders that are trained with the generator.

The blocks are this file's own and not ``nn.attention``'s: queries, keys and values come out
of one matrix product, which is what a batch of short captions is bound by on a CPU.
"""

from __future__ import annotations

import re
import unicodedata
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import gelu, scaled_dot_product_attention

from t2ibench.core.errors import ConfigError
from t2ibench.core.hashing import hash_json
from t2ibench.core.ranks import longest
from t2ibench.core.types import TextFeatures
from t2ibench.text.contract import (
    TextEncoder,
    TokenReport,
    clear_padding,
    mean_of_real_tokens,
    repeat_features,
)

PAD, END, UNKNOWN, NULL = 0, 1, 2, 3
SPECIAL = 4
WORD = re.compile(r"[^\W_]+")
REMEMBERED_CAPTIONS = 100_000
TOLD_WORDS = 5
"""Unknown words that a report names, the most frequent ones."""


UNSPACED = re.compile(
    "[\u0e01-\u0e5b\u0e81-\u0edf\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # Han
)
"""Pattern of letters in scripts that put no space between words."""


def split_words(caption: str) -> list[str]:
    """Lower-case runs of letters and digits; punctuation only separates.

    A letter keeps its marks (vowel signs of Hindi). In scripts without spaces between words each
    letter is a word, as BERT's tokeniser has it for Chinese.

    Example:
        >>> split_words("A red ring, left of 2 Blue-Stars!")
        ['a', 'red', 'ring', 'left', 'of', '2', 'blue', 'stars']
        >>> split_words("红色的圆")
        ['红', '色', '的', '圆']
    """
    text = unicodedata.normalize("NFKC", caption).lower()
    if text.isascii():
        return WORD.findall(text)
    words: list[str] = []
    joins = marks = False  # whether the next letter, or mark, continues the last word
    for character in text:
        if unicodedata.category(character)[0] == "M":
            if marks:
                words[-1] += character
            continue
        alone = UNSPACED.match(character) is not None
        marks = character.isalnum()
        if marks:
            if joins and not alone:
                words[-1] += character
            else:
                words.append(character)
            joins = not alone
        else:
            joins = False
    return words


def build_vocabulary(
    captions: Iterable[str], min_count: int = 1, max_size: int = 50_000
) -> list[str]:
    """The words of the training captions, most frequent first, ties in alphabetical order.

    Args:
        captions: training captions only; test words stay unknown.
        min_count: rarer words are left out.
        max_size: most words kept.

    Example:
        >>> build_vocabulary(["a red ring", "a blue ring", "a moon"], min_count=2)
        ['a', 'ring']
    """
    counts = Counter(word for caption in captions for word in split_words(caption))
    kept = [word for word, n in counts.items() if n >= min_count]
    return sorted(kept, key=lambda word: (-counts[word], word))[:max_size]


class WordTokenizer:
    """Tokeniser from words to ids: 0 pad, 1 end, 2 unknown, 3 null, then the vocabulary.

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
        found = self._known.get(caption)
        if found is None:
            words = split_words(caption)[: self.max_length - 1]
            found = [self._ids.get(word, UNKNOWN) for word in words] + [END]
            if len(self._known) < REMEMBERED_CAPTIONS:
                self._known[caption] = found
        return found

    def report(self, captions: Sequence[str]) -> TokenReport:
        """Truncated captions and the share of unknown words."""
        words = [split_words(caption) for caption in captions]
        unknown = Counter(word for row in words for word in row if word not in self._ids)
        return TokenReport.of_lengths(
            [len(row) + 1 for row in words],  # with the end token
            1,
            self.max_length,
            unknown.total(),
            unknown_words=tuple(word for word, _ in unknown.most_common(TOLD_WORDS)),
            unread=tuple(
                i for i, row in enumerate(words) if not any(word in self._ids for word in row)
            ),
        )

    def __call__(self, captions: Sequence[str]) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Ids and mask on the CPU, padded to the longest caption."""
        rows = [self.ids(caption) for caption in captions]
        length = longest(max(map(len, rows)))
        ids = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
        return ids, ids != PAD


class WordEncoder(TextEncoder):
    """Common part of the word-level encoders: tokeniser, embedding, null caption.

    Args:
        vocabulary: words of the training captions.
        width: D.
        max_length: most tokens of a caption.
        embedding_width: width of the word vectors.
        dropout: share of values zeroed in training, 0 to 1.

    Raises:
        ConfigError: see ``WordTokenizer``.
    """

    trainable = True
    needs_vocabulary = True

    def __init__(
        self,
        vocabulary: Sequence[str],
        width: int,
        max_length: int,
        embedding_width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.tokenizer = WordTokenizer(vocabulary, max_length)
        self.width = width
        self.max_length = max_length
        self.dropout = dropout
        self.embedding = nn.Embedding(len(self.tokenizer), embedding_width)
        nn.init.normal_(self.embedding.weight, std=embedding_width**-0.5)

    @abstractmethod
    def contextualise(
        self,
        ids: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        lengths: Int[Tensor, " B"],
    ) -> TextFeatures:
        """Computes features of ids; ``lengths`` stays on the CPU, so nothing waits for a GPU."""

    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Encodes captions, see ``TextEncoder``; an empty caption is its end token alone."""
        ids, mask = self.tokenizer(captions)
        device = self.embedding.weight.device
        return self.contextualise(ids.to(device), mask.to(device), mask.sum(1))

    def null(self, count: int) -> TextFeatures:
        """A learned null token, encoded like a caption."""
        ids = torch.full((1, 1), NULL, device=self.embedding.weight.device)
        mask = torch.ones_like(ids, dtype=torch.bool)
        return repeat_features(
            self.contextualise(ids, mask, torch.ones(1, dtype=torch.long)), count
        )

    @property
    def fingerprint(self) -> str:
        """Hash of layout and vocabulary: the weights are the run's own."""
        return hash_json(
            {
                "encoder": type(self).__name__,
                "width": self.width,
                "max_length": self.max_length,
                "dropout": self.dropout,
                "layout": self.extra_repr(),
                "tensors": [[n, list(p.shape)] for n, p in self.named_parameters()],
                "vocabulary": self.tokenizer.vocabulary,
            }
        )

    def token_report(self, captions: Sequence[str]) -> TokenReport:
        """Counts lost tokens, see ``TextEncoder``."""
        return self.tokenizer.report(captions)

    def token_words(self, caption: str) -> list[str]:
        """The words that are encoded, and the end token."""
        return [*split_words(caption)[: self.max_length - 1], "(end)"]


class WordBlock(nn.Module):
    """Pre-norm block: x + Attn(LN(x)), then x + MLP(LN(x)), over real tokens only.

    Source: Xiong et al. 2020 (pre-LN transformer), figure 1b; Vaswani et al. 2017, eq. 1.
    Differs: none.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm_attention = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(
        self, x: Float[Tensor, "B L D"], mask: Bool[Tensor, "B 1 1 L"]
    ) -> Float[Tensor, "B L D"]:
        """``mask`` is True at keys that may be attended to."""
        batch, length, width = x.shape
        qkv = self.to_qkv(self.norm_attention(x))
        qkv = qkv.view(batch, length, 3, self.heads, width // self.heads)
        q_BALE, k_BALE, v_BALE = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        seen = scaled_dot_product_attention(q_BALE, k_BALE, v_BALE, attn_mask=mask)
        x = x + self._drop(self.to_out(seen.transpose(1, 2).reshape(batch, length, width)))
        return x + self._drop(self.narrow(gelu(self.widen(self.norm_mlp(x)))))

    def _drop(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return drop(x, self.dropout, self.training) if self.dropout else x


class WordTransformer(WordEncoder):
    """A small bidirectional pre-norm transformer over words.

    Args:
        vocabulary: words of the training captions.
        width: D.
        depth: blocks.
        heads: A; divides ``width``.
        max_length: most tokens of a caption.
        dropout: share of embeddings and residual branches zeroed in training.
        pooling: what one caption's vector is: the mean of its real tokens, or its end token.

    Raises:
        ConfigError: ``width`` is not a multiple of ``heads``; see also ``WordTokenizer``.

    Source: Vaswani et al. 2017, section 3, encoder; pre-norm as in Xiong et al. 2020.
    Differs: learned positions.
    """

    def __init__(
        self,
        *,
        vocabulary: Sequence[str],
        width: int,
        depth: int,
        heads: int,
        max_length: int,
        dropout: float = 0.0,
        pooling: Literal["mean", "end"] = "mean",
    ) -> None:
        if width % heads:
            raise ConfigError(
                f"text.encoder.width={width} is not a multiple of text.encoder.heads={heads}."
            )
        super().__init__(vocabulary, width, max_length, width, dropout)
        self.heads = heads
        self.pooling = pooling
        self.position = nn.Parameter(torch.randn(max_length, width) * 0.02)
        self.blocks = nn.ModuleList(WordBlock(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def extra_repr(self) -> str:
        """Layout that the tensors' shapes do not show."""
        return f"heads={self.heads}, pooling={self.pooling}"

    def contextualise(
        self,
        ids: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        lengths: Int[Tensor, " B"],
    ) -> TextFeatures:
        """Runs the network, see ``WordEncoder``."""
        x = self.embedding(ids) + self.position[: ids.shape[1]]
        if self.dropout:
            x = drop(x, self.dropout, self.training)
        keys = mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, keys)
        x = self.norm(x)
        if self.pooling == "end":
            last = (mask.sum(1) - 1)[:, None, None].expand(-1, 1, x.shape[-1])
            pooled = x.gather(1, last).squeeze(1)
        else:
            pooled = mean_of_real_tokens(x, mask)
        return TextFeatures(clear_padding(x, mask), mask, pooled)


class WordLSTM(WordEncoder):
    """A bidirectional LSTM over words; pooled is the two last states side by side.

    Args:
        vocabulary: words of the training captions.
        width: D, even: each direction has D / 2.
        max_length: most tokens of a caption.
        embedding_width: width of the word vectors; None is ``width``.
        dropout: share of the word vectors' values zeroed in training.

    Raises:
        ConfigError: an odd width; see also ``WordTokenizer``.

    Source: Xu et al. 2018 (AttnGAN), section 3.2, text encoder; sizes of the released code
    are width 256, embedding_width 300, dropout 0.5.
    Differs: an end token closes each caption; long captions lose their last words in place
    of random ones; trained with the generator in place of with DAMSM.
    """

    def __init__(
        self,
        *,
        vocabulary: Sequence[str],
        width: int,
        max_length: int,
        embedding_width: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        if width % 2:
            raise ConfigError(f"text.encoder.width={width} must be even for a bidirectional LSTM.")
        super().__init__(vocabulary, width, max_length, embedding_width or width, dropout)
        self.lstm = nn.LSTM(
            embedding_width or width, width // 2, batch_first=True, bidirectional=True
        )

    def contextualise(
        self,
        ids: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        lengths: Int[Tensor, " B"],
    ) -> TextFeatures:
        """Runs the LSTM; packing keeps padding out of the backward direction."""
        x = self.embedding(ids)
        if self.dropout:
            x = drop(x, self.dropout, self.training)
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        states, (last, _) = self.lstm(packed)
        tokens, _ = nn.utils.rnn.pad_packed_sequence(
            states, batch_first=True, total_length=ids.shape[1]
        )
        return TextFeatures(tokens, mask, torch.cat([last[0], last[1]], dim=-1))
