"""Blocks of the published diffusion UNets: DDPM's, ADM's and latent diffusion's.

Parameter names are those of the files that diffusers writes, so such a file loads strictly.
"""

from __future__ import annotations

from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, gelu, interpolate, linear, pad, silu
from torch.nn.functional import scaled_dot_product_attention as attend

from t2ibench.core.types import TextFeatures
from t2ibench.nn.conditioning import zero_init

TRANSFORMER_NORM_EPSILON = 1e-6
"""Epsilon of the GroupNorm in front of a transformer; independent of the residual blocks'."""


class ResidualBlock(nn.Module):
    """Residual block: skip(r(x)) + Conv(silu(GN(Conv(r(silu(GN(x)))) + W t))), r a resize or none.

    Args:
        wide_in: channels of the input.
        wide_out: channels of the output.
        time_width: width of the time embedding.
        groups: number of groups in both GroupNorms.
        epsilon: epsilon of both GroupNorms.
        scale_shift: True where time scales and shifts after the second norm; else it is added
            before it.
        resize: ``down`` halves, ``up`` doubles both sides; empty: neither.

    Source: Ho et al. 2020 (DDPM), appendix B; Dhariwal and Nichol 2021 (ADM), section 3 and
        appendix A (scale and shift, residual blocks that change the size).
    Differs: none.
    """

    def __init__(
        self,
        wide_in: int,
        wide_out: int,
        *,
        time_width: int,
        groups: int,
        epsilon: float,
        scale_shift: bool,
        resize: str = "",
    ) -> None:
        super().__init__()
        self.scale_shift, self.resize = scale_shift, resize
        self.norm1 = nn.GroupNorm(groups, wide_in, eps=epsilon)
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_width, 2 * wide_out if scale_shift else wide_out)
        self.norm2 = nn.GroupNorm(groups, wide_out, eps=epsilon)
        self.conv2 = zero_init(nn.Conv2d(wide_out, wide_out, 3, padding=1))
        self.projects = wide_in != wide_out
        if self.projects:
            self.conv_shortcut = nn.Conv2d(wide_in, wide_out, 1)

    def forward(
        self, x: Float[Tensor, "B C H W"], time: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B C2 H2 W2"]:
        """Feature map for x (B, C, H, W) and time (B, D), the activated time embedding."""
        h = self.conv1(self.resized(silu(self.norm1(x))))
        told = self.time_emb_proj(time)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + told)
        x = self.resized(x)
        return (self.conv_shortcut(x) if self.projects else x) + self.conv2(silu(h))

    def resized(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H2 W2"]:
        """Resized input: means of 2 x 2 squares, nearest neighbours, or the input itself."""
        if not self.resize:
            return x
        return avg_pool2d(x, 2) if self.resize == "down" else interpolate(x, scale_factor=2.0)


class MapAttention(nn.Module):
    """Residual self-attention over a map's positions: x + W softmax(q k^T / sqrt(E)) v.

    Source: Ho et al. 2020 (DDPM), appendix B; Dhariwal and Nichol 2021 (ADM), section 3.
    Differs: none.
    """

    def __init__(self, width: int, heads: int, groups: int, epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        self.group_norm = nn.GroupNorm(groups, width, eps=epsilon)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([zero_init(nn.Linear(width, width))])

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Feature map (B, C, H, W) after residual self-attention."""
        tokens = to_tokens(self.group_norm(x))
        q, k, v = (by_head(f(tokens), self.heads) for f in (self.to_q, self.to_k, self.to_v))
        return x + to_map(self.to_out[0](joined(attend(q, k, v))), x)


class Attention(nn.Module):
    """Attention W softmax(q k^T / sqrt(E)) v, without biases except the last.

    Args:
        width: width of the queries and the output.
        heads: number of heads.
        context_width: width of the context.

    Source: Rombach et al. 2022 (LDM), section 3.3.
    Differs: none.
    """

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def keys_values(self, context: Float[Tensor, "B M D"]) -> tuple[Tensor, Tensor]:
        """Keys and values of the context, each (B, A, M, E)."""
        return by_head(self.to_k(context), self.heads), by_head(self.to_v(context), self.heads)

    def forward(
        self, x: Float[Tensor, "B N D"], keys_values: Any = None, mask: Tensor | None = None
    ) -> Float[Tensor, "B N D"]:
        """Attention of x (B, N, D) to a context's keys and values, or to x itself; mask (B, M)."""
        k, v = self.keys_values(x) if keys_values is None else keys_values
        bias = None if mask is None else mask[:, None, None, :]
        return self.to_out[0](joined(attend(by_head(self.to_q(x), self.heads), k, v, bias)))


class GatedLinear(nn.Module):
    """Gated linear layer: a * gelu(b), [a; b] = W x.

    Source: Shazeer 2020 (GLU variants), eq. 6; Rombach et al. 2022 (LDM), released code.
    Differs: none.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D2"]:
        """Gated features (B, N, hidden) of x (B, N, D)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * gelu(gate)


class FeedForward(nn.Module):
    """MLP: a gated layer of four times the width, then a linear one; names skip a dropout."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 4 * width
        self.net = nn.ModuleList(
            [GatedLinear(width, hidden), nn.Identity(), nn.Linear(hidden, width)]
        )

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Features (B, N, D) after the MLP."""
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    """Transformer block: x + Self(LN(x)), then x + Cross(LN(x), text), then x + MLP(LN(x)).

    Source: Rombach et al. 2022 (LDM), appendix E.2.1.
    Differs: none.
    """

    def __init__(self, width: int, heads: int, text_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads, width)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, heads, text_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Float[Tensor, "B N D"], context: Any) -> Float[Tensor, "B N D"]:
        """Tokens (B, N, D) after the block, given an entry of ``SpatialTransformer.prepare``."""
        keys_values, mask = context
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), keys_values, mask)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Residual transformer with text over a map's positions: x + Out(Blocks(In(GN(x)))).

    Args:
        width: channels of the map.
        heads: number of heads in every attention.
        depth: number of transformer blocks.
        text_width: D of the text features.
        groups: number of groups in the GroupNorm.

    Source: Rombach et al. 2022 (LDM), appendix E.2.1.
    Differs: 1x1 convolutions run as the linear layers that they are.
    """

    def __init__(self, width: int, *, heads: int, depth: int, text_width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=TRANSFORMER_NORM_EPSILON)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(width, heads, text_width) for _ in range(depth)
        )
        self.proj_out = zero_init(nn.Conv2d(width, width, 1))

    def prepare(self, text: TextFeatures) -> list[Any]:
        """Keys and values of the prompts and mask of real tokens, for each transformer block."""
        # In training the question would wait for the device.
        unknown = self.training or text.mask.is_meta
        mask = text.mask if unknown or not bool(text.mask.all()) else None
        contexts = []
        for block in self.transformer_blocks:
            cross: Any = block.attn2
            contexts.append((cross.keys_values(text.tokens), mask))
        return contexts

    def forward(self, x: Float[Tensor, "B C H W"], contexts: list[Any]) -> Float[Tensor, "B C H W"]:
        """Feature map (B, C, H, W) after the transformer, given the contexts of ``prepare``."""
        h = pointwise(to_tokens(self.norm(x)), self.proj_in)
        for block, context in zip(self.transformer_blocks, contexts, strict=True):
            h = block(h, context)
        return x + to_map(pointwise(h, self.proj_out), x)


class Downsample(nn.Module):
    """Downsampling to half the size by a strided 3x3 convolution.

    Args:
        width: channels.
        asymmetric: True to pad zeros at the right and the bottom only.

    Source: Rombach et al. 2022 (LDM), released code; Ho et al. 2020 (DDPM), released code
        (TensorFlow's asymmetric padding).
    Differs: none.
    """

    def __init__(self, width: int, asymmetric: bool) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """Feature map of half the size."""
        return self.conv(pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    """Upsampling: nearest neighbours to the size of the next skip, then a 3x3 convolution.

    Source: Ho et al. 2020 (DDPM), appendix B.
    Differs: upsamples to the skip's size, so that odd sides work, too.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "B C h w"], size: tuple[int, int]
    ) -> Float[Tensor, "B C H W"]:
        """Feature map of x (B, C, h, w) at the height and width ``size``."""
        return self.conv(interpolate(x, size=size))


def to_tokens(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N C"]:
    """Tokens of a map: its positions in raster order; a view where x is channels_last."""
    return rearrange(x, "b c h w -> b (h w) c")


def to_map(tokens: Float[Tensor, "B N C"], like: Tensor) -> Float[Tensor, "B C H W"]:
    """Map of tokens at the size of ``like``, the inverse of ``to_tokens``."""
    return rearrange(tokens, "b (h w) c -> b c h w", h=like.shape[2])


def by_head(x: Float[Tensor, "B N D"], heads: int) -> Float[Tensor, "B A N E"]:
    """Width D split into A heads of width E."""
    return rearrange(x, "b n (a e) -> b a n e", a=heads)


def joined(x: Float[Tensor, "B A N E"]) -> Float[Tensor, "B N D"]:
    """Heads joined to width D, the inverse of ``by_head``."""
    return rearrange(x, "b a n e -> b n (a e)")


def pointwise(tokens: Float[Tensor, "B N C"], conv: nn.Conv2d) -> Float[Tensor, "B N C2"]:
    """Tokens after a 1x1 convolution."""
    return linear(tokens, conv.weight.flatten(1), conv.bias)
