"""The processes that work on one run together: who this one is, and what it shares with the others.

Every process runs the same program; the first alone writes files. Where there is one process,
everything here is the identity and costs nothing.

Training on R ranks gives what training on one gives, because what depends on the whole batch is
computed from the whole batch: ``own_rows`` draws for all of it and keeps this rank's rows,
``gathered`` shows a loss all rows, with gradients. Each rank's loss is the mean over its own rows,
so that the mean of the ranks' gradients is the gradient of the mean over the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

POLL_SECONDS = 0.005


def together() -> bool:
    """True where this process works with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number among those that work together, from 0."""
    return dist.get_rank() if together() else 0


def world_size() -> int:
    """Number of processes that work together."""
    return dist.get_world_size() if together() else 1


def barrier() -> None:
    """Waits until every rank is here; signals are heard meanwhile."""
    if together():
        work = dist.all_reduce(torch.zeros(1), async_op=True)
        while not work.is_completed():
            time.sleep(POLL_SECONDS)
        work.wait()


def from_first(compute: Callable[..., T], *given: Any) -> T:
    """Result that the first rank computes, on every rank; the others wait for it."""
    return spread([lambda: compute(*given)])[0]


def spread(jobs: Sequence[Callable[[], T]]) -> list[T]:
    """The results of all jobs, on every rank; job i is done by rank i modulo their number."""
    if not together():
        return [job() for job in jobs]
    mine = {i: job() for i, job in enumerate(jobs) if i % world_size() == rank()}
    barrier()
    everyones: list[dict[int, T]] = [{} for _ in range(world_size())]
    dist.all_gather_object(everyones, mine)
    return [everyones[i % world_size()][i] for i in range(len(jobs))]


def own(rows: Any, count: int) -> Any:
    """This rank's ``count`` rows of what holds those of all ranks."""
    start = rank() * count
    return rows[start : start + count] if together() else rows


def own_rows(draw: Callable[[int], Tensor], count: int) -> Tensor:
    """This rank's rows of a draw for the whole batch, the same on any number of ranks.

    All ranks have one seed, so each draws the batch's numbers and keeps its own: a few
    milliseconds a step on a GPU even at a batch of thousands.

    Args:
        draw: makes n rows by torch's global generator.
        count: rows of this rank.
    """
    return own(draw(count * world_size()), count)


def noise_like(x: Tensor) -> Tensor:
    """Standard normal noise like ``x``, drawn by ``own_rows``."""
    if not together():
        return torch.randn_like(x)

    def draw(count: int) -> Tensor:
        # In the layout of x, whose order in memory is the order of the draws.
        rows = torch.empty_like(x.repeat(count // len(x), *[1] * (x.ndim - 1)))
        if x.ndim == 4 and not x.is_contiguous():
            rows = rows.contiguous(memory_format=torch.channels_last)
        return rows.normal_()

    return own_rows(draw, len(x))


def gathered(mine: Tensor) -> Tensor:
    """The rows of all ranks in their order, with gradients.

    Backward sums what every rank's loss says of this rank's rows.
    """
    return cast(Tensor, _Gather.apply(mine)) if together() else mine


def summed(value: Tensor) -> Tensor:
    """The sum over the ranks, without gradients."""
    if together():
        value = value.detach().clone()
        dist.all_reduce(value)
    return value


def averaged(value: Tensor) -> Tensor:
    """The mean over the ranks, without gradients."""
    return summed(value) / world_size() if together() else value


def greatest(value: int) -> int:
    """The greatest of the ranks' numbers."""
    if not together():
        return value
    found = torch.tensor([value])
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


class Counting:
    """Switch: while ``on``, ranks pad captions to the longest of all, as one process would.

    Only the step whose FLOPs are counted needs it; padding changes no result.
    """

    on = False


def longest(length: int) -> int:
    """Number of tokens to pad captions to, where this rank's longest has ``length``."""
    return greatest(length) if Counting.on else length


class _Gather(torch.autograd.Function):
    """All ranks' rows; the gradients of all ranks' losses come back to the rows' owner."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        ctx.count = len(mine)
        rows = mine.contiguous()
        sent = rows.byte() if rows.dtype == torch.bool else rows
        pieces = [torch.empty_like(sent) for _ in range(world_size())]
        dist.all_gather(pieces, sent)
        return torch.cat(pieces).to(mine.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return own(summed(gradients[0].contiguous()), ctx.count)
