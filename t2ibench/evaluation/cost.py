"""Cost of a model: parameters, counted FLOPs, seconds, memory, on a named machine.

Knows only callables and modules: a sampler is ``sample(batch_size)`` and whatever happens
inside (text encoding, guidance, decoding) is part of its cost.
"""

from __future__ import annotations

import platform
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from t2ibench.evaluation.flops import count_flops
from t2ibench.evaluation.timing import Latency, SampleCall, synchronise, time_sampling

BEST_BATCHES = (4, 16, 64)
"""Batch sizes tried for the best throughput, after batch 1."""


@dataclass(frozen=True)
class CostReport:
    """The cost of sampling.

    Attributes:
        parameters: part -> number of parameters.
        sample_flops_per_image: counted FLOPs of one image at batch 1, 1 MAC = 2 FLOP.
        latency: at batch 1.
        throughput: at the batch size with the fewest seconds an image.
        peak_memory_gib: tensors held during one call at the throughput's batch size, weights
            included.
        joules_per_image: of the board at the throughput's batch size; None where unknown.
        hardware: device, threads, precision, torch version.
    """

    parameters: dict[str, int]
    sample_flops_per_image: float
    latency: Latency
    throughput: Latency
    peak_memory_gib: float
    joules_per_image: float | None = None
    hardware: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping, as ``scores.json`` keeps it."""
        return asdict(self) | {
            "seconds_per_image_batch_1": self.latency.median,
            "seconds_per_image_best": self.throughput.median,
            "best_batch_size": self.throughput.batch_size,
            "busy": self.throughput.busy or self.latency.busy,
        }


def count_parameters(parts: Mapping[str, nn.Module]) -> dict[str, int]:
    """Parameters of each part; a tensor shared between parts counts in the first only."""
    seen: set[int] = set()
    counts = {}
    for name, module in parts.items():
        fresh = [p for p in module.parameters() if id(p) not in seen]
        seen.update(id(p) for p in fresh)
        counts[name] = sum(p.numel() for p in fresh)
    return counts


def measure_cost(
    sample: SampleCall,
    parts: Mapping[str, nn.Module],
    device: torch.device | str = "cpu",
    *,
    best_batches: Sequence[int] = BEST_BATCHES,
    seconds: float = 10.0,
    known: Latency | None = None,
) -> CostReport:
    """Measures a sampler; larger batches are tried while they still help.

    Args:
        sample: draws a batch of the given size, captions in, images out.
        parts: named networks whose parameters are counted.
        device: where the sampler runs.
        best_batches: batch sizes tried for the throughput, ascending.
        seconds: time for more than the fewest calls, a batch size.
        known: what was timed while the set was sampled on this machine; that batch size is timed
            again only where the machine was busy then.
    """
    device = torch.device(device)
    flops = count_flops(lambda: sample(1))
    latency = time_sampling(sample, 1, device, seconds=seconds)
    if known is not None and known.busy:
        known = time_sampling(sample, known.batch_size, device, seconds=seconds)
    best = latency
    for batch_size in best_batches:
        if known is not None and batch_size == known.batch_size:
            continue
        found = time_sampling(sample, batch_size, device, seconds=seconds)
        if found.median >= best.median:
            break
        best = found
    if known is not None and known.median < best.median:
        best = known
    return CostReport(
        count_parameters(parts),
        flops,
        latency,
        best,
        peak_memory_gib(lambda: sample(best.batch_size), device, resident_bytes(parts)),
        joules_per_image(sample, best.batch_size, device),
        hardware(device),
    )


def hardware(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The machine that a time was measured on."""
    device = torch.device(device)
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    return {
        "device": name,
        "type": device.type,
        "threads": torch.get_num_threads(),
        "precision": str(torch.get_default_dtype()).removeprefix("torch."),
        "torch": torch.__version__,
    }


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations made inside and that are still held.

    Counts each storage once, from the operation that made it to the moment it is freed; scratch
    memory inside an operation is not seen.

    Attributes:
        now: held at present.
        peak: most held so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and counts what it returned."""
        found = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _dense(t)}
        for tensor in tree_leaves(found):
            if _dense(tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._seen and storage._cdata not in inputs:
                    self._hold(storage)
        return found

    def _hold(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def _dense(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided


def peak_memory_gib(
    call: Callable[[], Any], device: torch.device | str = "cpu", resident: int = 0
) -> float:
    """Peak tensor memory during a call in GiB, weights included.

    Args:
        call: what to watch.
        device: on CUDA the allocator counts; on a CPU ``LiveBytes`` does.
        resident: bytes that were held before and stay (the weights); on CUDA the allocator
            knows them.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) / 2**30
    with LiveBytes() as live:
        call()
    return (resident + live.peak) / 2**30


def resident_bytes(parts: Mapping[str, nn.Module]) -> int:
    """Bytes of all parameters and buffers, shared ones once."""
    tensors = [t for m in parts.values() for t in (*m.parameters(), *m.buffers())]
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())


def joules_per_image(
    sample: SampleCall,
    batch_size: int,
    device: torch.device | str = "cpu",
    *,
    seconds: float = 2.0,
) -> float | None:
    """Energy of the whole board an image, from NVML's counter; None without a counter.

    Args:
        sample: draws a batch.
        batch_size: images a call.
        device: a CUDA device of Volta or later has the counter.
        seconds: call again until the counter (millijoules, slow to update) has moved well.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    pynvml.nvmlInit()
    try:
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        synchronise(device)
        before, images = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            sample(batch_size)
            synchronise(device)
            images += batch_size
        spent = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    return spent / 1000 / images
