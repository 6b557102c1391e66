"""The text transformer of latent diffusion: BERT's word pieces, an encoder of its own.

Parameter names are those of the ``bert/`` folder that diffusers writes; its ``to_logits.*``, a
head that text-to-image never uses, are not part of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from t2ibench.core.errors import ConfigError, MissingWeightsError
from t2ibench.core.hashing import hash_json
from t2ibench.core.types import TextFeatures
from t2ibench.text.contract import TextEncoder, TokenReport, mean_of_real_tokens, repeat_features

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
INITIAL_STD = 0.02
"""Standard deviation of both embeddings at the start."""


class SelfAttention(nn.Module):
    """Self-attention softmax(q k^T / sqrt(E)) v over all positions, padding included.

    Args:
        width: D.
        heads: A.
        head_width: E; A E need not be D.

    Source: Vaswani et al. 2017, eq. 1; layout of Rombach et al. 2022 (LDM), released code.
    Differs: none.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, heads * head_width, bias=False)
        self.k_proj = nn.Linear(width, heads * head_width, bias=False)
        self.v_proj = nn.Linear(width, heads * head_width, bias=False)
        self.out_proj = nn.Linear(heads * head_width, width)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Computes the layer, see the class."""
        q, k, v = (
            rearrange(project(x), "b l (a e) -> b a l e", a=self.heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = scaled_dot_product_attention(q, k, v)
        return self.out_proj(rearrange(out, "b a l e -> b l (a e)"))


class Layer(nn.Module):
    """Pre-norm block: x + Attn(LN(x)), then x + MLP(LN(x)), the MLP four times as wide.

    Source: Rombach et al. 2022 (LDM), released code (x-transformers).
    Differs: none.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.self_attn = SelfAttention(width, heads, head_width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Computes the layer, see the class."""
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return x + self.fc2(gelu(self.fc1(self.final_layer_norm(x))))


class Transformer(nn.Module):
    """Transformer over token ids: embeddings and learned positions, layers, a last norm.

    Args:
        vocabulary_size: word pieces.
        max_length: positions.
        width: D.
        depth: layers.
        heads: A.
        head_width: E.

    Source: Rombach et al. 2022 (LDM), appendix E.2.1 and table 15.
    Differs: none.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        max_length: int,
        width: int,
        depth: int,
        heads: int,
        head_width: int,
    ) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary_size, width)
        self.embed_positions = nn.Embedding(max_length, width)
        for embedding in (self.embed_tokens, self.embed_positions):
            nn.init.normal_(embedding.weight, std=INITIAL_STD)
        self.layers = nn.ModuleList(Layer(width, heads, head_width) for _ in range(depth))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Computes the layer, see the class."""
        x = self.embed_tokens(ids) + self.embed_positions.weight[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x)


class LDMBert(TextEncoder):
    """BERT's word pieces, always ``max_length`` of them and none masked, and a transformer.

    Trained with the generator. The unconditional input is the empty caption. Pooled is the mean
    over the caption's own tokens.

    Args:
        path: BERT's ``vocab.txt``, a word piece a line, or the folder that holds it.
        max_length: tokens of every caption, padding included.
        width: D.
        depth: layers.
        heads: A.
        head_width: E.

    Raises:
        MissingWeightsError: there is no such file.
        ConfigError: the file lacks a special token, or max_length is below 3.

    Source: Rombach et al. 2022 (LDM), section 4.3.1 and appendix E.2.1.
    Differs: the paper has no pooled vector.
    """

    trainable = True

    def __init__(
        self,
        *,
        path: str | Path | None,
        max_length: int,
        width: int,
        depth: int,
        heads: int,
        head_width: int,
    ) -> None:
        super().__init__()
        if max_length < 3:
            raise ConfigError(f"text.encoder.max_length={max_length} must be at least 3.")
        self.vocabulary = read_vocabulary(path)
        self.tokenizer = word_piece_tokenizer(self.vocabulary)
        self.width = width
        self.max_length = max_length
        self.heads = heads
        self.model = Transformer(
            vocabulary_size=len(self.vocabulary),
            max_length=max_length,
            width=width,
            depth=depth,
            heads=heads,
            head_width=head_width,
        )

    def tokenize(self, captions: Sequence[str]) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Ids and which are the caption's own, on the CPU, padded to ``max_length``."""
        encoded = self.tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return encoded["input_ids"], encoded["attention_mask"].bool()

    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Encodes captions; the mask is True everywhere, for padding is attended to."""
        device = self.model.layer_norm.weight.device
        ids, own = (tensor.to(device) for tensor in self.tokenize(captions))
        tokens = self.model(ids)
        return TextFeatures(tokens, torch.ones_like(own), mean_of_real_tokens(tokens, own))

    def null(self, count: int) -> TextFeatures:
        """Features of the empty caption."""
        return repeat_features(self.encode([""]), count)

    @property
    def fingerprint(self) -> str:
        """Hash of layout and vocabulary: the weights are the run's own."""
        return hash_json(
            {
                "encoder": type(self).__name__,
                "max_length": self.max_length,
                "heads": self.heads,
                "tensors": [[n, list(p.shape)] for n, p in self.named_parameters()],
                "vocabulary": self.vocabulary,
            }
        )

    def token_report(self, captions: Sequence[str]) -> TokenReport:
        """Counts lost tokens, see ``TextEncoder``."""
        rows = self.tokenizer(list(captions), verbose=False)["input_ids"] if captions else []
        unknown = sum(row.count(self.vocabulary.index("[UNK]")) for row in rows)
        return TokenReport.of_lengths(list(map(len, rows)), 2, self.max_length, unknown)


def read_vocabulary(path: str | Path | None) -> list[str]:
    """BERT's word pieces in the order of their ids.

    Args:
        path: ``vocab.txt``, or the folder that holds it.

    Raises:
        MissingWeightsError: there is no such file.
        ConfigError: a special token is not in it.
    """
    file = Path(path).expanduser() if path is not None else Path("vocab.txt")
    file = file / "vocab.txt" if file.is_dir() else file
    if path is None or not file.is_file():
        raise MissingWeightsError(
            f"text=ldm_bert needs BERT's word pieces and text.path={path} is not that file; get "
            "it with `hf download bert-base-uncased vocab.txt` where there is network and set "
            "text.path= to vocab.txt."
        )
    pieces = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    absent = [token for token in SPECIAL_TOKENS if token not in pieces]
    if absent:
        raise ConfigError(
            f"{file} is not BERT's vocab.txt: its {len(pieces)} lines lack {', '.join(absent)}; "
            "set text.path= to that of bert-base-uncased."
        )
    return pieces


def word_piece_tokenizer(vocabulary: Sequence[str]) -> Any:
    """BERT's uncased tokeniser for a list of word pieces."""
    from transformers import BertTokenizer

    return BertTokenizer(vocab={piece: i for i, piece in enumerate(vocabulary)})
