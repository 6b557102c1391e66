"""Peak memory of enlarging one image four times in tiles; a part of ``benchmarks/gan.py``.

python benchmarks/gan_memory.py 1024     the side of the large image
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from t2ibench.core.types import TextFeatures
from t2ibench.families.gan.giga_upsampler import UpsamplingUNet
from t2ibench.samplers.tiles import tiled

MIB = 2**20


def resident(name: str) -> int:
    """Bytes of this process by the kernel's name: VmRSS now, VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@torch.inference_mode()
def enlarge(given: argparse.Namespace) -> None:
    """Enlarges one image in this process and prints what that took beside images and weights."""
    side, device = given.side, given.device
    torch.manual_seed(0)
    network = UpsamplingUNet(
        upscale=4,
        text_width=64,
        noise_width=32,
        style_width=64,
        mapping_depth=2,
        halvings=2,
        channel_base=2 * given.width,
        channel_max=given.width,
        depth=2,
        candidates=2,
        heads=2,
        branch_width=64,
        branch_depth=1,
        conditioning="cross_attention",
    )
    network.to(device)
    if device == "cuda":
        network.to(memory_format=torch.channels_last)
    tokens = torch.randn(1, 18, 64, device=device)
    told = network.branch(
        TextFeatures(tokens, torch.ones(1, 18, dtype=torch.bool, device=device), tokens.mean(1))
    )
    style, contexts = network.mapping(torch.randn(1, 32, device=device), told.pooled), None
    contexts = network.contexts(told)

    def whole(low: Tensor) -> Tensor:
        return tiled(
            lambda piece: network.enlarge(piece, style, contexts)[-1].clamp(-1, 1),
            low,
            upscale=4,
            tile=given.tile,
            halo=network.halo,
        )

    # What a first call keeps (kernels, thread pools) is no image's.
    whole(torch.zeros(1, 3, 16, 16, device=device))
    low = torch.rand(1, 3, side // 4, side // 4, device=device) * 2 - 1
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if device == "cuda" else resident("VmRSS")
    start = time.perf_counter()
    enlarged = whole(low)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")
    minutes = (time.perf_counter() - start) / 60
    image = enlarged.numel() * enlarged.element_size()
    sys.stdout.write(
        f"  {side:5d} px: {(peak - before - image) / MIB:7.0f} MiB above images and weights, image "
        f"{image / MIB:.0f} MiB, process {resident('VmHWM') / MIB:.0f} MiB, {minutes:.1f} minutes\n"
    )


def main() -> None:
    """Enlarges one image in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", type=int)
    parser.add_argument("--width", type=int, default=8, help="channels of the upsampler")
    parser.add_argument("--tile", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    enlarge(given)


if __name__ == "__main__":
    main()
