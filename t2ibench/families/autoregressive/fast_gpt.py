"""The decoder-only transformer of VQGAN + GPT.

Esser et al. 2021, "Taming Transformers for High-Resolution Image Synthesis": image codes in
raster order, each predicted from those before it and from a prefix. Here the prefix is the
text (``concat``, the paper's way); text may also enter every layer by modulation or
cross-attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from t2ibench.core.types import TextFeatures
from t2ibench.families.autoregressive.weight_decay import Decayed
from t2ibench.nn.attention import Attention
from t2ibench.nn.conditioning import ConditioningKind, text_block

ABOVE_ROWS, ABOVE_COLUMNS, BEFORE = 2, 5, 2
"""Window of a code's neighbours: two rows above, five columns wide, and two codes before it."""

NEIGHBOURS = ABOVE_ROWS * ABOVE_COLUMNS + BEFORE


def neighbours(grid: Float[Tensor, "B H W D"]) -> Float[Tensor, "B N E"]:
    """Embeddings of the 12 neighbours that precede each position, concatenated; zero outside.

    Args:
        grid: embedded codes (B, H, W, D).

    Returns:
        (B, H * W, 12 D) in raster order: those above, then the two codes before in raster
        order. At the start of a row these are the end of the row above, so that every code is
        visible to the codes after it.

    Source: van den Oord et al. 2016 (PixelCNN), section 3.3, mask A.
    Differs: a window of embeddings for one linear layer, in place of a masked convolution.
    """
    height, width = grid.shape[1:3]
    plane = pad(grid, (0, 0, 2, 2, 2, 0))
    above = [
        plane[:, i : i + height, j : j + width].flatten(1, 2)
        for i in range(ABOVE_ROWS)
        for j in range(ABOVE_COLUMNS)
    ]
    sequence = pad(grid.flatten(1, 2), (0, 0, BEFORE, 0))
    before = [sequence[:, i : i + height * width] for i in range(BEFORE)]
    return torch.cat([*above, *before], -1)


@dataclass
class Cache:
    """State of the positions decoded so far, allocated once for the whole sequence.

    Attributes:
        plane: (B, H + 2, W + 4, D) embedded codes with a margin of zeros above and beside.
        sequence: (B, 2 + N, D) the same in raster order after two zeros.
        keys: (layers, B, A, M, E) with M = prefix + N.
        values: (layers, B, A, M, E).
        mask: (B, M) True where a position is real.
        filled: number of positions written.
        contexts: each layer's precomputed text context.
    """

    plane: Float[Tensor, "B H2 W4 D"]
    sequence: Float[Tensor, "B N2 D"]
    keys: Float[Tensor, "layers B A M E"]
    values: Float[Tensor, "layers B A M E"]
    mask: Bool[Tensor, "B M"]
    filled: int
    contexts: list[Any]


