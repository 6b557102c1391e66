"""Several devices: where this process stands among those of a run, and Lightning's strategy.

A run on R devices is R processes of the same program, one a device. Schedulers start them (``srun``
of SLURM, ``torchrun``); elsewhere ``engine/ranks.py`` does. They meet before any work, so that
caches, sampling and scoring are shared as training is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import ClusterEnvironment, SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy, Strategy

from t2ibench.core.errors import ConfigError
from t2ibench.core.launch import stand_at
from t2ibench.core.ranks import together
from t2ibench.training.sharding import ShardedStrategy, check_shardable

StrategyName = Literal["auto", "ddp", "fsdp"]

PATIENCE = timedelta(days=2)
"""How long ranks wait for each other: one may work for all. A death is noticed at once."""


GIVEN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""How torchrun tells a process where it stands."""


@dataclass(frozen=True)
class Place:
    """Where a process stands among those of its run.

    Attributes:
        rank: its number, from 0.
        world_size: how many there are.
        local_rank: its number on its machine.
        address: the machine of rank 0.
        port: where rank 0 listens.
    """

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int


def given_place(devices: int, num_nodes: int) -> Place | None:
    """This process's place where a launcher has started all of them; None where there is none.

    Raises:
        ConfigError: the launcher started another number of processes than ``trainer`` asks for.
    """
    place, source = None, ""
    if all(name in os.environ for name in GIVEN):
        number, count, local, address, port = (os.environ[name] for name in GIVEN)
        place = Place(int(number), int(count), int(local), address, int(port))
        source = "the launcher (torchrun --nnodes --nproc-per-node)"
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        slurm = SLURMEnvironment(auto_requeue=False)
        place = Place(
            slurm.global_rank(),
            slurm.world_size(),
            slurm.local_rank(),
            slurm.main_address,
            slurm.main_port,
        )
        source = "SLURM (--nodes, --ntasks-per-node; hydra.launcher.tasks_per_node)"
    if place is not None and place.world_size != devices * num_nodes:
        raise ConfigError(
            f"trainer.devices={devices} on trainer.num_nodes={num_nodes} are {devices * num_nodes} "
            f"processes, and {source} started {place.world_size}; make the two agree."
        )
    return place


def check_devices(trainer: Any, batch_sizes: Sequence[int]) -> None:
    """What can be known to be impossible before any work.

    Args:
        trainer: has ``strategy``, ``devices`` and ``num_nodes``.
        batch_sizes: of all devices together, in each training of the run.

    Raises:
        ConfigError: an unknown strategy, no device, or a batch that they cannot share.
    """
    strategy, devices, num_nodes = trainer.strategy, trainer.devices, trainer.num_nodes
    if strategy not in get_args(StrategyName):
        raise ConfigError(
            f"trainer.strategy={strategy} is unknown; choose {', '.join(get_args(StrategyName))}."
        )
    if devices < 1 or num_nodes < 1:
        raise ConfigError(
            f"trainer.devices={devices} and trainer.num_nodes={num_nodes} must be at least 1."
        )
    if strategy == "fsdp" and devices * num_nodes == 1:
        raise ConfigError(
            "trainer.strategy=fsdp shards over several devices; set trainer.devices, or "
            "trainer.strategy=auto."
        )
    count = devices * num_nodes
    odd = [size for size in batch_sizes if size % count]
    if odd:
        raise ConfigError(
            f"training.batch_size={odd[0]} is the whole batch, which {count} devices cannot share; "
            f"choose a multiple of {count} (in the model and in its first stage)."
        )


def meet(place: Place, store: dist.TCPStore | None = None) -> dist.Store:
    """Joins the processes of a run: gloo between CPUs, nccl between GPUs.

    Args:
        place: of this process.
        store: rank 0's, where it already listens.
    """
    stand_at(place.rank)
    if store is None:
        store = dist.TCPStore(
            place.address, place.port, place.world_size, place.rank == 0, timeout=PATIENCE
        )
    backend = "cpu:gloo"
    if torch.cuda.is_available():
        backend += ",cuda:nccl"
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    dist.init_process_group(
        backend, store=store, rank=place.rank, world_size=place.world_size, timeout=PATIENCE
    )
    return store


def device_here(accelerator: str) -> torch.device:
    """Where this process samples: the GPU that it trained on, or the CPU."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


class Met(ClusterEnvironment):
    """Tells Lightning of processes that have already met; it starts and joins none."""

    def __init__(self, local_rank: int, num_nodes: int) -> None:
        super().__init__()
        self._local_rank = local_rank
        self._num_nodes = num_nodes

    @property
    def creates_processes_externally(self) -> bool:
        """They are there."""
        return True

    @property
    def main_address(self) -> str:
        """Not needed any more."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """Not needed any more."""
        return 0

    @staticmethod
    def detect() -> bool:
        """Never chosen by Lightning itself."""
        return False

    def world_size(self) -> int:
        """Processes in all."""
        return dist.get_world_size()

    def set_world_size(self, size: int) -> None:
        """It is known."""

    def global_rank(self) -> int:
        """This process's number."""
        return dist.get_rank()

    def set_global_rank(self, rank: int) -> None:
        """It is known."""

    def local_rank(self) -> int:
        """Its number on its machine."""
        return self._local_rank

    def node_rank(self) -> int:
        """The number of its machine."""
        return dist.get_rank() // (dist.get_world_size() // self._num_nodes)


def strategy_for(module: Any, name: StrategyName, devices: int, num_nodes: int) -> Strategy | str:
    """Lightning's strategy for a module.

    Losses and noise are those of the whole batch (``core/ranks.py``), buffers change alike on all
    ranks, and a module that trains in turns leaves the other networks' gradients unused.

    Raises:
        ConfigError: fsdp for a module that has no blocks to shard.
    """
    if devices * num_nodes == 1:
        return "auto"
    environment = None
    if together():
        environment = Met(dist.get_rank() % devices, num_nodes)
    if name == "fsdp":
        check_shardable(module)
        return ShardedStrategy(environment)
    return DDPStrategy(
        cluster_environment=environment,
        find_unused_parameters=module.trains_in_turns,
        broadcast_buffers=False,
        timeout=PATIENCE,
    )
