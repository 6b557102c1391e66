"""A training step and guided sampling of one UNet: ours against diffusers, on the same weights.

python benchmarks/diffusion.py --threads 1                     46 M weights, 32 x 32 x 4, on the CPU
python benchmarks/diffusion.py --threads 1 --only train --rounds 7
python benchmarks/diffusion.py --compile                       both compiled
python benchmarks/diffusion.py --device cuda --layout sd --compile --batches 1 8 --steps 50
python benchmarks/diffusion.py --device cuda --layout sd --only train --batches 32

Text is 77 x 768, latents 32 x 32 x 4 (64 x 64 x 4 with --layout sd, images of 512 px). On a GPU
everything is bf16 and channels_last, on a CPU float32. Equal outputs are asserted first: the
loss and every gradient in float32, the whole trajectory in sampling. ``control`` is ours against
ours; rounds are interleaved. On a GPU the share of the matrix peak is printed (--peak TFLOP/s).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from fid import interleaved, show
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import TextFeatures
from t2ibench.families.diffusion.process import DiffusionProcess
from t2ibench.families.diffusion.unet import PublishedUNet
from t2ibench.samplers.guidance import Guidance

LAYOUTS: dict[str, dict[str, Any]] = {
    "small": {"channels": (128, 256, 384), "blocks": 1, "attends": (0, 1, 2), "side": 32},
    "sd": {"channels": (320, 640, 1280, 1280), "blocks": 2, "attends": (0, 1, 2), "side": 64},
}
SCALED_LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
GUIDANCE = 7.5


def networks(layout: str, device: str) -> tuple[PublishedUNet, UNet2DConditionModel]:
    """The same UNet twice, with the same random weights."""
    shape = LAYOUTS[layout]
    channels = shape["channels"]
    kinds = ["CrossAttn" * (i in shape["attends"]) for i in range(len(channels))]
    torch.manual_seed(0)
    theirs = UNet2DConditionModel(
        sample_size=shape["side"],
        block_out_channels=channels,
        layers_per_block=shape["blocks"],
        cross_attention_dim=768,
        attention_head_dim=8,
        down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
    )
    ours = PublishedUNet(
        latent_channels=4,
        text_width=768,
        channels=channels,
        blocks_per_level=shape["blocks"],
        attention_levels=shape["attends"],
        conditioning="cross_attention",
        heads=8,
        groups=32,
    )
    ours.load_state_dict(theirs.state_dict(), strict=True)
    layout_of = torch.channels_last if device == "cuda" else torch.contiguous_format
    return tuple(n.to(device).to(memory_format=layout_of) for n in (ours, theirs))  # type: ignore


def features(count: int, device: str, dtype: torch.dtype = torch.float32) -> TextFeatures:
    """Random text features: conditional ones of ``count`` prompts."""
    tokens = torch.randn(count, 77, 768, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(count, 77, dtype=torch.bool)
    return TextFeatures(tokens, mask, tokens.mean(1)).to(device).to(dtype)


def cuda_synced(call: Callable[[], Any], device: str) -> Callable[[], Any]:
    """The call, after which the device is waited for."""

    def run() -> Any:
        result = call()
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    return run


def training(given: argparse.Namespace, batch: int) -> None:
    """One step: forward, squared error, backward, AdamW."""
    device = given.device
    ours, theirs = networks(given.layout, device)
    side = LAYOUTS[given.layout]["side"]
    x = torch.randn(batch, 4, side, side, generator=torch.Generator().manual_seed(2)).to(device)
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).to(device)
    t = torch.arange(batch, device=device).float() * 999 / batch
    text = features(batch, device)

    def predictions() -> tuple[Tensor, Tensor]:
        mine = ours(x, t, ours.prepare(text))
        return mine, theirs(x, t, text.tokens).sample

    if device == "cpu":
        for loss in (mse_loss(p, target) for p in predictions()):
            loss.backward()
        grads = dict(theirs.named_parameters())
        for name, p in ours.named_parameters():
            torch.testing.assert_close(p.grad, grads[name].grad, rtol=1e-3, atol=1e-5)
    else:
        torch.testing.assert_close(*predictions(), rtol=1e-2, atol=1e-2)
    sys.stdout.write("equal outputs and gradients\n")
    if given.compile:
        ours.compile()
        theirs.compile()
    # A fused update is the best of either on a GPU, and no different on a CPU.
    options: dict[str, Any] = {"lr": 1e-6, "fused": device == "cuda"}

    def step(network: Any, predict: Callable[[], Tensor]) -> Callable[[], Any]:
        optimizer = torch.optim.AdamW(network.parameters(), **options)

        def run() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = mse_loss(predict().float(), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return cuda_synced(run, device)

    mine = step(ours.train(), lambda: ours(x, t, ours.prepare(text)))
    calls = {
        "diffusers": step(theirs.train(), lambda: theirs(x, t, text.tokens).sample),
        "ours": mine,
        "ours (control)": mine,
    }
    took = interleaved(calls, given.rounds)
    show(f"training step, {given.layout}, batch {batch}, {device}", took, "diffusers", batch)
    ours.train()
    with FlopCounterMode(display=False) as counter:
        mse_loss(ours(x, t, ours.prepare(text)).float(), target).backward()
    peak_share(counter.get_total_flops(), took["ours"], given)


@torch.inference_mode()
def sampling(given: argparse.Namespace, batch: int, solver: str) -> None:
    """Guided sampling of ``batch`` prompts: text in features, latents out."""
    device = given.device
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    ours, theirs = (n.to(dtype).eval() for n in networks(given.layout, device))
    side = LAYOUTS[given.layout]["side"]
    ddim = solver == "ddim"
    process = DiffusionProcess(
        schedule="scaled_linear",
        betas=[0.00085, 0.012],
        timesteps=1000,
        prediction_type="epsilon",
        snr_cap=0.0,
        timestep_location=0.0,
        timestep_spread=0.0,
        solver=solver,
        spacing="trailing",
        num_steps=given.steps,
    ).to(device)
    scheduler: Any
    if ddim:
        scheduler = DDIMScheduler(
            **SCALED_LINEAR,
            clip_sample=False,
            set_alpha_to_one=True,
            timestep_spacing="trailing",
        )
    else:
        scheduler = DPMSolverMultistepScheduler(
            **SCALED_LINEAR, timestep_spacing="trailing", final_sigmas_type="zero"
        )
    text = features(2 * batch, device, dtype)
    start = SeededNoise(range(batch)).normal(4, side, side).to(device).to(dtype)
    layout = torch.channels_last if device == "cuda" else torch.contiguous_format
    start = start.contiguous(memory_format=layout)

    def mine() -> Tensor:
        contexts = ours.prepare(text)
        return process.sample(
            lambda x, t: ours(x, t, contexts),
            start,
            SeededNoise(range(batch)),
            num_steps=given.steps,
            guide=Guidance(GUIDANCE),
        )

    def peer() -> Tensor:
        scheduler.set_timesteps(given.steps, device=device)
        x = start * scheduler.init_noise_sigma
        # Conditional rows first, as ours.
        for t in scheduler.timesteps:
            rows = scheduler.scale_model_input(torch.cat([x, x]), t)
            c, u = theirs(rows, t, text.tokens).sample.chunk(2)
            x = scheduler.step(u + GUIDANCE * (c - u), t, x).prev_sample
        return x

    found, want = mine().float(), peer().float()
    gap = float((found - want).norm() / want.norm())
    assert gap < (0.1 if device == "cuda" else 1e-4), f"the trajectories differ by {gap:.1e}"
    sys.stdout.write(f"{solver}: trajectories agree to {gap:.1e}\n")
    if given.compile:
        ours.compile()
        theirs.compile()
    run = cuda_synced(mine, device)
    calls = {"diffusers": cuda_synced(peer, device), "ours": run, "ours (control)": run}
    took = interleaved(calls, given.rounds)
    title = f"{given.steps} guided steps of {solver}, {given.layout}, batch {batch}, {device}"
    show(title, took, "diffusers", batch)
    contexts = ours.prepare(text)
    with FlopCounterMode(display=False) as counter:
        ours(torch.cat([start, start]), torch.zeros(2 * batch, device=device), contexts)
    peak_share(given.steps * counter.get_total_flops(), took["ours"], given)


def peak_share(flops: float, seconds: list[float], given: argparse.Namespace) -> None:
    """Counted FLOPs a second, and their share of the peak where one is given."""
    rate = flops / sorted(seconds)[len(seconds) // 2] / 1e12
    share = f", {rate / given.peak:.0%} of {given.peak:g}" if given.peak else ""
    sys.stdout.write(f"  ours: {rate:.3g} TFLOP/s{share}\n")


def main() -> None:
    """Asserts equal outputs, then times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", choices=list(LAYOUTS), default="small")
    parser.add_argument("--only", choices=["train", "sample"])
    parser.add_argument("--batches", type=int, nargs="+", default=[4])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--peak", type=float, default=0.0, help="TFLOP/s of the device")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    for batch in given.batches:
        if given.only != "sample":
            training(given, batch)
        if given.only != "train":
            for solver in ("ddim", "dpm_solver_pp"):
                sampling(given, batch, solver)


if __name__ == "__main__":
    main()
