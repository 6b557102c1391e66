"""Image-GPT: GPT-2 over the pixels of an image, each an index into a palette of colours.

Chen et al. 2020, "Generative Pretraining from Pixels": pixels in raster order, each predicted
from all before it; no first stage that is trained, no convolution, no knowledge of two
dimensions. The paper has no text: here it stands in front as a prefix (``concat``), or enters
every layer by modulation or cross-attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures
from t2ibench.families.autoregressive.weight_decay import Decayed
from t2ibench.nn.conditioning import ConditioningKind, text_block

EPSILON = 1e-5
"""Added to the mean square in the norm."""

CODE_STD, POSITION_STD, MLP_STD = 0.02, 0.01, 0.02
"""Spread of initial weights in the authors' code: of embeddings, positions, layers of the MLP."""


def sigmoid_gelu(x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """GELU by a sigmoid, x sigmoid(1.702 x).

    Source: Hendrycks and Gimpel 2016 (GELU), section 2; authors' code of Image-GPT.
    Differs: none.
    """
    return x * (1.702 * x).sigmoid()


@dataclass
class Cache:
    """Keys and values of the positions so far, allocated once for the whole sequence.

    Attributes:
        keys: (layers, B, A, M, E) with M = prefix + N.
        values: (layers, B, A, M, E).
        mask: (B, M) True where a position is real; None where all are.
        filled: number of positions written.
        contexts: each layer's precomputed text context.
    """

    keys: Float[Tensor, "layers B A M E"]
    values: Float[Tensor, "layers B A M E"]
    mask: Bool[Tensor, "B M"] | None
    filled: int
    contexts: list[Any]


class Block(nn.Module):
    """Transformer block x + Attn(N(x)), then text unless it is the prefix, then x + MLP(N(x)).

    N(x) = g x / sqrt(mean(x^2) + 1e-5): no mean is taken off and no bias added.

    Source: Chen et al. 2020 (Image-GPT), section 3.1; norm, GELU and initial weights of the
        authors' code.
    Differs: the text block; linear layers have biases where ``bias`` says so, as in the layout of
        transformers, in which the authors' weights without biases are published.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        depth: int,
        text_width: int,
        conditioning: ConditioningKind,
        bias: bool,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.RMSNorm(width, eps=EPSILON)
        self.to_qkv = nn.Linear(width, 3 * width, bias=bias)
        self.to_out = nn.Linear(width, width, bias=bias)
        self.text = text_block(conditioning, width, text_width, heads)
        self.norm_mlp = nn.RMSNorm(width, eps=EPSILON)
        self.expand = nn.Linear(width, 4 * width, bias=bias)
        self.contract = nn.Linear(4 * width, width, bias=bias)
        spreads = {
            self.to_qkv: width**-0.5,
            self.to_out: (width * depth) ** -0.5,
            self.expand: MLP_STD,
            self.contract: MLP_STD,
        }
        for layer, spread in spreads.items():
            nn.init.normal_(layer.weight, std=spread)
            if bias:
                nn.init.zeros_(layer.bias)

    def prepare(self, text: TextFeatures) -> Any:
        """Text context of the block, computed once for each prompt; None for a text prefix."""
        return None if self.text is None else self.text.prepare(text)

    def queries_keys_values(self, x: Float[Tensor, "B M D"]) -> list[Float[Tensor, "B A M E"]]:
        """Queries, keys and values of the normalised input."""
        parts = self.to_qkv(self.norm_attention(x)).chunk(3, dim=-1)
        return [rearrange(part, "b m (a e) -> b a m e", a=self.heads) for part in parts]

    def forward(
        self, x: Float[Tensor, "B M D"], text: TextFeatures, mask: Bool[Tensor, "B 1 M M"] | None
    ) -> Float[Tensor, "B M D"]:
        """Output for the whole sequence at once; without a mask attention is causal."""
        q, k, v = self.queries_keys_values(x)
        attended = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.rest(x, attended, self.prepare(text))

    def rest(
        self, x: Float[Tensor, "B M D"], attended: Float[Tensor, "B A M E"], context: Any
    ) -> Float[Tensor, "B M D"]:
        """Everything after the attention's weighted sum: its output layer, text and MLP."""
        x = x + self.to_out(rearrange(attended, "b a m e -> b m (a e)"))
        if self.text is not None:
            x = self.text(x, context)
        return x + self.contract(sigmoid_gelu(self.expand(self.norm_mlp(x))))


class ImageGPT(nn.Module):
    """Transformer that predicts a pixel's code from those before it and the text.

    Args:
        codebook_size: V, colours of the palette.
        length: N, pixels of an image.
        text_width: D of the text features.
        text_length: most tokens of a caption; not read, only pixels have positions.
        width: D of the transformer.
        depth: number of layers.
        heads: A; must divide ``width``.
        bias: whether linear layers have biases: False is the authors' code (76,571,648
            parameters at width 512 and depth 24), True is transformers' layout (76,682,240).
        conditioning: text mechanism; ``concat`` puts the text in front as a prefix.

    Raises:
        ConfigError: heads do not divide the width.

    Source: Chen et al. 2020 (Image-GPT), section 3; start token, positions, initial weights and
        the head that begins at zero of the authors' code.
    Differs: the text.
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
        bias: bool,
        conditioning: ConditioningKind,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"model.module.network.width={width} is not a multiple of "
                f"model.module.network.heads={heads}; choose such a width."
            )
        self.length, self.heads = length, heads
        self.code = nn.Embedding(codebook_size, width)
        self.start = nn.Parameter(CODE_STD * torch.randn(width))
        self.position = nn.Parameter(POSITION_STD * torch.randn(length, width))
        self.prefix = nn.Linear(text_width, width) if conditioning == "concat" else None
        self.blocks = nn.ModuleList(
            Block(width, heads, depth, text_width, conditioning, bias) for _ in range(depth)
        )
        self.norm = nn.RMSNorm(width, eps=EPSILON)
        self.head = nn.Linear(width, codebook_size, bias=False)
        nn.init.normal_(self.code.weight, std=CODE_STD)
        nn.init.zeros_(self.head.weight)

    def blocks_to_shard(self) -> list[nn.Module]:
        """Blocks that FSDP shards and gathers one by one."""
        return list(self.blocks)

    def forward(self, codes: Int[Tensor, "B N"], text: TextFeatures) -> Float[Tensor, "B N V"]:
        """Logits of every pixel given those before it (teacher forcing)."""
        start = self.start.expand(len(codes), 1, -1)
        x = torch.cat([start, self.code(codes[:, :-1])], 1) + self.position
        mask, skip = None, 0
        if self.prefix is not None:
            x, skip = torch.cat([self.prefix(text.tokens), x], 1), text.tokens.shape[1]
            real = torch.cat([text.mask, text.mask.new_ones(len(codes), self.length)], 1)
            mask = causal(real[:, None, None], x.shape[1], 0)
        for block in self.blocks:
            x = block(x, text, mask)
        return self.head(self.norm(x[:, skip:]))

    def start_cache(self, text: TextFeatures) -> Cache:
        """Allocates a cache that already holds the prompts' prefix (or text contexts)."""
        skip = 0 if self.prefix is None else text.tokens.shape[1]
        width = self.position.shape[1]
        shape = (len(self.blocks), len(text), self.heads, skip + self.length, width // self.heads)
        keys = self.position.new_zeros(shape)
        mask = None
        if self.prefix is not None:
            mask = torch.cat([text.mask, text.mask.new_ones(len(text), self.length)], 1)
        contexts = [block.prepare(text) for block in self.blocks]
        cache = Cache(keys, torch.zeros_like(keys), mask, 0, contexts)
        if self.prefix is not None:
            self._advance(self.prefix(text.tokens), cache)
        return cache

    def step(
        self, token: Int[Tensor, " B"] | None, position: int, cache: Cache
    ) -> Float[Tensor, "B V"]:
        """Logits of the pixel at ``position`` given the one before it; advances the cache."""
        count = cache.keys.shape[1]
        before = self.start.expand(count, -1) if token is None else self.code(token)
        x = (before + self.position[position]).unsqueeze(1)
        return self.head(self.norm(self._advance(x, cache)))[:, -1]

    def _advance(self, x: Float[Tensor, "B M D"], cache: Cache) -> Float[Tensor, "B M D"]:
        """Runs new positions through the layers and adds them to the cache."""
        new, first = x.shape[1], cache.filled
        stop = first + new
        mask = None if cache.mask is None else cache.mask[:, None, None, :stop]
        if mask is not None and new > 1:
            mask = causal(mask, new, first)
        for layer, block in enumerate(self.blocks):
            q, k, v = block.queries_keys_values(x)
            cache.keys[layer, :, :, first:stop] = k
            cache.values[layer, :, :, first:stop] = v
            keys, values = cache.keys[layer, :, :, :stop], cache.values[layer, :, :, :stop]
            attended = scaled_dot_product_attention(q, keys, values, attn_mask=mask)
            x = block.rest(x, attended, cache.contexts[layer])
        cache.filled = stop
        return x


def causal(real: Bool[Tensor, "B 1 1 M2"], queries: int, first: int) -> Bool[Tensor, "B 1 M M2"]:
    """Mask of the last M of M2 positions: each sees the real ones up to itself, and itself.

    A padded position sees itself, so that no row of the mask is empty.

    Args:
        real: True where a position is real.
        queries: M.
        first: place of the first query.
    """
    order = torch.ones(queries, real.shape[-1], dtype=torch.bool, device=real.device).tril(first)
    own = order & ~order.tril(first - 1)
    return (real & order) | own
