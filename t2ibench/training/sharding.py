"""Fully sharded training (FSDP2): each rank holds a part of every weight, gradient and moment.

The blocks of a network are gathered one by one as they are needed; the rest of the module for
the whole step. Checkpoints hold whole tensors, so that a run begun on any number of devices
continues with any strategy.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from t2ibench.core.errors import ConfigError
from t2ibench.core.shards import part_of, whole

SHARDED_METHODS = ("training_step", "validation_losses")
"""Methods that Lightning and our callbacks call while the module is sharded."""


class ShardedStrategy(DDPStrategy):
    """DDP with the module sharded instead of replicated; runs on CPUs (gloo) and GPUs."""

    def __init__(self, environment: ClusterEnvironment | None) -> None:
        super().__init__(cluster_environment=environment)

    def configure_ddp(self) -> None:
        """Shards the module, each of its blocks by itself."""
        module: Any = self.model
        module.to(memory_format=torch.contiguous_format)  # channels_last weights cannot be sharded
        for block in sharded_blocks(module):
            fully_shard(block)
            if hasattr(block, "prepare"):
                register_fsdp_forward_method(block, "prepare")
        fully_shard(module, reshard_after_forward=False)
        for name in SHARDED_METHODS:
            register_fsdp_forward_method(module, name)

    def teardown(self) -> None:
        """Leaves the module sharded on its device: the whole weights are on disk."""
        self.precision_plugin.teardown()
        if self.accelerator is not None:
            self.accelerator.teardown()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """State dict of whole tensors on the CPU; every rank takes part."""
        assert self.lightning_module is not None
        return {n: whole(t).cpu() for n, t in self.lightning_module.state_dict().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """State of an optimiser with whole tensors, as without sharding."""
        state = optimizer.state_dict()
        kept = {
            index: {n: whole(v) if isinstance(v, Tensor) else v for n, v in values.items()}
            for index, values in state["state"].items()
        }
        return state | {"state": kept}

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Loads each rank's part of the whole tensors."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            parts = {
                index: {n: part_of(v, parameters[index]) for n, v in values.items()}
                for index, values in state["state"].items()
            }
            optimizer.load_state_dict(state | {"state": parts})


def sharded_blocks(module: Any) -> list[nn.Module]:
    """Blocks of a module's networks that are sharded one by one (``blocks_to_shard``)."""
    networks = module.networks().values()
    return [b for n in networks if hasattr(n, "blocks_to_shard") for b in n.blocks_to_shard()]


def check_shardable(module: Any) -> None:
    """Checks that a module can be trained with ``trainer.strategy=fsdp``.

    Raises:
        ConfigError: its network has no blocks to gather one by one, or one of two players has
            none: gradients are shared out where a block's backward pass begins, so that this
            player would never learn; or a loss has second derivatives.
    """
    networks = module.networks().values()
    players = [n for n in networks if hasattr(n, "blocks_to_shard") and n.blocks_to_shard()]
    if len(players) < (2 if module.trains_in_turns else 1):
        raise ConfigError(
            f"trainer.strategy=fsdp shards transformers and UNets block by block, and "
            f"{type(module).__name__} lacks such a network; set trainer.strategy=ddp."
        )
    if key := getattr(module, "second_derivatives", ""):
        raise ConfigError(
            f"trainer.strategy=fsdp frees weights that the gradient penalty of {key} needs for its "
            f"second derivative; set {key}=0 or trainer.strategy=ddp."
        )


def is_sharded(module: nn.Module) -> bool:
    """True where a module's weights are spread over ranks, so that all take part in its work."""
    return any(isinstance(p, DTensor) for p in module.parameters())


def unsharded(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors of a state dict or an average."""
    with torch.no_grad():
        return {name: whole(tensor) for name, tensor in tensors.items()}
