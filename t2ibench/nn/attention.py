"""Multi-head attention over ``scaled_dot_product_attention``, keys and values apart.

Keys and values are made by ``keys_values`` so that those of a fixed prompt are computed
once a prompt and not once a sampling step.
"""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

KeysValues = tuple[Float[Tensor, "B A M E"], Float[Tensor, "B A M E"]]


class Attention(nn.Module):
    """Self- or cross-attention softmax(q k^T / sqrt(E)) v with output projection.

    Args:
        width: D of the queries and of the output.
        heads: A; must divide ``width``.
        context_width: D of what is attended to; None means self-attention.

    Source: Vaswani et al. 2017, eq. 1 and section 3.2.2.
    Differs: none.
    """

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(context_width or width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width)

    def keys_values(self, context: Float[Tensor, "B M D2"]) -> KeysValues:
        """The keys and values of a context, each (B, A, M, E)."""
        k, v = self.to_kv(context).chunk(2, dim=-1)
        return (
            rearrange(k, "b m (a e) -> b a m e", a=self.heads),
            rearrange(v, "b m (a e) -> b a m e", a=self.heads),
        )

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        keys_values: KeysValues | None = None,
        mask: Bool[Tensor, "B M"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "B N D"]:
        """Attends from ``x`` to ``keys_values`` (default: to itself).

        Args:
            x: (B, N, D).
            keys_values: from ``keys_values``; None is self-attention.
            mask: (B, M) True where a key is real.
            causal: position n sees keys up to n (self-attention only).
        """
        k, v = self.keys_values(x) if keys_values is None else keys_values
        q = rearrange(self.to_q(x), "b n (a e) -> b a n e", a=self.heads)
        bias = None if mask is None else mask[:, None, None, :].expand(-1, 1, q.shape[2], -1)
        out = scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal)
        return self.to_out(rearrange(out, "b a n e -> b n (a e)"))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and MLP: x + Attn(LN(x)), then x + MLP(LN(x)).

    Source: Xiong et al. 2020 (pre-LN transformer), figure 1b.
    Differs: none.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Applies the block to x (B, N, D); mask (B, N) is True where a position is real."""
        x = x + self.attention(self.norm_attention(x), mask=mask)
        return x + self.mlp(self.norm_mlp(x))
