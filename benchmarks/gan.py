"""Training steps of the GANs against other people's, and the memory of the tiled upsampler.

python benchmarks/gan.py --attngan CHECKOUT --threads 1         all parts, on the CPU
python benchmarks/gan.py --only attn_gan --attngan CHECKOUT --threads 1
python benchmarks/gan.py --only attn_gan --attngan CHECKOUT --stages 2     64 and 128 px, words
python benchmarks/gan.py --only upsampler --sides 1024 2048 4096
python benchmarks/gan.py --device cuda --attngan CHECKOUT --batch 32 --calls 20

attn_gan   a step of both players at 64 px, DAMSM with Inception-v3 included, against the authors'
           code on the same weights, images and captions; equal losses are asserted first
giga_gan   time per counted FLOP of a step at 64 px, without penalties, against gigagan-pytorch of
           like widths on the same features of captions
upsampler  peak memory of a process that enlarges an image four times in tiles, above what it held
           with the network, the small and the large image; a process a side
per_flop   time per counted FLOP of a step of each model at size xs and 64 px, against fast_painter

On a CPU the processor's seconds of one thread are taken, as other processes share the machine; on a
GPU those of the clock. Contenders take turns; a ratio is the median of the rounds' ratios, and
``control`` is ours against ours.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from diffusion import cuda_synced
from gan_peers import GAMMAS, AuthorsAttnGAN, giga_gan_step
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from t2ibench.cli.compose import untrained_context
from t2ibench.core.types import Batch, TextFeatures
from t2ibench.data.stream import BatchStream
from t2ibench.engine.assemble import untrained_module
from t2ibench.engine.fitting import cached_targets
from t2ibench.evaluation.flops import count_flops
from t2ibench.families.damsm import DAMSM, DAMSMFeatures, FrozenDAMSM
from t2ibench.families.gan import attn_gan as family
from t2ibench.families.gan import attn_gan_networks as networks
from t2ibench.nn.regions import InceptionRegions

SIDE = 64
MODELS = (
    "gan/fast_painter_words", "gan/gan_int_cls", "gan/stack_gan_1", "gan/stack_gan_2",
    "gan/stack_gan_v2", "gan/attn_gan", "gan/style_gan_t", "gan/giga_gan", "gan/giga_upsampler",
    "diffusion/fast_unet",
)  # fmt: skip
"""Models whose steps are timed by the FLOP, beside fast_painter."""


def seconds_of(call: Callable[[], Any], device: str) -> float:
    """The processor's seconds of a call on a CPU, the clock's on a GPU."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    call()
    return clock() - start


def paired(
    calls: dict[str, Callable[[], Any]], given: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds of each contender in each round, in turns, after one warm-up."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(given.calls + 1):
        for name, call in calls.items():
            seconds = seconds_of(cuda_synced(call, given.device), given.device)
            if number:
                took[name].append(seconds)
    return took


def compared(
    title: str, took: dict[str, list[float]], peer: str, flops: dict[str, float] | None = None
) -> None:
    """Prints medians, spreads and ratios of the rounds; with FLOPs, of seconds per FLOP."""
    each = flops or dict.fromkeys(took, 1.0)
    sys.stdout.write(f"{title} ({len(took[peer])} rounds)\n")
    for name, seconds in took.items():
        ratios = sorted(
            (mine / each[name]) / (theirs / each[peer])
            for mine, theirs in zip(seconds, took[peer], strict=True)
        )
        rate = f"{each[name] / 1e9:8.1f} GFLOP {1e12 * median(seconds) / each[name]:6.1f} s/TFLOP "
        sys.stdout.write(
            f"  {name:28s} {median(seconds):8.3f} s [{min(seconds):.3f}, {max(seconds):.3f}] "
            f"{rate if flops else ''}{median(ratios):6.3f} [{ratios[0]:.3f}, {ratios[-1]:.3f}] "
            f"of {peer}\n"
        )
    sys.stdout.flush()


def trained_by_hand(module: Any) -> Any:
    """The module with optimisers outside of a trainer."""
    players = module.configure_optimizers()
    module.optimizers = lambda: players
    module.manual_backward = lambda loss: loss.backward()
    return module.train()


def of_device(module: Any, device: str) -> Any:
    """The module on its device; there in the layout that its convolutions are fast in."""
    module.to(device)
    return module.to(memory_format=torch.channels_last) if device == "cuda" else module


def automatic(device: str) -> Any:
    """Products in bfloat16 on a GPU, in float32 on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext()


class NoTracker:
    """Stands for a counter's tracker of modules, which gigagan-pytorch's ``detach_`` trips."""

    parents = ("Global",)

    def __enter__(self) -> NoTracker:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing was hooked."""


def counted(call: Callable[[], Any]) -> float:
    """FLOPs of a call by PyTorch's counter."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoTracker()  # type: ignore[assignment]
    with counter:
        call()
    return float(counter.get_total_flops())


# ---- AttnGAN ----


def attn_gan_module(stages: int, words: list[str]) -> Any:
    """AttnGAN at the widths for birds, with the first ``stages`` of the paper's three images."""
    torch.manual_seed(0)
    gamma1, gamma2, gamma3 = GAMMAS
    damsm = FrozenDAMSM(
        DAMSM(
            vocabulary=words,
            width=256,
            embedding_width=300,
            max_length=18,
            dropout=0.5,
            image=InceptionRegions,
            gamma1=gamma1,
            gamma2=gamma2,
            gamma3=gamma3,
        )
    )
    shape: dict[str, Any] = {"conditioning": "cross_attention", "residual_blocks": 2}
    shape |= {"channels": 32, "noise_width": 100, "condition_width": 100}
    adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999), fused=True)
    return family.AttnGAN(
        text_encoder=DAMSMFeatures(damsm),
        damsm=damsm,
        generator=partial(networks.Generator, **shape),
        discriminator=partial(networks.Discriminators, channels=64),
        generator_optimizer=adam,
        discriminator_optimizer=adam,
        resolution=SIDE * 2 ** (stages - 1),
        null_text_probability=0.0,
        gradient_clip_norm=0.0,
        adversarial_loss="non_saturating",
        relativistic_gamma=0.0,
        damsm_weight=5.0,
        divergence_weight=1.0,
        augment=[],
        accumulation=1,
        truncation_psi=1.0,
    )


