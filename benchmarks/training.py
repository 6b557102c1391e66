"""What a training step is made of: optimisers, quantiser and their share of small models' steps.

python benchmarks/training.py --threads 1                       all parts, on the CPU
python benchmarks/training.py --threads 1 --only muon --rounds 15
python benchmarks/training.py --device cuda --size s

Muon is timed against the iteration as it is published, matrix by matrix; AdamW's fused update
against PyTorch's two others; the quantiser against the expression it was written as. Equal results
are asserted first. The last part prints by model how long forward, backward and the optimiser's
update take, and the update's share. ``control`` is ours against ours; rounds are interleaved.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from fid import interleaved, show
from torch import Tensor, nn

from t2ibench.autoencoders.codebooks import nearest_code
from t2ibench.cli.compose import untrained_context
from t2ibench.engine.assemble import untrained_module
from t2ibench.nn.muon import COEFFICIENTS, Muon

MODELS = ("diffusion/fast_unet", "diffusion/fast_dit", "autoregressive/fast_gpt")
BATCH, CODES, WIDTH = 16, 2048, 8


def network(model: str, given: argparse.Namespace) -> tuple[nn.Module, Callable[[], Tensor], Any]:
    """The trained network, a call with the cost of its loss, and the model's own optimiser."""
    with tempfile.TemporaryDirectory() as cache:
        few = [f"data.source.num_{split}=16" for split in ("train", "val", "test")]
        words = [f"model={model}", f"size={given.size}", f"paths.cache={cache}", *few]
        module: Any = untrained_module(untrained_context([*words, "trainer=cpu"]))
    module.to(given.device).to(memory_format=torch.channels_last).train()
    prompts = ["a large red ring on a grey background"] * BATCH
    net = module.network
    if model.startswith("autoregressive"):
        codes = torch.randint(0, CODES, (BATCH, net.length), device=given.device)
        return net, lambda: net(codes, module.encode_captions(prompts)).square().mean(), module
    stage = module.first_stage
    side = 32 // stage.spatial_factor
    x = torch.randn(BATCH, stage.latent_channels, side, side, device=given.device)
    t = torch.linspace(0, 999, BATCH, device=given.device)
    return net, lambda: net(x, t, net.prepare(module.encode_captions(prompts))).mean(), module


def repeated(call: Callable[[], Any], given: argparse.Namespace) -> Callable[[], None]:
    """Several calls, after which the device is waited for: one alone is too short to time."""

    def run() -> None:
        for _ in range(given.repeats):
            call()
        if given.device == "cuda":
            torch.cuda.synchronize()

    return run


@torch.no_grad()
def published_step(parameters: list[Tensor], momenta: list[Tensor], settings: Muon) -> None:
    """Muon's step one matrix after the other, each iterated to the end (Jordan et al. 2024)."""
    group = settings.param_groups[0]
    a, b, c = COEFFICIENTS
    for p, momentum in zip(parameters, momenta, strict=True):
        momentum.lerp_(p.grad, 1 - group["momentum"])
        ahead = p.grad.lerp(momentum, group["momentum"]).flatten(1)  # type: ignore[union-attr]
        x = ahead.mT if ahead.shape[0] > ahead.shape[1] else ahead
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        update = x.mT if ahead.shape[0] > ahead.shape[1] else x
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(update.reshape(p.shape), alpha=-group["lr"] * 0.2 * max(ahead.shape) ** 0.5)


