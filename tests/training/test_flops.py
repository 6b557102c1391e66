"""Counted FLOPs against those that the layers' shapes say, and by part."""

import math

import pytest
import torch
from torch import nn

from t2ibench.cli.build import training_options
from t2ibench.cli.compose import compose_config, resolve_conditioning
from t2ibench.cli.first_stage import cached_targets
from t2ibench.cli.pipeline import untrained_module
from t2ibench.core.noise import Noise
from t2ibench.data.stream import BatchStream
from t2ibench.evaluation.cost import count_flops
from t2ibench.runs.clock import Budget
from t2ibench.runs.folder import Run
from t2ibench.training.fit import fit

SPINE = ["gan/gan_int_cls", "autoregressive/vqgan_gpt", "diffusion/ldm"]


def built(model, cache):
    cfg = compose_config(
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
    resolve_conditioning(cfg)
    return cfg, *untrained_module(cfg)


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

        monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", counted)

    def layer(self, layer, given, found):
        if isinstance(layer, nn.Linear):
            self.flops += 2 * found.numel() * layer.in_features
        else:
            area = math.prod(layer.kernel_size)
            self.flops += 2 * found.numel() * layer.in_channels // layer.groups * area


@pytest.mark.parametrize("model", SPINE)
def test_sampling_is_what_the_layers_say(model, shared_cache, monkeypatch):
    _, module, _ = built(model, shared_cache)
    knobs = {"num_steps": 2} if model == "diffusion/ldm" else {}
    captions = ["a red ring", "a blue star"]
    analytic = Analytic(module, monkeypatch)
    counted = count_flops(lambda: module.generate(captions, Noise([0, 1]), knobs))
    assert counted == pytest.approx(analytic.flops, rel=2e-3)


@pytest.mark.parametrize("model", SPINE)
def test_training_is_told_by_part(model, shared_cache, tmp_path):
    cfg, module, source = built(model, shared_cache)
    train, targets = source.split("train"), {}
    if module.trains_on != "image":
        targets = cached_targets(cfg, module.first_stage, train, module.trains_on)

    def stream(images_seen, rank, world_size):
        return BatchStream(train, batch_size=8, seed=0, images_seen=images_seen, **targets)

    options = training_options(cfg, cfg.model.training)
    run = Run.of(tmp_path, "flops", {}, "")
    clock = fit(module, stream, run, Budget("images", 8), options, seed=0).clock
    players = {"generator", "discriminator"} if "gan" in model else {"network"}
    assert players | {"text_encoder"} <= set(clock.flops_by_part)
    assert all(count > 0 for count in clock.flops_by_part.values())
    assert sum(clock.flops_by_part.values()) == pytest.approx(clock.flops_per_image)
    assert "first_stage" not in clock.flops_by_part  # its latents and codes come from a cache


def test_a_denoiser_trains_with_three_times_its_forward_flops(shared_cache, monkeypatch, tmp_path):
    """Forward, gradients of weights, gradients of inputs; the first layer's input needs none."""
    cfg, module, source = built("diffusion/ldm", shared_cache)
    text = module.encode_captions(["a red ring"])
    network, latents = module.network, torch.randn(1, 4, 16, 16)
    forward = count_flops(
        lambda: network(latents, torch.tensor([0.5]), network.prepare(text)).sum().backward()
    )
    analytic = Analytic(network, monkeypatch)
    with torch.no_grad():
        network(latents, torch.tensor([0.5]), network.prepare(text))
    assert forward == pytest.approx(3 * analytic.flops, rel=0.05)
