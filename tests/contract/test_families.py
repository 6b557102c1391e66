"""The contract of a family, for every file in conf/model and every conditioning."""

import os
import signal

import pytest
import torch
from t2ibench.cli.build import first_stage_plan, training_options
from t2ibench.cli.first_stage import cached_targets
from t2ibench.cli.pipeline import untrained_module

from t2ibench.cli.compose import compose_config, config_dir, resolve_conditioning
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import front_knob
from t2ibench.core.noise import SeededNoise
from t2ibench.data.stream import BatchStream
from t2ibench.runs.clock import Budget
from t2ibench.runs.folder import Run
from t2ibench.training.checkpoint import load_weights
from t2ibench.training.fit import fit

MODELS = sorted(
    str(path.relative_to(config_dir() / "model").with_suffix(""))
    for path in (config_dir() / "model").glob("*/*.yaml")
)
CONDITIONINGS = ("concat", "modulation", "cross_attention")
CASES = [(model, kind) for model in MODELS for kind in CONDITIONINGS]
PROMPTS = ["a large red ring", "", "a small blue moon " * 40, "a zyzzyva"]


def config(model, conditioning, cache, *extra):
    cfg = compose_config(
        [
            f"model={model}",
            f"conditioning={conditioning}",
            "data.source.num_train=48",
            "data.source.num_val=8",
            "data.source.num_test=8",
            f"paths.cache={cache}",
            f"paths.runs={cache}/runs",
            "trainer=cpu",
            "trainer.progress=false",
            *extra,
        ]
    )
    resolve_conditioning(cfg)
    return cfg


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def cfg(request, shared_cache):
    return config(*request.param, shared_cache)


def batches(cfg, module, source, images_seen=0, batch_size=8):
    targets = {}
    if module.trains_on != "image":
        targets = cached_targets(cfg, module.first_stage, source.split("train"), module.trains_on)
    return BatchStream(
        source.split("train"), batch_size=batch_size, seed=0, images_seen=images_seen, **targets
    )


def train(cfg, root, images, interrupt_at=None):
    module, source = untrained_module(cfg)
    run = Run.of(root, "contract", {}, "")

    def stream(images_seen, rank, world_size):
        for i, batch in enumerate(batches(cfg, module, source, images_seen)):
            if i == interrupt_at:
                os.kill(os.getpid(), signal.SIGUSR1)
            yield batch

    options = training_options(cfg, cfg.model.training)
    return run, module, fit(module, stream, run, Budget("images", images), options, seed=0)


def test_every_family_of_the_spine_is_configured():
    assert {"gan/gan_int_cls", "autoregressive/vqgan_gpt", "diffusion/ldm"} <= set(MODELS)


def test_a_few_steps_change_every_parameter_and_count_flops(cfg, tmp_path):
    before, _ = untrained_module(cfg)
    start = {n: p.detach().clone() for n, p in before.named_parameters() if p.requires_grad}
    # Layers that start at zero stand in a row: the last lets the first learn after three steps.
    _, module, fitted = train(cfg, tmp_path, 40)
    still = [n for n, p in module.named_parameters() if n in start and torch.equal(p, start[n])]
    # A bias of all keys alike adds the same to every logit: softmax has no gradient for it.
    assert not [name for name in still if not name.endswith("to_k.bias")]
    frozen = [n for n, p in module.named_parameters() if not p.requires_grad]
    assert all(n.startswith("first_stage.") for n in frozen)
    assert fitted.clock.flops_per_image > 1e5
    assert set(module.sampling_parameters()) <= set(start)


def test_images_belong_to_their_seed_and_prompt(cfg):
    module, source = untrained_module(cfg)
    # Layers that start at zero would hide the noise from the image.
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    together = module.generate(PROMPTS, SeededNoise([5, 6, 7, 8]))
    assert together.shape == (4, 3, source.resolution, source.resolution)
    assert together.dtype == torch.float32 and together.abs().max() <= 1
    for i in (0, 3):
        alone = module.generate(PROMPTS[i : i + 1], SeededNoise([5 + i]))
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=1e-4)
    again = module.generate(PROMPTS, SeededNoise([5, 6, 7, 8]))
    assert torch.equal(again, together)
    other = module.generate(PROMPTS, SeededNoise([15, 16, 17, 18]))
    assert not torch.allclose(other, together, atol=1e-4)


def test_resumed_equals_uninterrupted(cfg, tmp_path):
    whole, _, _ = train(cfg, tmp_path / "whole", 40)
    cut, _, first = train(cfg, tmp_path / "cut", 40, interrupt_at=2)
    assert first.interrupted and first.clock.images_seen == 16
    _, _, second = train(cfg, tmp_path / "cut", 40)
    assert second.clock.images_seen == 40
    assert whole.weights.read_bytes() == cut.weights.read_bytes()


def test_weights_load_strictly_and_give_the_same_images(cfg, tmp_path):
    run, module, _ = train(cfg, tmp_path, 8)
    load_weights(module, run.weights)
    fresh, _ = untrained_module(cfg)
    load_weights(fresh, run.weights)
    a, b = (m.generate(PROMPTS[:2], SeededNoise([1, 2])) for m in (module, fresh))
    assert torch.equal(a, b)


def test_knobs_are_declared_and_checked(cfg):
    module, _ = untrained_module(cfg)
    knob = front_knob(module.knobs)
    assert len(knob.sweep) >= 3 and all(knob.low <= v <= knob.high for v in knob.sweep)
    plain, turned = (
        module.generate(PROMPTS[:1], SeededNoise([3]), {knob.name: v})
        for v in (knob.sweep[0], knob.sweep[-1])
    )
    assert plain.shape == turned.shape
    with pytest.raises(ConfigError, match="outside"):
        module.generate(PROMPTS[:1], SeededNoise([3]), {knob.name: knob.high + 1})
    with pytest.raises(ConfigError, match="not a knob"):
        module.generate(PROMPTS[:1], SeededNoise([3]), {"telepathy": 1.0})


def test_first_stage_is_named_where_there_is_one(cfg):
    module, _ = untrained_module(cfg)
    assert (first_stage_plan(cfg) is not None) == (module.trains_on != "image")
