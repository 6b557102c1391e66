"""The GPT of VQGAN + GPT: a GPT-2 over image codes in raster order.

Esser et al. 2021, "Taming Transformers for High-Resolution Image Synthesis", and its code
taming-transformers. Each code is predicted from those before it and from a prefix of condition
tokens: of classes, semantic maps or depth in the paper, of the caption here.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures
from t2ibench.families.autoregressive.decoder import (
    Mask,
    PrefixDecoder,
    Store,
    attend,
    check_heads,
    flush_right,
)
from t2ibench.families.autoregressive.weight_decay import Decayed
from t2ibench.nn.conditioning import ConditioningKind, text_block
from t2ibench.nn.row_dropout import RowDropout

INITIAL_STD = 0.02
"""Standard deviation of all initial weights (GPT-2)."""

START = 0
"""Code whose embedding is the prefix where text is not (taming-transformers' SOS)."""


def initialise(layer: nn.Module) -> None:
    """Draws weights of linear layers and embeddings from N(0, 0.02); biases are zero."""
    if isinstance(layer, nn.Linear | nn.Embedding):
        nn.init.normal_(layer.weight, std=INITIAL_STD)
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Block(nn.Module):
    """GPT block: x + Attn(LN(x)), text (unless it is the prefix), x + MLP(LN(x)).

    Args:
        width: D.
        heads: A.
        text_width: D of the text features.
        conditioning: text mechanism.
        dropout: rate on both residual branches.

    Source: Esser et al. 2021 (VQGAN), section 3.2, after Radford et al. 2019 (GPT-2);
        taming-transformers, mingpt.py: exact GELU, 4 D wide, biases everywhere.
    Differs: query, key and value are one linear layer; text that is not a prefix has a block of
        its own between attention and MLP; no dropout of attention weights (the 24-layer
        configurations have none).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        text_width: int,
        conditioning: ConditioningKind,
        dropout: float,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = RowDropout(dropout)
        self.apply(initialise)
        self.text = text_block(conditioning, width, text_width, heads)

    def prepare(self, text: TextFeatures | None) -> Any:
        """Text context of the block, computed once for each prompt; None for a text prefix."""
        return None if self.text is None else self.text.prepare(text)

    def forward(
        self,
        x: Float[Tensor, "B M D"],
        text: TextFeatures | None,
        mask: Mask,
        rotation: None,
        store: Store | None,
        context: Any,
    ) -> Float[Tensor, "B M D"]:
        """Output of the block, see ``PrefixDecoder``; this network has no rotation."""
        qkv = self.to_qkv(self.norm_attention(x))
        q, keys, values = rearrange(qkv, "b m (s a e) -> s b a m e", s=3, a=self.heads)
        kept = (keys, values) if store is None else store(keys, values)
        x = x + self.dropout(self.to_out(attend(q, kept, mask)))
        if self.text is not None:
            x = self.text(x, self.prepare(text) if context is None else context)
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class TamingGPT(PrefixDecoder):
    """GPT over image codes: learned absolute positions, an untied head without bias.

    Args:
        codebook_size: V, number of codes in the codebook.
        length: N, codes an image (raster order).
        text_width: D of the text features.
        text_length: most tokens of a caption; the codes' positions begin after them.
        width: D of the transformer.
        depth: number of layers.
        heads: A, number of attention heads.
        block_size: learned positions, for the caption and the codes.
        embedding_dropout: dropout rate of the embeddings.
        residual_dropout: dropout rate of the residual branches.
        conditioning: text mechanism; ``concat`` puts the text in front as a prefix.

    Raises:
        ConfigError: the heads do not share the width, or caption and codes are longer than
            ``block_size``.

    Source: Esser et al. 2021 (VQGAN), section 3.2 and appendix table 8; taming-transformers,
        mingpt.py and cond_transformer.py: the drin and faceshq configurations at size=paper.
    Differs: the prefix is the caption's tokens through a linear layer, not codes of a condition
        through the codes' own embedding, and may be shorter than its places: padding in front
        is not attended to. Modulation and cross-attention, which the paper has not, follow the
        unconditional model: the prefix is the embedding of code 0.
    """

    decays: Decayed = "linear"

    def __init__(
        self,
        *,
        codebook_size: int,
        length: int,
        text_width: int,
        text_length: int,
        width: int,
        depth: int,
        heads: int,
        block_size: int,
        embedding_dropout: float,
        residual_dropout: float,
        conditioning: ConditioningKind,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        self.length = length
        self.before = text_length if conditioning == "concat" else 1
        if self.before + length - 1 > block_size:
            told = f"{self.before} tokens of a caption (text.encoder.max_length)"
            raise ConfigError(
                f"model.module.network.block_size={block_size} positions do not hold "
                f"{told if conditioning == 'concat' else 'the start'} and {length} codes; set it "
                f"to {self.before + length} or more, or choose a first stage of fewer codes."
            )
        self.code = nn.Embedding(codebook_size, width)
        self.position = nn.Parameter(torch.zeros(block_size, width))
        self.text = nn.Linear(text_width, width) if conditioning == "concat" else None
        self.dropout = RowDropout(embedding_dropout)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, codebook_size, bias=False)
        self.apply(initialise)
        self.blocks = nn.ModuleList(
            Block(width, heads, text_width, conditioning, residual_dropout) for _ in range(depth)
        )

    def prefix(
        self, text: TextFeatures
    ) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"] | None]:
        """The caption's tokens, or the start."""
        if self.text is None:
            return self.code.weight[START].expand(len(text), 1, -1), None
        tokens, real = flush_right(text)
        return self.text(tokens), real

    def enter(self, x: Float[Tensor, "B M D"], place: int) -> tuple[Float[Tensor, "B M D"], None]:
        """Adds the positions."""
        start = self.before + place
        return self.dropout(x + self.position[start : start + x.shape[1]]), None

    def logits(self, x: Float[Tensor, "B M D"]) -> Float[Tensor, "B M V"]:
        """Logits of the next codes from the last block's output."""
        return self.head(self.norm(x))
