"""Tensors that are spread over ranks: the whole of one, and a rank's part of a whole."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor's whole value, in which every rank takes part; another tensor itself."""
    return cast(Tensor, tensor.full_tensor()) if isinstance(tensor, DTensor) else tensor


def part_of(value: Any, like: Tensor) -> Any:
    """This rank's part of a whole tensor that is sharded as ``like``; other values themselves."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.ndim == 0:
        return value
    on_device = value.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)


def gather(module: nn.Module) -> None:
    """Gathers what a sharded module holds outside of its blocks; does nothing for another.

    A backward pass spreads it again, so it is gathered before each player's losses.
    """
    if isinstance(module, FSDPModule):
        module.unshard()


def stepped(optimizer: Optimizer) -> list[Tensor]:
    """The sharded parameters that an optimiser steps; none where they are not sharded.

    They carry the gradients, while in a training step the module shows gathered ones that do not.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return parameters if any(isinstance(p, DTensor) for p in parameters) else []
