"""Finite scalar quantisation: every number is rounded to one of a few levels; no codebook."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from t2ibench.autoencoders.contract import Latents
from t2ibench.autoencoders.quantizer import Quantised, Quantizer
from t2ibench.core.errors import ConfigError

MARGIN = 1e-3
"""Share by which the bounds stay inside the outer levels (released code)."""


class FiniteScalarQuantizer(Quantizer):
    """Quantiser that rounds each of C bounded numbers to one of L_i levels: V = product of L_i.

    With h_i = (L_i - 1)(1 - 0.001) / 2, and o_i = 1/2 for even L_i and 0 for odd ones:

        f(z)_i = h_i tanh(z_i + tan(o_i / h_i)) - o_i
        e_i = round(f(z)_i) / floor(L_i / 2)

    The gradient passes the rounding as if it were not there, and the bound f as it is. The index
    of a code counts its levels as digits, the first number the lowest. Nothing is learned, so no
    code dies of its own and the penalty is 0.

    Args:
        levels: L_i of each number; the paper's for about 2^10 codes are [8, 5, 5, 5].

    Raises:
        ConfigError: no number, or fewer than two levels.

    Source: Mentzer et al. 2023 (FSQ), section 3 and appendix A.1.
    Differs: none; tan stands where the inverse of tanh would centre f, as in that appendix.
    """

    sizes: Int[Tensor, " C"]
    digits: Int[Tensor, " C"]

    def __init__(self, *, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ConfigError(
                f"levels={list(levels)} of finite scalar quantisation must be at least one number "
                "of at least 2 levels, for example [8, 5, 5, 5]."
            )
        self.codebook_size = prod(levels)
        self.width = len(levels)
        powers = [prod(levels[:i]) for i in range(len(levels))]
        # Constants, no weights: not in the state dict.
        self.register_buffer("sizes", torch.tensor(list(levels)), persistent=False)
        self.register_buffer("digits", torch.tensor(powers), persistent=False)

    @property
    def remedy(self) -> str:
        """The settings to turn where codes die."""
        return f"choose fewer levels than the {self.codebook_size} codes of {self.sizes.tolist()}"

    def bounded(self, vectors: Float[Tensor, "*M C"]) -> Float[Tensor, "*M C"]:
        """f(z), see the class; rounds to the integers -floor(L_i / 2) to ceil(L_i / 2) - 1."""
        half = (self.sizes - 1) * (1 - MARGIN) / 2
        offset = 0.5 * (1 - self.sizes % 2)
        return half * (vectors + (offset / half).tan()).tanh() - offset

    def nearest(self, vectors: Float[Tensor, "M C"]) -> Int[Tensor, " M"]:
        """Index of the code of each vector."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.index(self.bounded(vectors.float()).round())

    def index(self, rounded: Float[Tensor, "*M C"]) -> Int[Tensor, "*M"]:
        """Index of rounded numbers: sum of (e_i + floor(L_i / 2)) times the digit's worth."""
        return ((rounded.long() + self.sizes // 2) * self.digits).sum(-1)

    def lookup(self, codes: Int[Tensor, "*M"]) -> Float[Tensor, "*M C"]:
        """The code vectors, in [-1, 1]."""
        half = self.sizes // 2
        levels = codes[..., None] // self.digits % self.sizes
        return (levels - half) / half

    def forward(self, latents: Latents) -> Quantised:
        """The rounded numbers, straight-through."""
        with torch.autocast(latents.device.type, enabled=False):
            bounded = self.bounded(latents.float().permute(0, 2, 3, 1))
            rounded = bounded.detach().round()
            vectors = (bounded + (rounded - bounded).detach()) / (self.sizes // 2)
            codes = self.index(rounded).flatten(1)
            return Quantised(vectors.permute(0, 3, 1, 2), codes, bounded.new_zeros(()))
