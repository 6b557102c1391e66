"""Batch normalisation whose statistics are those of the batch of all ranks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.core.ranks import gathered, together


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation y = gamma (x - mean) / sqrt(var + eps) + beta, a channel at a time.

    In training mean and variance are those of the batch, over all ranks; in evaluation they are
    running averages, so that a sample does not depend on its batch. A batch that is accumulated
    in parts is normalised part by part.

    Args:
        channels: C; x is (B, C) or (B, C, H, W).

    Source: Ioffe and Szegedy 2015, algorithms 1 and 2.
    Differs: several devices share their statistics.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def _check_input_dim(self, x: Tensor) -> None:
        """Accepts every shape with channels in the second place."""

    def forward(self, x: Float[Tensor, "B C *S"]) -> Float[Tensor, "B C *S"]:
        """Normalises x."""
        if not (self.training and together()):
            return super().forward(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        values = x.float()
        mean = values.mean(axes)
        count = torch.full_like(mean, x.numel() / x.shape[1])
        mine = torch.stack([mean, values.var(axes, correction=0), count])
        means, variances, counts = gathered(mine[None]).unbind(1)
        shares = counts / counts.sum(0)
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        self._remember(mean.detach(), variance.detach(), counts.detach().sum(0))
        shape = [1, -1, *[1] * (x.ndim - 2)]
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (values * scale.view(shape) + shift.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Moves the running averages; ``count`` values a channel gave the statistics."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)
