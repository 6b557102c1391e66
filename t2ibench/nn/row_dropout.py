"""Dropout that a batch split over ranks draws as one process draws it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t2ibench.core.ranks import own_rows


class RowDropout(nn.Module):
    """Dropout x m / (1 - p), m = 1 with probability 1 - p, in training alone.

    On several ranks the masks are those of the whole batch, and each rank keeps its own rows.

    Args:
        rate: p, from 0 (off) to below 1.

    Source: Srivastava et al. 2014 (dropout), section 4, with the scale at training time.
    Differs: none.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drops values of x (B, …); the identity in eval mode."""
        if not self.training or self.rate == 0:
            return x
        draws = own_rows(lambda n: torch.rand(n, *x.shape[1:], device=x.device), len(x))
        return x * (draws >= self.rate).to(x.dtype) / (1 - self.rate)
