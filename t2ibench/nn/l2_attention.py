"""Self-attention by distances, whose gradient stays bounded whatever its input."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from t2ibench.core.errors import ConfigError
from t2ibench.nn.adaptive import unbiased
from t2ibench.nn.stylegan import EqualisedLinear


def l2_attention(
    q: Float[Tensor, "B A N E"], k: Float[Tensor, "B A M E"], v: Float[Tensor, "B A M E"]
) -> Float[Tensor, "B A N E"]:
    r"""Attention :math:`\mathrm{softmax}_j(-|q_i - k_j|^2 / \sqrt{E}) v_j`.

    :math:`|q_i|^2` is the same for all j, so the logits are scalar products of
    :math:`[2 q_i ; 1]` with :math:`[k_j ; -|k_j|^2]`, which fused attention computes.

    With q = k and N tokens, :math:`\sum_j P_{ij} |q_i - q_j|^2 / \sqrt{E} \le v` where
    :math:`v e^{v + 1} = N - 1`: it is what bounds the layer's Jacobian.

    Source: Kim et al. 2021 (The Lipschitz constant of self-attention), section 3.2 and appendix.
    Differs: none.
    """
    scale = 1 / math.sqrt(q.shape[-1])
    longer = k.square().sum(-1, keepdim=True).neg()
    q = torch.cat([2 * scale * q, torch.full_like(q[..., :1], scale)], -1)
    k = torch.cat([k, longer], -1)
    return scaled_dot_product_attention(q, k, pad(v, (0, 1)), scale=1.0)[..., :-1]


class L2SelfAttention(nn.Module):
    """Residual self-attention of a feature map by distances: x + gain * Out(Attn(x)).

    Queries and keys are one projection, without bias: a bias would cancel.

    Args:
        channels: C.
        heads: A; must divide C.
        gain: of the residual branch.

    Raises:
        ConfigError: ``heads`` does not divide ``channels``.

    Source: Kang et al. 2023 (GigaGAN), section 3.1; Kim et al. 2021, section 3.2.
    Differs: the paper does not give the gain.
    """

    def __init__(self, channels: int, heads: int, gain: float) -> None:
        super().__init__()
        if channels % heads:
            raise ConfigError(
                f"{channels} channels of an attention are no multiple of heads={heads}; change "
                "model.module.*.heads or the width."
            )
        self.heads, self.gain = heads, gain
        self.to_qk = unbiased(channels, channels)
        self.to_v = EqualisedLinear(channels, channels)
        self.to_out = EqualisedLinear(channels, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Attends from every position to every position."""
        tokens = x.flatten(2).transpose(1, 2)
        qk, v = (
            rearrange(layer(tokens), "b n (a e) -> b a n e", a=self.heads)
            for layer in (self.to_qk, self.to_v)
        )
        found = rearrange(l2_attention(qk, qk, v), "b a n e -> b n (a e)")
        return x + self.gain * self.to_out(found).transpose(1, 2).reshape_as(x)
