"""Training and sampling speed of a configuration on this machine.

t2ibench bench model=diffusion/ldm          images a second and FLOP/s of a training step
t2ibench bench model=gan/gan_int_cls rounds=9

Each figure is the median over rounds after a warm-up, with the spread between quartiles.
The matrix-product rate of the same process is printed beside it, so that figures of two
machines can be read as shares of their peaks.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any


def run(arguments: Sequence[str]) -> int:
    """Prints one line a figure."""
    import torch

    from t2ibench.cli.arguments import number
    from t2ibench.cli.build import check_config
    from t2ibench.cli.compose import compose_config, resolve_conditioning
    from t2ibench.cli.pipeline import untrained_module
    from t2ibench.core.noise import Noise
    from t2ibench.data.stream import BatchStream
    from t2ibench.evaluation.cost import count_flops

    rounds = 7
    overrides = []
    for argument in arguments:
        if argument.startswith("rounds="):
            rounds = int(number("rounds", argument.removeprefix("rounds=")))
        else:
            overrides.append(argument)
    cfg = compose_config(overrides)
    resolve_conditioning(cfg)
    check_config(cfg)
    module, source = untrained_module(cfg)
    batch = next(
        BatchStream(source.split("train"), batch_size=cfg.model.training.batch_size, seed=0)
    )
    optimizers = module.configure_optimizers()
    # A bench step runs outside a Trainer: the module gets its optimisers and backward directly.
    alone: Any = module
    alone.optimizers = lambda: optimizers
    alone.manual_backward = torch.Tensor.backward

    def step() -> object:
        return module.training_step(batch, 0)

    flops = count_flops(step)
    median, spread = timed(step, rounds)
    matrix = torch.randn(1024, 1024)
    product, _ = timed(lambda: matrix @ matrix, rounds)
    peak = 2 * 1024**3 / product
    captions = list(batch.caption)
    sampling, sampling_spread = timed(
        lambda: module.generate(captions, Noise(range(len(captions)))), max(3, rounds // 2)
    )
    lines = [
        f"{cfg.model.name} size={cfg.size.name}, {torch.get_num_threads()} threads, "
        f"batch {len(batch)}, {rounds} rounds",
        f"  training  {len(batch) / median:8.1f} images/s  (step {median * 1e3:.1f} ms, spread "
        f"{spread * 1e3:.1f}; {flops / median / 1e9:.1f} GFLOP/s, {flops / median / peak:.0%} of "
        "a 1024-cube product)",
        f"  sampling  {len(batch) / sampling:8.1f} images/s  (batch {sampling * 1e3:.0f} ms, "
        f"spread {sampling_spread * 1e3:.0f})",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def timed(call: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds and the spread between quartiles, after one warm-up."""
    call()
    took = []
    for _ in range(max(rounds, 3)):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    low, median, high = statistics.quantiles(took, n=4)
    return median, high - low