class Block(nn.Module):
    """Transformer block: causal self-attention, text (unless it is the prefix), MLP; pre-norm.

    Source: Radford et al. 2019 (GPT-2), section 2.3.
    Differs: the text block between attention and MLP.
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
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.text = text_block(conditioning, width, text_width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def prepare(self, text: TextFeatures) -> Any:
        """Text context of the block, computed once for each prompt; None for a text prefix."""
        return None if self.text is None else self.text.prepare(text)

    def forward(
        self, x: Float[Tensor, "B M D"], text: TextFeatures, mask: Bool[Tensor, "B 1 M M"] | None
    ) -> Float[Tensor, "B M D"]:
        """Output for the whole sequence at once; without a mask attention is causal."""
        normed = self.norm_attention(x)
        keys, values = self.attention.keys_values(normed)
        x = x + self.dropout(self.attend(normed, keys, values, mask, mask is None))
        return self.rest(x, None if self.text is None else self.text.prepare(text))

    def attend(
        self,
        x: Float[Tensor, "B M D"],
        keys: Float[Tensor, "B A M2 E"],
        values: Float[Tensor, "B A M2 E"],
        mask: Bool[Tensor, "B 1 M3 M2"] | None,
        causal: bool,
    ) -> Float[Tensor, "B M D"]:
        """Self-attention of normalised ``x`` over given keys and values."""
        q = rearrange(self.attention.to_q(x), "b m (a e) -> b a m e", a=self.attention.heads)
        out = scaled_dot_product_attention(q, keys, values, attn_mask=mask, is_causal=causal)
        return self.attention.to_out(rearrange(out, "b a m e -> b m (a e)"))

    def rest(self, x: Float[Tensor, "B M D"], context: Any) -> Float[Tensor, "B M D"]:
        """Applies everything after self-attention: text block and MLP."""
        if self.text is not None:
            x = self.text(x, context)
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class CodeTransformer(nn.Module):
    """Transformer that predicts next-code logits from the preceding codes and the text.

    Args:
        codebook_size: V, number of codes in the codebook.
        length: N, codes an image, a square number (raster order).
        text_width: D of the text features.
        text_length: most tokens of a caption; not read, only codes have positions.
        width: D of the transformer.
        depth: number of layers.
        heads: A, number of attention heads.
        dropout: dropout rate of embeddings and residual branches.
        conditioning: text mechanism; ``concat`` puts the text in front as a prefix.

    Source: Esser et al. 2021 (VQGAN), section 3.2 and appendix table 8.
    Differs: positions are learned rows plus learned columns; a position enters with the 12 codes
        before it in the plane, not with the last one alone, so that the network need not learn
        at every position anew which codes lie above it (measured: README.md).
    """

    decays: Decayed = "all"

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
        dropout: float,
        conditioning: ConditioningKind,
    ) -> None:
        super().__init__()
        self.length = length
        self.heads = heads
        self.side = side = round(length**0.5)
        self.code = nn.Embedding(codebook_size, width)
        self.near = nn.Linear(NEIGHBOURS * width, width)
        self.row = nn.Parameter(torch.randn(side, width) * 0.02)
        self.column = nn.Parameter(torch.randn(side, width) * 0.02)
        nn.init.normal_(self.code.weight, std=0.1)
        self.prefix = nn.Linear(text_width, width) if conditioning == "concat" else None
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, text_width, conditioning, dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, codebook_size)

    def blocks_to_shard(self) -> list[nn.Module]:
        """Blocks that FSDP shards and gathers one by one."""
        return list(self.blocks)

    def positions(self) -> Float[Tensor, "N D"]:
        """Position embeddings in raster order."""
        return (self.row[:, None] + self.column[None]).flatten(0, 1)

    def inputs(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Input embeddings: position n holds the codes around n that precede it, to predict n."""
        grid = self.code(codes).unflatten(1, (self.side, self.side))
        return self.near(neighbours(grid)) + self.positions()

    def forward(self, codes: Int[Tensor, "B N"], text: TextFeatures) -> Float[Tensor, "B N V"]:
        """Logits of every code given those before it (teacher forcing)."""
        x = self.dropout(self.inputs(codes))
        mask, skip = None, 0
        if self.prefix is not None:
            x = torch.cat([self.prefix(text.tokens), x], 1)
            skip = text.tokens.shape[1]
            real = torch.cat([text.mask, text.mask.new_ones(len(codes), self.length)], 1)
            order = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
            # A padded query sees itself, so that no row of the mask is empty.
            own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
            mask = ((real[:, None, :] & order) | own)[:, None]
        for block in self.blocks:
            x = block(x, text, mask)
        return self.head(self.norm(x[:, skip:]))

    def start_cache(self, text: TextFeatures) -> Cache:
        """Allocates a cache that already holds the prompts' prefix (or text contexts)."""
        count, skip = len(text), 0 if self.prefix is None else text.tokens.shape[1]
        heads, width = self.heads, self.code.embedding_dim
        shape = (len(self.blocks), count, heads, skip + self.length, width // heads)
        keys = self.row.new_zeros(shape)
        plane = keys.new_zeros(count, self.side + 2, self.side + 4, width)
        sequence = keys.new_zeros(count, BEFORE + self.length, width)
        mask = torch.ones(count, shape[3], dtype=torch.bool, device=keys.device)
        mask[:, :skip] = text.mask[:, :skip]
        contexts = [block.prepare(text) for block in self.blocks]
        cache = Cache(plane, sequence, keys, torch.zeros_like(keys), mask, 0, contexts)
        if self.prefix is not None:
            self._advance(self.prefix(text.tokens), cache)
        return cache

    def step(
        self, token: Int[Tensor, " B"] | None, position: int, cache: Cache
    ) -> Float[Tensor, "B V"]:
        """Logits of the code at ``position`` given the one before it; advances the cache."""
        plane, sequence = cache.plane, cache.sequence
        i, j = divmod(position, self.side)
        if token is not None:
            last = self.code(token)
            sequence[:, position - 1 + BEFORE] = last
            plane[:, (position - 1) // self.side + 2, (position - 1) % self.side + 2] = last
        above = plane[:, i : i + ABOVE_ROWS, j : j + ABOVE_COLUMNS]
        before = sequence[:, position : position + BEFORE]
        near = self.near(torch.cat([above.flatten(1), before.flatten(1)], 1))
        x = (near + self.positions()[position]).unsqueeze(1)
        return self.head(self.norm(self._advance(x, cache)))[:, -1]

    def _advance(self, x: Float[Tensor, "B M D"], cache: Cache) -> Float[Tensor, "B M D"]:
        """Runs new positions through the layers and adds them to the cache."""
        new, start = x.shape[1], cache.filled
        stop = start + new
        mask = cache.mask[:, None, None, :stop]
        if new > 1:
            seen = torch.ones(new, stop, dtype=torch.bool, device=x.device).tril(start)
            own = torch.eye(new, stop, dtype=torch.bool, device=x.device)
            mask = (mask & seen) | own
        for layer, block in enumerate(self.blocks):
            normed = block.norm_attention(x)
            keys, values = block.attention.keys_values(normed)
            cache.keys[layer, :, :, start:stop] = keys
            cache.values[layer, :, :, start:stop] = values
            attended = block.attend(
                normed,
                cache.keys[layer, :, :, :stop],
                cache.values[layer, :, :, :stop],
                mask,
                False,
            )
            x = block.rest(x + attended, cache.contexts[layer])
        cache.filled = stop
        return x
