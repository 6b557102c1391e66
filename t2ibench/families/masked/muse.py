"""The base transformer of Muse.

Chang et al. 2023, "Muse: Text-To-Image Generation via Masked Generative Transformers": image codes,
some of them masked, attend to each other and to the words of the caption. The paper's text is that
of a frozen T5-XXL; its second transformer, from low to high resolution codes, is not here.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from t2ibench.core.types import TextFeatures
from t2ibench.nn.attention import Attention
from t2ibench.nn.conditioning import ConditioningKind, make_conditioning
from t2ibench.nn.row_dropout import RowDropout


class MuseBlock(nn.Module):
    """Pre-norm block: x + Attn(LN(x)), text, x + MLP(LN(x)).

    Source: Chang et al. 2023 (Muse), section 2.3 and figure 3.
    Differs: place of the normalisations and of dropout, and what layers have biases, are not
        published.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        conditioning: ConditioningKind,
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.text = make_conditioning(conditioning, width, width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = RowDropout(dropout)

    def forward(self, x: Float[Tensor, "B N D"], context: Any) -> Float[Tensor, "B N D"]:
        """Output for x (B, N, D) and the text block's context."""
        x = x + self.dropout(self.attention(self.norm_attention(x)))
        x = self.text(x, context)
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class Muse(nn.Module):
    """Bidirectional transformer: logits of every code, given those that are not masked, and text.

    Args:
        codebook_size: V, number of codes in the codebook; row V of the embedding is the mask token.
        length: N, codes an image, a square number (raster order).
        text_width: D of the text features, which one linear layer maps to the transformer's.
        width: D of the transformer.
        depth: number of layers.
        heads: A, number of attention heads.
        dropout: dropout rate of embeddings and residual branches.
        conditioning: text mechanism; ``cross_attention``, the paper's, reads the caption's words.

    Source: Chang et al. 2023 (Muse), sections 2.1 and 2.3: cross-attention to projected words, 2-D
        learned positions, an MLP to the logits.
    Differs: see ``MuseBlock``; learned rows plus learned columns are our reading of 2-D positions,
        one hidden layer of the same width that of the last MLP; so are the initial weights.
    """

    def __init__(
        self,
        *,
        codebook_size: int,
        length: int,
        text_width: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        conditioning: ConditioningKind,
    ) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.side = side = round(length**0.5)
        self.text = nn.Linear(text_width, width)
        self.code = nn.Embedding(codebook_size + 1, width)
        self.row = nn.Parameter(torch.empty(side, width))
        self.column = nn.Parameter(torch.empty(side, width))
        self.dropout = RowDropout(dropout)
        self.blocks = nn.ModuleList(
            MuseBlock(width, heads, conditioning, dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, codebook_size)
        )
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Initialises weights with variance 1 / inputs, embeddings with 1 / width, biases by 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for embedding in (self.code.weight, self.row, self.column):
            nn.init.normal_(embedding, std=embedding.shape[1] ** -0.5)

    def blocks_to_shard(self) -> list[nn.Module]:
        """Modules that FSDP shards and gathers one by one, inner ones first."""
        blocks: Any = self.blocks
        return [part for block in blocks for part in (block.text, block)]

    def prepare(self, text: TextFeatures) -> list[Any]:
        """Text contexts of the layers, computed once for each prompt and not once a step."""
        projected = TextFeatures(self.text(text.tokens), text.mask, self.text(text.pooled))
        return [block.text.prepare(projected) for block in self.blocks]

    def embedded(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Embeddings of the codes, and of the mask token where they are not known."""
        return self.code(codes.where(codes >= 0, self.codebook_size))

    def positions(self) -> Float[Tensor, "N D"]:
        """Position embeddings in raster order."""
        return (self.row[:, None] + self.column[None]).flatten(0, 1)

    def inputs(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Embedded codes with their positions."""
        return self.embedded(codes) + self.positions()

    def forward(self, codes: Int[Tensor, "B N"], contexts: list[Any]) -> Float[Tensor, "B N V"]:
        """Logits of every code.

        Args:
            codes: (B, N), negative where masked.
            contexts: of ``prepare``.
        """
        x = self.dropout(self.inputs(codes))
        for block, context in zip(self.blocks, contexts, strict=True):
            x = block(x, context)
        return self.head(self.norm(x))
