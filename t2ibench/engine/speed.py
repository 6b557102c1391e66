"""Training and sampling speed of a specification on this machine's device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from t2ibench.core.noise import SeededNoise
from t2ibench.data.stream import BatchStream
from t2ibench.engine.assemble import untrained_module
from t2ibench.engine.context import Context
from t2ibench.engine.device import prepare_device, training_precision
from t2ibench.evaluation.flops import count_flops
from t2ibench.evaluation.timing import FEWEST_CALLS, Call, Latency, timed_call

MATRIX = 1024
"""Side of the matrices whose product measures the device's rate."""


@dataclass(frozen=True)
class Speed:
    """Measured speed of training and sampling.

    Attributes:
        batch_size: images in the training step and in a batch of samples.
        step: (median, spread between quartiles) seconds of a training step.
        sampling: (median, spread) seconds of sampling a batch of images.
        step_flops: counted FLOPs of the step.
        peak: FLOP/s of a matrix product in the same process.
        device: device of the measurement.
    """

    batch_size: int
    step: tuple[float, float]
    sampling: tuple[float, float]
    step_flops: float
    peak: float
    device: torch.device


def measure_speed(context: Context, rounds: int) -> Speed:
    """Times a training step and sampling, each after a warm-up, synchronised.

    Args:
        context: context of the model, which need not be trained.
        rounds: number of timed calls, at least five.
    """
    spec, device = context.spec, context.device
    prepare_device(device)
    module = untrained_module(context).to(device)
    stream = BatchStream(
        context.source.split("train"), batch_size=spec.model.training.batch_size, seed=0
    )
    batch = next(stream).to(device)
    optimizers = module.configure_optimizers()
    # The step runs outside a Trainer: the module gets its optimisers and backward directly.
    alone: Any = module
    alone.optimizers = lambda: optimizers
    alone.manual_backward = torch.Tensor.backward
    mixed = training_precision(spec.trainer.precision, device) == "bf16-mixed"

    def step() -> object:
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            return module.training_step(batch, 0)

    flops = count_flops(step)
    matrix = torch.randn(MATRIX, MATRIX, device=device)
    product, _ = timed(lambda: matrix @ matrix, rounds, device)
    captions = list(batch.caption)
    noise = range(len(captions))
    sampling = timed(lambda: module.generate(captions, SeededNoise(noise, device)), rounds, device)
    return Speed(
        len(batch), timed(step, rounds, device), sampling, flops, 2 * MATRIX**3 / product, device
    )


def timed(call: Callable[[], object], rounds: int, device: torch.device) -> tuple[float, float]:
    """Median seconds and spread between quartiles of a call, after one warm-up."""
    call()
    calls: list[Call] = []
    for _ in range(max(rounds, FEWEST_CALLS)):
        with timed_call(calls, device):
            call()
    found = Latency.of(1, calls)
    return found.median, found.iqr
