"""A masked transformer that learns in minutes: Muse's layers, over codes that see their neighbours.

This project's own, the masked sibling of ``autoregressive/fast_gpt``: there each position reads the
twelve codes before it in the plane, here the eight around it, known or masked, and itself.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from t2ibench.families.masked.muse import Muse
from t2ibench.nn.conditioning import ConditioningKind


class MaskedNeighbours(Muse):
    """Muse's transformer whose input at a position is one linear layer of a 3 x 3 window of codes.

    Its arguments are Muse's.

    Source: Chang et al. 2023 (Muse), section 2.3.
    Differs: the window, so that the network need not learn at every place anew which codes lie
        around it (measured for ``fast_gpt``, not here); positions are added after it.
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
        super().__init__(
            codebook_size=codebook_size,
            length=length,
            text_width=text_width,
            width=width,
            depth=depth,
            heads=heads,
            dropout=dropout,
            conditioning=conditioning,
        )
        self.near = nn.Conv2d(width, width, 3, padding=1)

    def inputs(self, codes: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        """Embedded windows around every position, zero outside of the grid, with positions."""
        grid = self.embedded(codes).unflatten(1, (self.side, self.side))
        near = self.near(grid.permute(0, 3, 1, 2)).flatten(2).mT
        return near + self.positions()
