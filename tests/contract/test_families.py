"""The contract of a family, for every file in conf/model and every conditioning."""

import re

import pytest
import torch
from contract.models import BATCH, MODELS, PROMPTS, Case, conditionings, few, stirred
from safetensors.torch import load_file

from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import front_knob
from t2ibench.core.noise import SeededNoise
from t2ibench.families.gan.gan_int_cls import GANINTCLS, convolution_biases
from t2ibench.training.checkpoint import load_weights

CASES = [(model, kind) for model in MODELS for kind in conditionings(model)]
IMAGES = 4 * BATCH
HINGED = re.compile(r"discriminator\.heads\.\d\.logit\.bias")


@pytest.fixture(
    scope="module", params=CASES, ids=[f"{model}-{kind or 'own'}" for model, kind in CASES]
)
def case(request, shared_cache):
    return Case(*request.param, shared_cache)


@pytest.fixture(scope="module")
def trained(case, tmp_path_factory):
    """Run, module and clock after four steps."""
    return case.train(tmp_path_factory.mktemp("whole"), IMAGES)


def test_every_family_of_the_spine_is_configured():
    spine = {"gan/fast_painter", "autoregressive/fast_gpt", "diffusion/fast_unet"}
    assert spine <= set(MODELS)


def test_a_few_steps_change_every_parameter_and_count_flops(case, trained):
    _, module, fitted = trained
    start = {n: p for n, p in case.module().named_parameters() if p.requires_grad}
    # Layers that start at zero stand in a row: the last lets the first learn after three steps.
    still = [n for n, p in module.named_parameters() if n in start and torch.equal(p, start[n])]
    # A bias of all keys alike adds the same to every logit: softmax has no gradient for it.
    # GAN-INT-CLS zeroes the biases of its convolutions before every step.
    zeroed = {
        id(bias)
        for network in module.children()
        if isinstance(module, GANINTCLS)
        for bias in convolution_biases(network)
    }
    parameters = dict(module.named_parameters())
    still = [name for name in still if id(parameters[name]) not in zeroed]
    # The bias of the logits of StyleGAN-T: hinge pulls it up and down alike until a logit leaves
    # the margin.
    still = [name for name in still if not HINGED.fullmatch(name)]
    assert not [name for name in still if not name.endswith("to_k.bias")]
    frozen = {n.split(".")[0] for n, p in module.named_parameters() if not p.requires_grad}
    assert frozen <= set(case.spec.parts)
    assert fitted.clock.images_seen == IMAGES
    assert fitted.clock.flops_per_image > 1e5
    assert set(module.sampling_parameters()) <= set(start)


def test_only_what_samples_is_averaged(case, trained):
    """What is saved but not averaged is of the last step: judges, and statistics of batches."""
    run, module, _ = trained
    saved, averaged = load_file(run.weights), set(module.sampling_parameters())
    differing = {n for n, t in module.state_dict().items() if not torch.equal(saved[n], t)}
    assert differing <= averaged
    assert bool(differing) == (case.spec.model.training.ema_half_life_images > 0)


def test_images_belong_to_their_seed_and_prompt(case):
    module = stirred(case.module())
    knobs, side = few(module), case.source.resolution
    together = module.generate(PROMPTS, SeededNoise([5, 6, 7, 8]), knobs)
    assert together.shape == (4, 3, side, side)
    assert together.dtype == torch.float32 and together.abs().max() <= 1
    for i in (0, 3):
        alone = module.generate(PROMPTS[i : i + 1], SeededNoise([5 + i]), knobs)
        # Where eps is predicted, rounding in pure noise is divided by its little signal.
        torch.testing.assert_close(alone[0], together[i], atol=5e-4, rtol=0)
    again = module.generate(PROMPTS, SeededNoise([5, 6, 7, 8]), knobs)
    assert torch.equal(again, together)
    other = module.generate(PROMPTS, SeededNoise([15, 16, 17, 18]), knobs)
    assert not torch.allclose(other, together, atol=1e-4)


def test_resumed_equals_uninterrupted(case, trained, tmp_path):
    whole, _, _ = trained
    cut, _, first = case.train(tmp_path, IMAGES, interrupt_at=2)
    assert first.interrupted and first.clock.images_seen == 2 * BATCH
    _, _, second = case.train(tmp_path, IMAGES)
    assert second.clock.images_seen == IMAGES
    assert whole.weights.read_bytes() == cut.weights.read_bytes()


def test_weights_load_strictly_and_give_the_same_images(case, trained):
    run, module, _ = trained
    load_weights(module, run.weights)
    fresh = case.module()
    load_weights(fresh, run.weights)
    knobs = few(module)
    a, b = (m.generate(PROMPTS[:2], SeededNoise([1, 2]), knobs) for m in (module, fresh))
    assert torch.equal(a, b)


def test_knobs_are_declared_and_checked(case):
    module = case.module()
    knob, knobs = front_knob(module.knobs), few(module)
    assert len(knob.sweep) >= 3 and all(knob.low <= v <= knob.high for v in knob.sweep)
    for value in (knob.sweep[0], knob.sweep[-1]):
        image = module.generate(PROMPTS[:1], SeededNoise([3]), knobs | {knob.name: value})
        assert image.shape == (1, 3, module.resolution, module.resolution)
    with pytest.raises(ConfigError, match="outside"):
        module.generate(PROMPTS[:1], SeededNoise([3]), {knob.name: knob.high + 1})
    with pytest.raises(ConfigError, match="not a knob"):
        module.generate(PROMPTS[:1], SeededNoise([3]), {"telepathy": 1.0})