def attn_gan(given: argparse.Namespace) -> None:
    """A step of both players against the authors' code."""
    if given.attngan is None:
        sys.stdout.write(
            "attn_gan: the authors' code is missing; clone https://github.com/taoxugit/AttnGAN and "
            "name the folder with --attngan.\n"
        )
        return
    stages, count, device = given.stages, given.batch, given.device
    sides = tuple(SIDE * 2**i for i in range(stages))
    words = [f"word{i:04d}".replace("0", "o") for i in range(5449)]
    lengths = [max(5, 18 - i) for i in range(count)]
    captions = [" ".join(words[18 * i : 18 * i + n]) for i, n in enumerate(lengths)]
    # The paper's images, whatever their number: our pyramid has always three.
    with (
        patch.object(networks, "pyramid_sides", lambda resolution: sides),
        patch.object(family, "STAGES", stages),
        patch.object(networks, "STAGES", stages),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        ours = attn_gan_module(stages, words)
        theirs = AuthorsAttnGAN(given.attngan, ours, stages, count, device)
        trained_by_hand(of_device(ours, device))
        images = torch.rand(count, 3, sides[-1], sides[-1], device=device) * 2 - 1
        pyramid = networks.image_pyramid(images, stages)
        ids, mask = ours.damsm.network.text.ids(captions)
        ids, known = ids.to(device), mask.sum(1)
        batch = Batch(images, captions, torch.arange(count))
        assert_equal_losses(ours, theirs, batch, pyramid, (ids, known))
        noise = torch.empty(count, 100, device=device)
        mine = partial(ours.training_step, batch, 0)
        calls = {
            "authors": lambda: theirs.step(pyramid, ids, known, noise),
            "ours": mine,
            "ours (control)": mine,
        }
        title = f"AttnGAN, {' + '.join(map(str, sides))} px, batch {count}, {device}, float32"
        compared(title, paired(calls, given), "authors")


@torch.no_grad()
def assert_equal_losses(
    ours: Any, theirs: AuthorsAttnGAN, batch: Batch, pyramid: list[Tensor], told: Any
) -> None:
    """The losses of both players are the authors', on the same noise."""
    draws = torch.randn(len(batch), ours.generator.randomness, device=batch.image.device)
    words, sentence, padding = theirs.encode(*told)
    z, of_condition = draws.split([100, 100], 1)
    network = theirs.generator.ca_net
    network.reparametrize = lambda mean, log: mean + (0.5 * log).exp() * of_condition
    drawn = theirs.generator(z, sentence, words, padding)
    del network.reparametrize
    text = ours.encode_text(batch)
    fake = ours.generator(text, draws)
    judged = [ours.discriminators(pyramid, text.pooled, True)]
    judged.append(ours.discriminators(fake.images, text.pooled))
    matched = ours.damsm_losses(fake.images[-1], batch.caption, text)
    mine = family.generator_loss_of_stages(ours.adversary, judged[1], None)
    mine = mine + 5 * (matched.words + matched.sentence) + fake.augmented.divergence
    losses = [theirs.judging_loss(i, pyramid, drawn[0], sentence) for i in range(len(pyramid))]
    wanted = torch.stack([sum(losses), theirs.drawing_loss(drawn, words, sentence, told[1])])  # type: ignore[arg-type, list-item]
    found = torch.stack([ours.discriminator_loss(*judged), mine])
    torch.testing.assert_close(found, wanted, atol=0, rtol=1e-4)
    sys.stdout.write(f"equal losses: {found.tolist()}\n")


# ---- GigaGAN ----


def model_of(model: str, size: str, cache: str, *extra: str) -> tuple[Any, Any]:
    """A model's context and its module, untrained, at 64 px."""
    few = [f"data.source.num_{split}={64}" for split in ("train", "val", "test")]
    words = [f"model={model}", f"size={size}", f"paths.cache={cache}", *few, "trainer=cpu"]
    context = untrained_context([*words, f"data.resolution={SIDE}", *extra])
    return context, untrained_module(context)


def giga_gan(given: argparse.Namespace) -> None:
    """Time per FLOP of a step of both players against gigagan-pytorch."""
    count, device = given.batch, given.device
    with tempfile.TemporaryDirectory() as cache:
        none = ("clip=none", "model.module.clip_weight=0")
        _, module = model_of("gan/giga_gan", "s", cache, *none)
    trained_by_hand(of_device(module, device))
    images = torch.rand(count, 3, SIDE, SIDE, device=device) * 2 - 1
    tokens = torch.randn(count, 18, module.text_encoder.width, device=device)
    mask = torch.ones(count, 18, dtype=torch.bool, device=device)
    text = TextFeatures(tokens, mask, tokens.mean(1))
    batch = Batch(images, ["a caption"] * count, torch.arange(count), text)
    widths = {"channels": 64, "channel_max": 256, "candidates": 4, "heads": 4, "style_width": 256}
    widths |= {"mapping_depth": 4, "branch_width": 256, "branch_depth": 2}
    try:
        theirs = giga_gan_step(SIDE, images, tokens, widths, device)
    except ImportError as error:
        sys.stdout.write(
            f"giga_gan: {error}; pip install --no-deps --target FOLDER gigagan-pytorch accelerate "
            "ema-pytorch kornia kornia_rs numerize psutil, and put FOLDER on PYTHONPATH.\n"
        )
        return

    def mine() -> None:
        with automatic(device):
            module.training_step(batch, 0)

    calls = {"gigagan-pytorch": theirs, "ours": mine, "ours (control)": mine}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flops = {name: counted(call) for name, call in calls.items()}
        took = paired(calls, given)
    compared(
        f"GigaGAN per FLOP, {SIDE} px, batch {count}, {device}", took, "gigagan-pytorch", flops
    )


# ---- the upsampler ----


def upsampler(given: argparse.Namespace) -> None:
    """Peak memory by side, each in a process of its own."""
    sys.stdout.write(
        f"upsampler four times in tiles of {given.tile} px, width {given.width}, {given.device}\n"
    )
    sys.stdout.flush()
    for side in given.sides:
        words = [str(side), "--width", str(given.width), "--tile", str(given.tile)]
        words += ["--device", given.device, "--threads", str(given.threads)]
        subprocess.run(
            [sys.executable, Path(__file__).parent / "gan_memory.py", *words], check=True
        )


# ---- every GAN by the FLOP ----


def per_flop(given: argparse.Namespace) -> None:
    """Time per counted FLOP of a step, of each model against fast_painter."""
    peer = "gan/fast_painter"
    calls, flops = {}, {}
    with tempfile.TemporaryDirectory() as cache, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model in (peer, *MODELS):
            context, module = model_of(model, "xs", f"{cache}/{model}")
            call = partial(step_of, model, context, module, given)
            calls[model] = call()
            flops[model] = count_flops(calls[model])
        calls[f"{peer} (control)"], flops[f"{peer} (control)"] = calls[peer], flops[peer]
        took = paired(calls, given)
    compared(
        f"per FLOP, size xs, {SIDE} px, batch {given.batch}, {given.device}", took, peer, flops
    )


def step_of(model: str, context: Any, module: Any, given: argparse.Namespace) -> Callable[[], Any]:
    """A training step on the same batch of the demo's images again and again."""
    split = context.source.split("train")
    targets = cached_targets(context, module, split)
    stream = BatchStream(split, batch_size=given.batch, seed=0, targets=targets)
    batch = next(stream).to(given.device)
    of_device(module, given.device)
    found = module.configure_optimizers()
    players = found if isinstance(found, list) else [found]
    module.optimizers = lambda: players if len(players) > 1 else players[0]
    module.manual_backward = lambda loss: loss.backward()
    module.train()

    def run() -> None:
        with automatic(given.device):
            module.training_step(batch, 0)

    return run


PARTS = {"attn_gan": attn_gan, "giga_gan": giga_gan, "upsampler": upsampler, "per_flop": per_flop}


def main() -> None:
    """Times each part that has its peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--attngan", type=Path, help="checkout of taoxugit/AttnGAN")
    parser.add_argument("--stages", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--width", type=int, default=8, help="channels of the upsampler")
    parser.add_argument("--tile", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name, part in PARTS.items():
        if given.only in (None, name):
            part(given)


if __name__ == "__main__":
    main()
