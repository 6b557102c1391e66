"""Counted FLOPs against those that the layers' shapes say, and by part."""

import math

import pytest
import torch
from torch import nn

import t2ibench.nn.attention
import t2ibench.text.word
from t2ibench.cli.compose import compose_spec
from t2ibench.core.errors import CostError
from t2ibench.core.noise import SeededNoise
from t2ibench.data.stream import BatchStream
from t2ibench.engine.assemble import untrained_module
from t2ibench.engine.context import Context
from t2ibench.engine.fitting import cached_targets, options_of
from t2ibench.evaluation.flops import count_flops
from t2ibench.families.autoregressive import fast_gpt
from t2ibench.runs.clock import Budget
from t2ibench.runs.folder import Run
from t2ibench.training.callbacks import FlopCount
from t2ibench.training.fit import fit

SPINE = ["gan/fast_painter", "autoregressive/fast_gpt", "diffusion/fast_unet"]


def built(model, cache):
    spec = compose_spec(
        [
            f"model={model}",
            "data.source.num_train=16",
            "data.source.num_val=8",
            "data.source.num_test=8",
            f"paths.cache={cache}",
            "trainer=cpu",
            "trainer.progress=false",
        ]
    )
    context = Context(spec)
    return context, untrained_module(context)


class Analytic:
    """Twice the multiplications of every layer that runs, from the shapes of what it is given.

    A linear layer: rows x in x out. A convolution: output values x in / groups x kernel. An
    attention: two products of queries x keys x width, for each head.
    """

    def __init__(self, module, monkeypatch):
        self.flops = 0
        self.hooks = [
            layer.register_forward_hook(self.layer)
            for layer in module.modules()
            if isinstance(layer, (nn.Linear, nn.Conv2d))
        ]
        attention = nn.functional.scaled_dot_product_attention

        def counted(q, k, *args, **kwargs):
            self.flops += 2 * 2 * math.prod(q.shape[:-1]) * k.shape[-2] * q.shape[-1]
            return attention(q, k, *args, **kwargs)

        for room in (t2ibench.nn.attention, t2ibench.text.word, fast_gpt):
            monkeypatch.setattr(room, attention.__name__, counted)

    def layer(self, layer, given, found):
        if isinstance(layer, nn.Linear):
            self.flops += 2 * found.numel() * layer.in_features
        else:
            area = math.prod(layer.kernel_size)
            self.flops += 2 * found.numel() * layer.in_channels // layer.groups * area


def test_a_guided_sample_is_what_the_layers_say(shared_cache, monkeypatch):
    _, module = built("diffusion/fast_unet", shared_cache)
    analytic = Analytic(module, monkeypatch)
    counted = count_flops(lambda: module.generate(["a ring"], SeededNoise([0]), {"num_steps": 2}))
    assert counted == analytic.flops


def test_a_gan_sample_is_what_the_layers_say(shared_cache, monkeypatch):
    _, module = built("gan/fast_painter", shared_cache)
    analytic = Analytic(module, monkeypatch)
    counted = count_flops(lambda: module.generate(["a ring", "a star"], SeededNoise([0, 1])))
    waves = module.generator.canvas.frequencies
    canvas = 2 * 32 * 32 * 2 * waves.numel()  # of two images: a product without a layer
    assert counted == analytic.flops + canvas


def test_teacher_forcing_is_what_the_layers_say(shared_cache, monkeypatch):
    _, module = built("autoregressive/fast_gpt", shared_cache)
    text = module.encode_captions(["a ring", "a star"])
    codes = torch.randint(0, 8, (2, module.network.length))
    analytic = Analytic(module.network, monkeypatch)
    assert count_flops(lambda: module.network(codes, text)) == analytic.flops


@pytest.mark.parametrize("model", SPINE)
def test_training_is_told_by_part(model, shared_cache, tmp_path):
    context, module = built(model, shared_cache)
    train = context.source.split("train")
    targets = cached_targets(context, module, train)

    def stream(images_seen, rank, world_size):
        return BatchStream(train, batch_size=8, seed=0, images_seen=images_seen, targets=targets)

    options = options_of(context, context.spec.model.training)
    run = Run.named(tmp_path, "flops", {}).begin({})
    clock = fit(module, stream, run, Budget("images", 8), options, seed=0).clock
    players = {"generator", "discriminator"} if model.startswith("gan/") else {"network"}
    assert players | {"text_encoder"} <= set(clock.flops_by_part)
    assert all(count > 0 for count in clock.flops_by_part.values())
    assert sum(clock.flops_by_part.values()) == pytest.approx(clock.flops_per_image)
    assert "first_stage" not in clock.flops_by_part  # its latents and codes come from a cache


def test_a_denoiser_trains_with_three_times_its_forward_flops(shared_cache, monkeypatch, tmp_path):
    """Forward, gradients of weights, gradients of inputs; the first layer's input needs none."""
    _, module = built("diffusion/fast_unet", shared_cache)
    text = module.encode_captions(["a red ring"])
    network, latents = module.network, torch.randn(1, 4, 16, 16)
    forward = count_flops(
        lambda: network(latents, torch.tensor([0.5]), network.prepare(text)).sum().backward()
    )
    analytic = Analytic(network, monkeypatch)
    with torch.no_grad():
        network(latents, torch.tensor([0.5]), network.prepare(text))
    assert forward == pytest.approx(3 * analytic.flops, rel=0.05)


def test_a_step_with_a_kernel_that_nobody_counts_is_refused():
    module = nn.Linear(3, 3)
    count = FlopCount(module, [])
    torch.linalg.eigh(module(torch.eye(3)))
    with pytest.raises(CostError, match="aten::_linalg_eigh"):
        count.per_image(1)
