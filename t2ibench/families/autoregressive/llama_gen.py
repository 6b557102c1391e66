"""The transformer of LlamaGen: Llama's layers over image codes, the caption as prefix.

Sun et al. 2024, "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation",
and its code LlamaGen. RMS norms, gated MLPs, rotary positions of the plane, no biases.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import silu

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

INITIAL_STD, NORM_EPS, ROTATION_BASE = 0.02, 1e-5, 10_000.0

Rotation = Float[Tensor, "M F 2"]
"""Cosine and sine of the F = E / 2 angles of each position."""


def grid_rotation(side: int, head_width: int) -> Float[Tensor, "N F 2"]:
    """Cosines and sines of the plane's positions: half of the angles turn with the row.

    Angles of position (i, j): i w_k and then j w_k with w_k = 10000^(-4 k / E), k < E / 4.

    Args:
        side: height and width of the plane in codes.
        head_width: E, a multiple of 4.

    Returns:
        (side^2, E / 2, 2) in raster order.

    Source: LlamaGen, gpt.py, ``precompute_freqs_cis_2d``, after Su et al. 2021 (RoFormer).
    Differs: none.
    """
    half = head_width // 2
    speeds = ROTATION_BASE ** -(torch.arange(0, half, 2).float() / half)
    turned = torch.outer(torch.arange(side), speeds)
    rows, columns = turned[:, None].expand(-1, side, -1), turned[None].expand(side, -1, -1)
    angles = torch.cat([rows, columns], -1).flatten(0, 1)
    return torch.stack([angles.cos(), angles.sin()], -1)


def rotate(x: Float[Tensor, "B A M E"], rotation: Rotation) -> Float[Tensor, "B A M E"]:
    """Turns neighbouring pairs of values by the positions' angles.

    Source: LlamaGen, gpt.py, ``apply_rotary_emb``.
    Differs: none.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    cosine, sine = rotation.unbind(-1)
    first, second = pairs.unbind(-1)
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return torch.stack(turned, -1).flatten(-2).type_as(x)


def initialise(layer: nn.Module) -> None:
    """Draws weights of linear layers and embeddings from N(0, 0.02)."""
    if isinstance(layer, nn.Linear | nn.Embedding):
        nn.init.normal_(layer.weight, std=INITIAL_STD)


class GatedMLP(nn.Module):
    """Gated MLP W2 (silu(W1 x) * W3 x), 8 D / 3 wide, rounded up to a multiple.

    Source: LlamaGen, gpt.py, ``FeedForward``, after Shazeer 2020 (SwiGLU).
    Differs: none.
    """

    def __init__(self, width: int, multiple: int) -> None:
        super().__init__()
        hidden = -(-int(8 * width / 3) // multiple) * multiple
        self.gate = nn.Linear(width, hidden, bias=False)
        self.value = nn.Linear(width, hidden, bias=False)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "B M D"]) -> Float[Tensor, "B M D"]:
        """Computes the MLP at every position."""
        return self.out(silu(self.gate(x)) * self.value(x))


