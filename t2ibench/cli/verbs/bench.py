"""Training and sampling speed of a configuration on this machine.

t2ibench bench model=diffusion/fast_unet    images a second and FLOP/s of a training step
t2ibench bench model=gan/fast_painter rounds=9

Each figure is the median over rounds after a warm-up, with the spread between quartiles.
The matrix-product rate of the same process is printed beside it, so that figures of two
machines can be read as shares of their peaks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

OPTIONS = ("rounds",)


def run(arguments: Sequence[str]) -> int:
    """Prints speed and FLOP/s of training and sampling."""
    import torch

    from t2ibench.cli.arguments import whole_number
    from t2ibench.cli.compose import untrained_context
    from t2ibench.engine.speed import measure_speed
    from t2ibench.evaluation.timing import FEWEST_CALLS

    given = [a for a in arguments if a.startswith("rounds=")]
    asked = whole_number("rounds", given[-1].removeprefix("rounds=")) if given else 7
    rounds = max(asked, FEWEST_CALLS)
    context = untrained_context([a for a in arguments if a not in given])
    found = measure_speed(context, rounds)
    step, spread = found.step
    sampling, sampling_spread = found.sampling
    rate = found.step_flops / step
    lines = [
        f"{context.spec.model.name} size={context.spec.size}, {found.device}, "
        f"{torch.get_num_threads()} threads, batch {found.batch_size}, {rounds} rounds",
        f"  training  {found.batch_size / step:8.1f} images/s  (step {step * 1e3:.1f} ms, spread "
        f"{spread * 1e3:.1f}; {rate / 1e9:.1f} GFLOP/s, {rate / found.peak:.0%} of a 1024-cube "
        "product)",
        f"  sampling  {found.batch_size / sampling:8.1f} images/s  (batch {sampling * 1e3:.0f} ms, "
        f"spread {sampling_spread * 1e3:.0f})",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
