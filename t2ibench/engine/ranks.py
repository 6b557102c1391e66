"""Processes of a run on several devices, started here unless a launcher has.

Every process does the same work from beginning to end: it trains its share of each batch, draws
its share of the samples, and waits while the first writes. Those that are started here
(``engine/rank_worker.py``) are sent the resolved configuration, not the command line, so that the
work is the same under every launcher.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from t2ibench.core.errors import DeviceError
from t2ibench.core.ranks import rank, together, world_size
from t2ibench.training.devices import RankInfo, join_process_group, rank_from_launcher

GRACE_SECONDS = 20.0
"""Time that a failing rank waits for the others to fail as well, before it ends them."""


class RankGroup:
    """Processes that have joined a group, and the outcome of each in the present cell.

    Attributes:
        store: key-value store that they share.
        cells: number of cells that they have begun.
    """

    def __init__(self, store: dist.Store) -> None:
        self.store = store
        self.cells = 0

    def report(self, error: str) -> None:
        """Reports that this rank has left its cell, with its error's message or "" for none."""
        self.store.set(self._key(rank()), error)

    def wait_for_all(self) -> bool:
        """Waits some seconds for all ranks to leave their cell; True where they have."""
        keys = [self._key(number) for number in range(world_size())]
        try:
            self.store.wait(keys, timedelta(seconds=GRACE_SECONDS))
        except (RuntimeError, TimeoutError):
            return False
        return True

    def first_rank_error(self) -> str:
        """Error message that the first rank reported; "" for none."""
        return self.store.get(self._key(0)).decode()

    def _key(self, number: int) -> str:
        return f"cell {self.cells} rank {number}"


launched_group: RankGroup | None = None
"""The group of the processes that a launcher has started; it lasts as long as they do."""


@contextmanager
def rank_processes(
    devices: int, num_nodes: int, work: Callable[[], Mapping[str, Any] | None]
) -> Iterator[None]:
    """Context in which as many processes work together as are configured.

    Args:
        devices: number of devices on each machine.
        num_nodes: number of machines.
        work: makes the message for processes that are started here; None: no work to share.

    Raises:
        ConfigError: the launcher started another number of processes.
        DeviceError: there is no launcher for several machines, or another process died.
    """
    if devices * num_nodes == 1:
        yield
        return
    info = rank_from_launcher(devices, num_nodes)
    if info is None:
        if num_nodes > 1:
            raise DeviceError(
                f"trainer.num_nodes={num_nodes}: a scheduler must start a process for each device "
                "(srun, torchrun or hydra/launcher=submitit_slurm); or set trainer.num_nodes=1."
            )
        message = work()
        if message is None:
            yield
            return
        with spawned_ranks(message, devices):
            yield
        return
    global launched_group
    if launched_group is None:
        launched_group = RankGroup(join_process_group(info))
    with cell_on_all_ranks(launched_group):
        yield


@contextmanager
def cell_on_all_ranks(group: RankGroup) -> Iterator[None]:
    """Context of one cell on processes that a launcher has started.

    Where only some ranks fail, the others would wait for them forever: this process then exits,
    which ends the others too. An error or signal on all ranks only ends the cell.
    """
    group.cells += 1
    try:
        yield
    except KeyboardInterrupt as error:
        group.report(str(error))
        raise
    except BaseException as error:
        group.report(str(error))
        if not group.wait_for_all():
            sys.stderr.write(f"t2ibench: rank {rank()}: {type(error).__name__}: {error}\n")
            sys.stderr.flush()
            os._exit(1)
        raise
    group.report("")
    group.wait_for_all()


@contextmanager
def spawned_ranks(work: Mapping[str, Any], devices: int) -> Iterator[None]:
    """Context in which this process is the first of ``devices``; it starts and ends the others."""
    store = dist.TCPStore("127.0.0.1", 0, devices, True, wait_for_workers=False)
    if "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, torch.get_num_threads() // devices)
        torch.set_num_threads(threads)
    workers = [start_worker(work, number, devices, store.port) for number in range(1, devices)]
    watch = threading.Thread(target=watch_workers, args=(workers,), daemon=True)
    try:
        info = RankInfo(0, devices, 0, "127.0.0.1", store.port)
        group = RankGroup(join_process_group(info, store))
        group.cells = 1
        watch.start()
        try:
            yield
        except BaseException as error:
            group.report(str(error))
            raise
        group.report("")
        group.wait_for_all()
    except RuntimeError as error:
        time.sleep(1)  # a worker's sockets close before it has ended
        dead = [f"rank {n} (exit {p.poll()})" for n, p in enumerate(workers, 1) if p.poll()]
        if not dead:
            raise
        raise DeviceError(
            f"{', '.join(dead)} of this run ended early; what it said stands above, and the same "
            "command goes on from the last checkpoint."
        ) from error
    finally:
        end_workers(workers)
        if dist.is_initialized():
            dist.destroy_process_group()


def start_worker(
    work: Mapping[str, Any], number: int, devices: int, port: int
) -> subprocess.Popen[str]:
    """Starts a further rank, which reads its work from its input and ends when that closes."""
    given = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": devices, "MASTER_PORT": port}
    environment = os.environ | {name: str(value) for name, value in given.items()}
    environment |= {"MASTER_ADDR": "127.0.0.1"}
    environment.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    worker = subprocess.Popen(
        [sys.executable, "-m", "t2ibench.engine.rank_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environment,
        text=True,
    )
    assert worker.stdin is not None
    worker.stdin.write(json.dumps(work) + "\n")
    worker.stdin.flush()
    return worker


def watch_workers(workers: list[subprocess.Popen[str]]) -> None:
    """Ends this process where a worker has died and the work does not notice by itself (nccl)."""
    while all(worker.poll() is None for worker in workers):
        time.sleep(1)
    if any(worker.poll() for worker in workers):
        time.sleep(GRACE_SECONDS)
        if together():
            sys.stderr.write("t2ibench: a process of this run died; type the command again.\n")
            sys.stderr.flush()
            os._exit(1)


def end_workers(workers: list[subprocess.Popen[str]]) -> None:
    """Ends the workers that are left."""
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
    for worker in workers:
        try:
            worker.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
