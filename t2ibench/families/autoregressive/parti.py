"""The transformer of Parti: an encoder of the text, a decoder of the codes that attends to it.

Yu et al. 2022, "Scaling Autoregressive Models for Content-Rich Text-to-Image Generation".
Neither code nor weights are published: what the paper does not say (positions, biases, initial
weights, the window of the sparse attention) is our reading.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures
from t2ibench.families.autoregressive.decoder import (
    Cache,
    Mask,
    PrefixDecoder,
    Store,
    attend,
    check_heads,
    flush_right,
)
from t2ibench.families.autoregressive.weight_decay import Decayed
from t2ibench.nn.attention import Attention
from t2ibench.nn.conditioning import ConditioningKind, ModulationConditioning
from t2ibench.nn.row_dropout import RowDropout
from t2ibench.text.contract import mean_of_real_tokens

INITIAL_STD = 0.02


def initialise(layer: nn.Module) -> None:
    """Draws weights of linear layers and embeddings from N(0, 0.02); biases are zero."""
    if isinstance(layer, nn.Linear | nn.Embedding):
        nn.init.normal_(layer.weight, std=INITIAL_STD)
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)


def convolution_window(side: int, window: int) -> Bool[Tensor, "N N"]:
    """Mask of the codes in a square around each code, as a convolution sees them.

    Row n belongs to the code that is predicted, column m to the input before code m: code m - 1,
    or at m = 0 the start, which every row sees. The code just before n is always seen.

    Args:
        side: height and width of the plane in codes.
        window: side of the square, odd.

    Source: Yu et al. 2022 (Parti), section 2.2; Ramesh et al. 2021 (DALL-E), figure 11.
    Differs: in every layer; the square's side is in neither paper for this model.
    """
    places = torch.arange(side * side)
    rows, columns = places // side, places % side
    reach = window // 2
    inputs = places - 1
    above = rows[:, None] - inputs[None] // side
    beside = (columns[:, None] - inputs[None] % side).abs()
    near = (above <= reach) & (beside <= reach)
    return near | (inputs < 0)[None] | (inputs[None] == places[:, None] - 1)


class MLP(nn.Sequential):
    """Linear, GELU, linear, 4 D wide."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class EncoderBlock(nn.Module):
    """Pre-norm block of the text: attention to the caption's real tokens, then an MLP.

    Source: Yu et al. 2022 (Parti), section 2.2 and table 1; Vaswani et al. 2017.
    Differs: pre-norm, which the paper does not say.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.dropout = RowDropout(dropout)

    def forward(
        self, x: Float[Tensor, "B L D"], real: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L D"]:
        """Output of the block; padding is not attended to."""
        qkv = self.to_qkv(self.norm_attention(x))
        q, keys, values = rearrange(qkv, "b l (s a e) -> s b a l e", s=3, a=self.heads)
        out = scaled_dot_product_attention(q, keys, values, attn_mask=real[:, None, None])
        x = x + self.dropout(self.to_out(rearrange(out, "b a l e -> b l (a e)")))
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class DecoderBlock(nn.Module):
    """Pre-norm block of the codes: causal attention, text, MLP.

    Args:
        width: D.
        heads: A.
        conditioning: ``cross_attention`` as the paper; ``modulation``; nothing for ``concat``.
        dropout: rate on all residual branches.

    Source: Yu et al. 2022 (Parti), section 2.2 and table 1; Vaswani et al. 2017.
    Differs: pre-norm, which the paper does not say; modulation and a text prefix are ours.
    """

    def __init__(
        self, width: int, heads: int, conditioning: ConditioningKind, dropout: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        self.norm_cross: nn.LayerNorm | None = None
        self.cross: Attention | None = None
        if conditioning == "cross_attention":
            self.norm_cross = nn.LayerNorm(width)
            self.cross = Attention(width, heads, context_width=width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.dropout = RowDropout(dropout)
        self.apply(initialise)
        # It starts at zero.
        self.modulation = (
            ModulationConditioning(width, width) if conditioning == "modulation" else None
        )

    def prepare(self, text: TextFeatures) -> Any:
        """Keys and values of the encoded text, or its scale and shift; once for each prompt."""
        if self.cross is not None:
            return self.cross.keys_values(text.tokens), text.mask
        return None if self.modulation is None else self.modulation.prepare(text)

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
        if context is None and text is not None:
            context = self.prepare(text)
        if self.cross is not None and self.norm_cross is not None:
            x = x + self.dropout(self.cross(self.norm_cross(x), *context))
        elif self.modulation is not None:
            x = self.modulation(x, context)
        return x + self.dropout(self.mlp(self.norm_mlp(x)))


class Parti(PrefixDecoder):
    """Encoder-decoder over text and codes.

    Args:
        codebook_size: V, number of codes in the codebook.
        length: N, codes an image, a square number (raster order).
        text_width: D of the text features.
        text_length: most tokens of a caption.
        width: D of both transformers.
        encoder_depth: layers of the text's encoder.
        depth: layers of the codes' decoder.
        heads: A, number of attention heads.
        window: side of the square that a code looks at in every layer, odd; 0 is all before it.
        dropout: dropout rate of embeddings and residual branches.
        conditioning: text mechanism; ``concat`` puts the encoded text in front as a prefix.

    Raises:
        ConfigError: the heads do not share the width, the window is even, or the codes are no
            square.

    Source: Yu et al. 2022 (Parti), section 2.2 and table 1: 20 billion at size=paper.
    Differs: the encoder reads the text encoder's features through a linear layer, not 16,000
        SentencePiece tokens, and is not pre-trained; learned absolute positions, biases, GELU,
        initial weights of 0.02 and the window are our reading.
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
        encoder_depth: int,
        depth: int,
        heads: int,
        window: int,
        dropout: float,
        conditioning: ConditioningKind,
    ) -> None:
        super().__init__()
        check_heads(width, heads)
        self.length = length
        self.text = nn.Linear(text_width, width)
        self.text_position = nn.Parameter(torch.randn(text_length, width) * INITIAL_STD)
        self.encoder = nn.ModuleList(
            EncoderBlock(width, heads, dropout) for _ in range(encoder_depth)
        )
        self.text_norm = nn.LayerNorm(width)
        self.code = nn.Embedding(codebook_size, width)
        self.start = (
            None
            if conditioning == "concat"
            else nn.Parameter(torch.randn(1, 1, width) * INITIAL_STD)
        )
        self.position = nn.Parameter(torch.randn(length, width) * INITIAL_STD)
        self.dropout = RowDropout(dropout)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, codebook_size, bias=False)
        self.apply(initialise)
        self.blocks = nn.ModuleList(
            DecoderBlock(width, heads, conditioning, dropout) for _ in range(depth)
        )
        if window:
            self.near = self._window(window)

    def _window(self, window: int) -> Bool[Tensor, "N N"]:
        side = round(self.length**0.5)
        if window % 2 == 0 or side * side != self.length:
            raise ConfigError(
                f"model.module.network.window={window} must be odd, and its {self.length} codes a "
                "square; choose an odd window, or 0 for none."
            )
        return convolution_window(side, window)

    def blocks_to_shard(self) -> list[nn.Module]:
        """Blocks that FSDP shards and gathers one by one."""
        return [*self.encoder, *self.blocks]

    def encode(self, text: TextFeatures) -> TextFeatures:
        """The caption read by the encoder, once for each prompt."""
        x = self.text(text.tokens) + self.text_position[: text.tokens.shape[1]]
        x = self.dropout(x)
        for block in self.encoder:
            x = block(x, text.mask)
        x = self.text_norm(x)
        return TextFeatures(x, text.mask, mean_of_real_tokens(x, text.mask))

    def forward(self, codes: Int[Tensor, "B N"], text: TextFeatures) -> Float[Tensor, "B N V"]:
        """Logits of every code given those before it (teacher forcing)."""
        return super().forward(codes, self.encode(text))

    def start_cache(self, text: TextFeatures) -> Cache:
        """Cache that already holds the encoded prompts' keys and values."""
        return super().start_cache(self.encode(text))

    def prefix(
        self, text: TextFeatures
    ) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"] | None]:
        """The start, or the encoded caption."""
        if self.start is not None:
            return self.start.expand(len(text), 1, -1), None
        return flush_right(text)

    def enter(self, x: Float[Tensor, "B M D"], place: int) -> tuple[Float[Tensor, "B M D"], None]:
        """Adds the position of the code that is predicted; an encoded caption has its own."""
        stop = place + x.shape[1] + 1
        position = self.position[max(0, place + 1) : stop]
        if place < -1:
            position = torch.cat([position.new_zeros(-1 - place, x.shape[2]), position])
        return self.dropout(x + position), None

    def logits(self, x: Float[Tensor, "B M D"]) -> Float[Tensor, "B M V"]:
        """Logits of the next codes from the last block's output."""
        return self.head(self.norm(x))
