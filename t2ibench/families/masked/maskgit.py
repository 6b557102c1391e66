"""The bidirectional transformer of MaskGIT.

Chang et al. 2022, "MaskGIT: Masked Generative Image Transformer": BERT over image codes, each of
them a code of the codebook or the mask token. In the paper a class token stands in front of the
codes; here it is the caption's vector (``concat``), or text enters every layer by modulation or
cross-attention.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures
from t2ibench.nn.conditioning import ConditioningKind, text_block
from t2ibench.nn.row_dropout import RowDropout

EPSILON = 1e-12
"""Epsilon of all layer normalisations; BERT."""

SPREAD = 0.02
"""Standard deviation of initial weights, which are cut at twice of it; authors' code."""


class SelfAttention(nn.Module):
    """Self-attention with biases and dropout of its weights, as in BERT.

    What is dropped is the same for all images and heads, as in the authors' code.

    Source: Vaswani et al. 2017, eq. 1 and section 3.2.2; Devlin et al. 2019 (BERT), section 3.
    Differs: none.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"width={width} is not a multiple of heads={heads}; choose such.")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "B M D"]) -> Float[Tensor, "B M D"]:
        """Attended sequence for x (B, M, D)."""
        q, k, v = rearrange(self.qkv(x), "b m (three a e) -> three b a m e", three=3, a=self.heads)
        if self.training and self.dropout:
            weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
            keep = torch.rand(weights.shape[-2:], device=x.device) >= self.dropout
            attended = (weights * keep / (1 - self.dropout)) @ v
        else:
            attended = scaled_dot_product_attention(q, k, v)
        return self.out(rearrange(attended, "b a m e -> b m (a e)"))


class BERTBlock(nn.Module):
    """Post-norm block: x <- LN(x + Attn(x)); text, unless it stands in front; x <- LN(x + MLP(x)).

    Source: Devlin et al. 2019 (BERT), section 3; Chang et al. 2022 (MaskGIT), authors' code.
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
        self.attention = SelfAttention(width, heads, dropout)
        self.norm_attention = nn.LayerNorm(width, eps=EPSILON)
        self.text = text_block(conditioning, width, text_width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * width, width),
        )
        self.norm_mlp = nn.LayerNorm(width, eps=EPSILON)
        self.dropout = RowDropout(dropout)

    def forward(self, x: Float[Tensor, "B M D"], context: Any) -> Float[Tensor, "B M D"]:
        """Output for x (B, M, D) and the text block's context."""
        x = self.norm_attention(x + self.dropout(self.attention(x)))
        if self.text is not None:
            x = self.text(x, context)
        return self.norm_mlp(x + self.dropout(self.mlp(x)))


class MaskGIT(nn.Module):
    """Bidirectional transformer: logits of every code, given those that are not masked, and text.

    Args:
        codebook_size: V, number of codes in the codebook; row V of the embedding is the mask token.
        length: N, codes an image.
        text_width: D of the text features.
        width: D of the transformer.
        depth: number of layers.
        heads: A, number of attention heads.
        dropout: dropout rate of embeddings, attention weights and residual branches.
        conditioning: text mechanism; ``concat`` puts one token in front, as the paper's class.

    Source: Chang et al. 2022 (MaskGIT), section 4.1, and authors' code: 16 heads, where the paper
        says 8.
    Differs: in place of an embedding for each of 1000 classes, and their share of the output bias,
        one linear layer makes the front token of the sentence vector; with ``modulation`` and
        ``cross_attention`` there is no front token.
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
        self.front = nn.Linear(text_width, width) if conditioning == "concat" else None
        self.code = nn.Embedding(codebook_size + 1, width)
        self.position = nn.Parameter(torch.empty(length + (self.front is not None), width))
        self.norm_embedding = nn.LayerNorm(width, eps=EPSILON)
        self.dropout = RowDropout(dropout)
        self.blocks = nn.ModuleList(
            BERTBlock(width, heads, text_width, conditioning, dropout) for _ in range(depth)
        )
        self.transform = nn.Linear(width, width)
        self.norm_transform = nn.LayerNorm(width, eps=EPSILON)
        self.bias = nn.Parameter(torch.zeros(codebook_size + 1))
        initialise(self)

    def blocks_to_shard(self) -> list[nn.Module]:
        """Modules that FSDP shards and gathers one by one, inner ones first."""
        blocks: Any = self.blocks
        return [part for block in blocks for part in (block.text, block) if part is not None]

    def prepare(self, text: TextFeatures) -> list[Any]:
        """Text contexts, computed once for each prompt and not once a step.

        Returns:
            The front token (B, 1, D) or None, then one context for each layer.
        """
        front = None if self.front is None else self.front(text.pooled).unsqueeze(1)
        layers = [None if b.text is None else b.text.prepare(text) for b in self.blocks]
        return [front, *layers]

    def forward(self, codes: Int[Tensor, "B N"], contexts: list[Any]) -> Float[Tensor, "B N V"]:
        """Logits of every code and, last, of the mask token.

        Args:
            codes: (B, N), negative where masked.
            contexts: of ``prepare``.
        """
        front, *layers = contexts
        x = self.code(codes.where(codes >= 0, self.codebook_size))
        if front is not None:
            x = torch.cat([front, x], 1)
        x = self.dropout(self.norm_embedding(x + self.position))
        for block, context in zip(self.blocks, layers, strict=True):
            x = block(x, context)
        x = x if front is None else x[:, 1:]
        x = self.norm_transform(gelu(self.transform(x), approximate="tanh"))
        return x @ self.code.weight.T + self.bias


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Initialises weights and embeddings by a cut normal distribution, biases by 0, gains by 1.

    Source: Chang et al. 2022 (MaskGIT), authors' code.
    Differs: text layers that the paper has not are initialised alike.
    """
    for module in network.modules():
        if not isinstance(module, nn.LayerNorm):
            for name, parameter in module.named_parameters(recurse=False):
                if name == "bias":
                    nn.init.zeros_(parameter)
                else:
                    nn.init.trunc_normal_(parameter, std=SPREAD, a=-2 * SPREAD, b=2 * SPREAD)
