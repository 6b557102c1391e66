"""Connections of text and image: one of the six axes, so one file.

Three mechanisms with one face. Each is a residual block from hidden states and text to
hidden states of the same shape, so that a network swaps them without another change:

    concat           x + W2 gelu(W1 [x ; pooled])        GAN-INT-CLS, StackGAN
    modulation       x + W  silu((1 + s(pooled)) LN(x) + b(pooled))   AdaIN, FiLM, adaLN
    cross_attention  x + Attn(LN(x), tokens)             AttnGAN, LDM, Imagen

Text enters in two steps: ``prepare`` does what depends on the prompt alone (once a
prompt), ``forward`` does the rest (once a sampling step).
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures
from t2ibench.nn.attention import Attention

ConditioningKind = Literal["concat", "modulation", "cross_attention"]
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class ConcatConditioning(nn.Module):
    """Concatenation x + W2 gelu(W1 [x ; pooled]): the sentence vector stands at every position.

    Source: Reed et al. 2016 (GAN-INT-CLS), section 4.1: text replicated spatially, then 1x1.
    Differs: residual, so that the block can stand at any depth.
    """

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.text = nn.Linear(text_width, width)
        self.mix = nn.Linear(width, width)
        self.out = zero_init(nn.Linear(width, width))

    def prepare(self, text: TextFeatures) -> Any:
        """Text half of W1 [x ; pooled], (B, 1, D)."""
        return self.text(text.pooled).unsqueeze(1)

    def forward(self, x: Float[Tensor, "B N D"], context: Any) -> Float[Tensor, "B N D"]:
        """Computes W1 [x ; t] as W1x x + W1t t, the same sum without the copy."""
        return x + self.out(nn.functional.gelu(self.mix(x) + context))


class ModulationConditioning(nn.Module):
    """Modulation x + W silu((1 + s) LN(x) + b), scale s and shift b linear in the sentence vector.

    Source: Perez et al. 2018 (FiLM), eq. 2; Huang and Belongie 2017 (AdaIN), eq. 8.
    Differs: residual around the modulated branch, as adaLN blocks of DiT are.
    """

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.scale_shift = nn.Linear(text_width, 2 * width)
        self.out = zero_init(nn.Linear(width, width))

    def prepare(self, text: TextFeatures) -> Any:
        """Scale and shift, each (B, 1, D)."""
        return self.scale_shift(text.pooled).unsqueeze(1).chunk(2, dim=-1)

    def forward(self, x: Float[Tensor, "B N D"], context: Any) -> Float[Tensor, "B N D"]:
        """Computes the layer, see the class."""
        scale, shift = context
        return x + self.out(nn.functional.silu(self.norm(x) * (1 + scale) + shift))


class CrossAttentionConditioning(nn.Module):
    """Cross-attention x + Attn(LN(x), text tokens).

    Source: Rombach et al. 2022 (LDM), section 3.3.
    Differs: none.
    """

    def __init__(self, width: int, text_width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, context_width=text_width)
        zero_init(self.attention.to_out)

    def prepare(self, text: TextFeatures) -> Any:
        """Keys, values and mask of the prompt."""
        return self.attention.keys_values(text.tokens), text.mask

    def forward(self, x: Float[Tensor, "B N D"], context: Any) -> Float[Tensor, "B N D"]:
        """Computes the layer, see the class."""
        keys_values, mask = context
        return x + self.attention(self.norm(x), keys_values, mask)


def make_conditioning(
    kind: ConditioningKind, width: int, text_width: int, heads: int = 4
) -> nn.Module:
    """The block named ``kind``, over sequences (B, N, D).

    Raises:
        ConfigError: ``kind`` is none of the three.
    """
    if kind == "concat":
        return ConcatConditioning(width, text_width)
    if kind == "modulation":
        return ModulationConditioning(width, text_width)
    if kind == "cross_attention":
        return CrossAttentionConditioning(width, text_width, heads)
    raise ConfigError(
        f"conditioning={kind} is unknown; choose {', '.join(get_args(ConditioningKind))}."
    )


def text_block(kind: ConditioningKind, width: int, text_width: int, heads: int) -> nn.Module | None:
    """The block by which text enters a layer of a transformer; None where it is the prefix.

    ``concat`` puts the text in front of a sequence, so that layers need no block for it.

    Raises:
        ConfigError: see ``make_conditioning``.
    """
    return None if kind == "concat" else make_conditioning(kind, width, text_width, heads)


class SpatialConditioning(nn.Module):
    """Any of the three over a feature map (B, C, H, W), each pixel a token."""

    def __init__(
        self, kind: ConditioningKind, channels: int, text_width: int, heads: int = 4
    ) -> None:
        super().__init__()
        self.block = make_conditioning(kind, channels, text_width, heads)

    def prepare(self, text: TextFeatures) -> Any:
        """Part of the computation that depends on the prompt alone."""
        return self.block.prepare(text)

    def forward(self, x: Float[Tensor, "B C H W"], context: Any) -> Float[Tensor, "B C H W"]:
        """Applies the block to every pixel."""
        b, c, h, w = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
        tokens = self.block(tokens, context)
        return tokens.reshape(b, h, w, c).permute(0, 3, 1, 2)


def zero_init(layer: Layer) -> Layer:
    """Zeroes a layer so that its residual branch starts as the identity."""
    torch.nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        torch.nn.init.zeros_(layer.bias)
    return layer
