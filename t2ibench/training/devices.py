"""Several devices: a process's rank, its process group, and Lightning's strategy.

A run on R devices is R processes of the same program, one a device. A launcher starts them
(SLURM's ``srun``, ``torchrun``); without one ``engine/ranks.py`` does. They join one process group
before any work, so that caches, sampling and scoring are shared as training is.
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

TIMEOUT = timedelta(days=2)
"""Timeout of collectives: other ranks may wait while one works. A dead rank is noticed at once."""

TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables in which torchrun gives a process its rank and the rendezvous."""


@dataclass(frozen=True)
class RankInfo:
    """Rank of a process among those of its run, and the address where they meet.

    Attributes:
        rank: number of the process, from 0.
        world_size: number of processes.
        local_rank: number of the process on its machine.
        address: host name of rank 0's machine.
        port: port on which rank 0 listens.
    """

    rank: int
    world_size: int
    local_rank: int
    address: str
    port: int


def rank_from_launcher(devices: int, num_nodes: int) -> RankInfo | None:
    """Rank of this process from the launcher that started it; None without a launcher.

    Raises:
        ConfigError: the launcher started another number of processes than ``trainer`` asks for.
    """
    info, source = None, ""
    if all(name in os.environ for name in TORCHRUN_VARIABLES):
        number, count, local, address, port = (os.environ[name] for name in TORCHRUN_VARIABLES)
        info = RankInfo(int(number), int(count), int(local), address, int(port))
        source = "the launcher (torchrun --nnodes --nproc-per-node)"
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        slurm = SLURMEnvironment(auto_requeue=False)
        info = RankInfo(
            slurm.global_rank(),
            slurm.world_size(),
            slurm.local_rank(),
            slurm.main_address,
            slurm.main_port,
        )
        source = "SLURM (--nodes, --ntasks-per-node; hydra.launcher.tasks_per_node)"
    if info is not None and info.world_size != devices * num_nodes:
        raise ConfigError(
            f"trainer.devices={devices} on trainer.num_nodes={num_nodes} are {devices * num_nodes} "
            f"processes, and {source} started {info.world_size}; make the two agree."
        )
    return info


def check_devices(trainer: Any, batch_sizes: Sequence[int]) -> None:
    """Refuses impossible settings of devices before any work.

    Args:
        trainer: has ``strategy``, ``devices`` and ``num_nodes``.
        batch_sizes: batch size over all devices of each training of the run.

    Raises:
        ConfigError: an unknown strategy, no device, or a batch that the devices cannot share.
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
            f"model.training.batch_size={odd[0]} is the whole batch, which {count} devices cannot "
            f"share; choose a multiple of {count} (in the model and in its first stage)."
        )


def join_process_group(info: RankInfo, store: dist.TCPStore | None = None) -> dist.Store:
    """Joins the process group of a run: gloo between CPUs, nccl between GPUs.

    Args:
        info: rank and rendezvous of this process.
        store: rank 0's store where it already listens; None: connects to one.
    """
    stand_at(info.rank)
    if store is None:
        store = dist.TCPStore(
            info.address, info.port, info.world_size, info.rank == 0, timeout=TIMEOUT
        )
    backend = "cpu:gloo"
    if torch.cuda.is_available():
        backend += ",cuda:nccl"
        torch.cuda.set_device(info.local_rank % torch.cuda.device_count())
    dist.init_process_group(
        backend, store=store, rank=info.rank, world_size=info.world_size, timeout=TIMEOUT
    )
    return store


class JoinedEnvironment(ClusterEnvironment):
    """Lightning's view of processes that have already joined their group; starts and joins none."""

    def __init__(self, local_rank: int, num_nodes: int) -> None:
        super().__init__()
        self._local_rank = local_rank
        self._num_nodes = num_nodes

    @property
    def creates_processes_externally(self) -> bool:
        """True: the processes are already running."""
        return True

    @property
    def main_address(self) -> str:
        """A placeholder: the processes have already connected."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """A placeholder: the processes have already connected."""
        return 0

    @staticmethod
    def detect() -> bool:
        """False: Lightning never chooses this environment itself."""
        return False

    def world_size(self) -> int:
        """Number of processes."""
        return dist.get_world_size()

    def set_world_size(self, size: int) -> None:
        """Does nothing: the process group has fixed it."""

    def global_rank(self) -> int:
        """Rank of this process."""
        return dist.get_rank()

    def set_global_rank(self, rank: int) -> None:
        """Does nothing: the process group has fixed it."""

    def local_rank(self) -> int:
        """Number of this process on its machine."""
        return self._local_rank

    def node_rank(self) -> int:
        """Number of this process's machine."""
        return dist.get_rank() // (dist.get_world_size() // self._num_nodes)


def strategy_for(module: Any, name: StrategyName, devices: int, num_nodes: int) -> Strategy | str:
    """Lightning's strategy for a module.

    Losses and noise are those of the whole batch (``core/ranks.py``), buffers change identically on
    all ranks, and a module that trains in turns leaves the other networks' gradients unused.

    Raises:
        ConfigError: fsdp for a module that has no blocks to shard.
    """
    if devices * num_nodes == 1:
        return "auto"
    environment = None
    if together():
        environment = JoinedEnvironment(dist.get_rank() % devices, num_nodes)
    if name == "fsdp":
        check_shardable(module)
        return ShardedStrategy(environment)
    return DDPStrategy(
        cluster_environment=environment,
        find_unused_parameters=module.trains_in_turns,
        broadcast_buffers=False,
        timeout=TIMEOUT,
    )