def muon(given: argparse.Namespace) -> None:
    """Muon's matrices: batched by shape, with gathered products, against one after the other."""
    net, loss, _ = network("diffusion/fast_unet", given)
    loss().backward()
    settings: dict[str, Any] = {"lr": 1e-3, "momentum": 0.9, "adam_lr": 1e-3}
    settings |= {"adam_betas": (0.9, 0.99), "weight_decay": 0.01, "least_side": 8}
    matrices = Muon(net.parameters(), **settings).param_groups[0]["params"]
    matrices = [p for p in matrices if p.grad is not None]
    start = [p.detach().clone() for p in matrices]
    ours = Muon(matrices, **settings)
    ours.step()
    found = [p.detach().clone() for p in matrices]
    with torch.no_grad():
        for p, value in zip(matrices, start, strict=True):
            p.copy_(value)
    momenta = [torch.zeros_like(p) for p in matrices]
    published_step(matrices, momenta, ours)
    for p, value in zip(matrices, found, strict=True):
        torch.testing.assert_close(value, p.detach(), atol=1e-5, rtol=1e-3)
    sys.stdout.write("equal steps\n")
    mine = repeated(ours.step, given)
    calls = {
        "matrix by matrix": repeated(partial(published_step, matrices, momenta, ours), given),
        "ours": mine,
        "ours (control)": mine,
    }
    title = f"Muon, {len(matrices)} matrices, {given.repeats} steps, {given.device}"
    show(title, interleaved(calls, given.rounds), "matrix by matrix")


def adamw(given: argparse.Namespace) -> None:
    """AdamW's three implementations on the weights of the denoiser."""
    net, loss, _ = network("diffusion/fast_unet", given)
    loss().backward()
    parameters = [p for p in net.parameters() if p.grad is not None]
    kinds = {"for each": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    results = []
    for options in kinds.values():
        copies = [nn.Parameter(p.detach().clone()) for p in parameters]
        for copy, p in zip(copies, parameters, strict=True):
            copy.grad = p.grad
        torch.optim.AdamW(copies, lr=1e-3, **options).step()
        results.append(copies)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-6, rtol=1e-5)
    sys.stdout.write("equal steps\n")
    calls = {
        name: repeated(torch.optim.AdamW(parameters, lr=1e-9, **options).step, given)
        for name, options in kinds.items()
    }
    calls["fused (control)"] = calls["fused"]
    title = f"AdamW, {len(parameters)} tensors, {given.repeats} steps, {given.device}"
    show(title, interleaved(calls, given.rounds), "for each")


def quantiser(given: argparse.Namespace) -> None:
    """Nearest of 2048 codes of width 8, for as many vectors: one addmm against the expression."""
    torch.manual_seed(0)
    vectors = torch.randn(CODES, WIDTH, device=given.device)
    codebook = torch.randn(CODES, WIDTH, device=given.device)

    def expression() -> Tensor:
        return (codebook.square().sum(1) - 2 * vectors @ codebook.T).argmin(1)

    assert torch.equal(expression(), nearest_code(vectors, codebook))
    sys.stdout.write("equal codes\n")
    mine = repeated(partial(nearest_code, vectors, codebook), given)
    calls = {"expression": repeated(expression, given), "ours": mine, "ours (control)": mine}
    title = f"quantiser, {given.repeats} times {CODES} vectors, {given.device}"
    show(title, interleaved(calls, given.rounds), "expression")


def shares(given: argparse.Namespace) -> None:
    """Share of the update in a step, with the model's own optimiser and with AdamW, fused."""
    for model in MODELS:
        net, loss, module = network(model, given)
        own = module.configure_optimizers()
        trained = [p for group in own.param_groups for p in group["params"]]
        backward = repeated(lambda loss=loss: loss().backward(), given)
        calls = {
            "forward and backward": backward,
            type(own).__name__: repeated(own.step, given),
            "AdamW, fused": repeated(torch.optim.AdamW(trained, lr=1e-9, fused=True).step, given),
            "forward and backward (control)": backward,
        }
        took = interleaved(calls, given.rounds)
        weights = sum(p.numel() for p in net.parameters())
        title = f"{model}, {given.size}, {weights / 1e6:.2f} M weights, batch {BATCH}"
        show(f"{title}, {given.repeats} times, {given.device}", took, "forward and backward")
        for name in (type(own).__name__, "AdamW, fused"):
            update = median(took[name])
            share = update / (update + median(took["forward and backward"]))
            sys.stdout.write(f"  {name} is {share:.0%} of a step\n")


PARTS = {"muon": muon, "adamw": adamw, "quantiser": quantiser, "shares": shares}


def main() -> None:
    """Asserts equal results, then times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--size", default="xs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    for name, part in PARTS.items():
        if given.only in (None, name):
            part(given)


if __name__ == "__main__":
    main()