class Block(nn.Module):
    """Llama block: x + Attn(RMS(x)), text (unless it is the prefix), x + MLP(RMS(x)).

    Args:
        width: D.
        heads: A.
        mlp_multiple: the hidden width is rounded up to a multiple of it.
        text_width: D of the text features.
        conditioning: text mechanism.
        dropout: rate on both residual branches.

    Source: Sun et al. 2024 (LlamaGen), section 2.2; LlamaGen, gpt.py, ``TransformerBlock``.
    Differs: text that is not a prefix has a block of its own between attention and MLP.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_multiple: int,
        text_width: int,
        conditioning: ConditioningKind,
        dropout: float,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.RMSNorm(width, NORM_EPS)
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.norm_mlp = nn.RMSNorm(width, NORM_EPS)
        self.mlp = GatedMLP(width, mlp_multiple)
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
        rotation: Rotation,
        store: Store | None,
        context: Any,
    ) -> Float[Tensor, "B M D"]:
        """Output of the block, see ``PrefixDecoder``."""
        qkv = self.to_qkv(self.norm_attention(x))
        q, keys, values = rearrange(qkv, "b m (s a e) -> s b a m e", s=3, a=self.heads)
        q, keys = rotate(q, rotation), rotate(keys, rotation)
        kept = (keys, values) if store is None else store(keys, values)
        x = x + self.dropout(self.to_out(attend(q, kept, mask)))
        if self.text is not None:
            x = self.text(x, self.prepare(text) if context is None else context)
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class LlamaGen(PrefixDecoder):
    """Llama over image codes: rotary positions of the plane, an untied head that starts at zero.

    The rotation of the prefix is zero, as in the released code: its queries and keys vanish, so
    that every position attends to the caption's real tokens with equal weights (logit 0).

    Args:
        codebook_size: V, number of codes in the codebook.
        length: N, codes an image, a square number (raster order).
        text_width: D of the text features.
        text_length: most tokens of a caption.
        width: D of the transformer.
        depth: number of layers.
        heads: A, number of attention heads.
        mlp_multiple: the MLPs' hidden width 8 D / 3 is rounded up to a multiple of it.
        embedding_dropout: dropout rate of the embeddings.
        residual_dropout: dropout rate of the residual branches.
        conditioning: text mechanism; ``concat`` puts the text in front as a prefix.

    Raises:
        ConfigError: the codes are no square, or heads are no multiple of 4 wide.

    Source: Sun et al. 2024 (LlamaGen), section 2.2 and table 1; LlamaGen, gpt.py: GPT-XL with
        text at size=paper.
    Differs: the prefix has as many places as the caption has tokens, not always 120, which is
        the same since padding is not attended to. Modulation and cross-attention, which the paper
        has not, follow the class-conditional model: the prefix is one learned token.
    """

    decays: Decayed = "matrices"
    null_tokens: Float[Tensor, "L D"]
    rotation: Float[Tensor, "N F 2"]

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
        mlp_multiple: int,
        embedding_dropout: float,
        residual_dropout: float,
        conditioning: ConditioningKind,
    ) -> None:
        super().__init__()
        check_heads(width, heads, divisor=4)
        side = round(length**0.5)
        if side * side != length:
            raise ConfigError(
                f"model.module.network: rotary positions of the plane need a square of codes, not "
                f"{length}; choose a first stage of square grids."
            )
        self.length = length
        self.code = nn.Embedding(codebook_size, width)
        self.text = (
            nn.Sequential(
                nn.Linear(text_width, width, bias=False),
                nn.GELU(approximate="tanh"),
                nn.Linear(width, width, bias=False),
            )
            if conditioning == "concat"
            else nn.Embedding(1, width)
        )
        self.dropout = RowDropout(embedding_dropout)
        self.norm = nn.RMSNorm(width, NORM_EPS)
        self.head = nn.Linear(width, codebook_size, bias=False)
        self.apply(initialise)
        nn.init.zeros_(self.head.weight)
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_multiple, text_width, conditioning, residual_dropout)
            for _ in range(depth)
        )
        self.register_buffer("null_tokens", torch.randn(text_length, text_width) / text_width**0.5)
        self.register_buffer("rotation", grid_rotation(side, width // heads), persistent=False)

    def null_like(self, text: TextFeatures) -> TextFeatures:
        """The unconditional input: fixed random tokens at the places of each caption's own.

        Source: LlamaGen, gpt.py, ``CaptionEmbedder.token_drop``; generate.py.
        Differs: none.
        """
        places = text.mask.cumsum(1) - 1 - text.mask.sum(1, keepdim=True)
        tokens = self.null_tokens[places] * text.mask.unsqueeze(-1)
        pooled = self.null_tokens.mean(0).expand(len(text), -1)
        return TextFeatures(tokens, text.mask, pooled, text.embedding)

    def prefix(
        self, text: TextFeatures
    ) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"] | None]:
        """The caption's tokens, or one learned token."""
        if isinstance(self.text, nn.Embedding):
            return self.text.weight.expand(len(text), 1, -1), None
        tokens, real = flush_right(text)
        return self.text(tokens), real

    def enter(
        self, x: Float[Tensor, "B M D"], place: int
    ) -> tuple[Float[Tensor, "B M D"], Rotation]:
        """Adds nothing; gives the rotations, zero for the prefix."""
        stop = place + x.shape[1]
        rotation = self.rotation[max(0, place) : max(0, stop)]
        if place < 0:
            rotation = torch.cat([rotation.new_zeros(-place, *rotation.shape[1:]), rotation])
        return self.dropout(x), rotation

    def logits(self, x: Float[Tensor, "B M D"]) -> Float[Tensor, "B M V"]:
        """Logits of the next codes from the last block's output."""
        return self.head(self.norm(x))
