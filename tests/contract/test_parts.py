"""What every model says of the frozen parts that it stands on, and of likelihoods."""

from dataclasses import replace

import pytest
import torch
from contract.models import MODELS, Case, stirred, words
from text.tiny import save_t5
from torch.nn.functional import log_softmax

from t2ibench.cli.compose import compose_spec
from t2ibench.core.frozen import FrozenHolder
from t2ibench.families.autoregressive.losses import next_code_loss

STAGES = ["diffusion/fast_imagen_sr", "diffusion/imagen_sr", "diffusion/sr3"]


@pytest.fixture(scope="module", params=MODELS)
def case(request, shared_cache):
    return Case(request.param, None, shared_cache)


@pytest.fixture(scope="session")
def frozen_text(tmp_path_factory):
    """The words that choose a published encoder."""
    folder = tmp_path_factory.mktemp("hub") / "t5"
    save_t5(folder)
    return ["text=t5", f"text.path={folder}"]


def reached(module):
    """Every network that is held frozen below a module, at any depth."""
    for part in module.modules():
        if isinstance(part, FrozenHolder):
            for network in part.frozen_networks.values():
                yield network
                yield from reached(network)


def assert_all_named(module):
    """Returns the names of the guarded parts."""
    guarded = module.guarded_parts()
    known = {id(network) for network in guarded.values()}
    assert [type(network) for network in reached(module) if id(network) not in known] == []
    assert {id(child) for child in module.children()} <= known
    return set(guarded)


def test_guarded_parts_name_every_frozen_network(case):
    module = case.module()
    named = assert_all_named(module)
    assert set(case.spec.parts) <= named
    if "clip" in case.spec.parts:
        assert "clip.towers" in named
    if "base" in case.spec.parts:
        assert {"base.module", "text_encoder.module"} <= named
        assert {f"base.module.{name}" for name, _ in module.base.module.named_children()} <= named


def test_a_frozen_text_encoder_is_guarded(frozen_text, shared_cache):
    case = Case("diffusion/fast_pixels", None, shared_cache, *frozen_text)
    assert "text_encoder.backbone" in assert_all_named(case.module())


@pytest.mark.parametrize("model", STAGES)
def test_what_a_base_stands_on_is_guarded(model, frozen_text, shared_cache):
    case = Case(model, None, shared_cache)
    below = [*words("diffusion/fast_unet", None, shared_cache), *frozen_text, "data.resolution=8"]
    case.composed = replace(case.composed, example=compose_spec(below))
    named = assert_all_named(case.module())
    assert {"base.module.first_stage", "base.module.text_encoder.backbone"} <= named


def test_batches_carry_the_targets(case):
    module = case.module()
    batch = next(case.batches(module))
    targets = module.targets()
    assert set(batch.targets) == set(targets)
    if "first_stage" in case.spec.parts:
        assert targets
    for name, target in targets.items():
        assert target.fingerprint
        torch.testing.assert_close(batch.targets[name], target.make(batch.image))


def first_loss(case, carried):
    """The loss of the first step on a batch with what ``carried`` leaves of its targets."""
    module = stirred(case.module())
    optimizers = module.configure_optimizers()
    module.optimizers = lambda: optimizers
    module.manual_backward = lambda loss: loss.backward()
    batch = next(case.batches(module))
    made = {name: target.make(batch.image) for name, target in module.targets().items()}
    torch.manual_seed(0)
    return float(module.training_step(replace(batch, targets=carried(made)), 0)["loss"])


def test_targets_are_what_is_trained_on(case):
    loss = first_loss(case, lambda made: made)
    # A batch without them is a batch whose images the family encodes itself.
    assert first_loss(case, lambda made: {}) == pytest.approx(loss, rel=1e-5)
    if "first_stage" in case.spec.parts:
        swapped = first_loss(case, lambda made: {n: rows.roll(1, 0) for n, rows in made.items()})
        assert swapped != pytest.approx(loss, rel=1e-5)


@torch.no_grad()
def test_likelihoods_leave_chance_alone(case):
    module = case.module().eval()
    batch = next(case.batches(module))
    before = torch.get_rng_state()
    found = module.likelihood(batch)
    assert torch.equal(torch.get_rng_state(), before)
    if found is None:
        return
    assert found.nats.shape == (len(batch),) and (found.nats > 0).all()
    assert torch.equal(module.likelihood(batch).nats, found.nats)
    bits = found.nats / found.dimensions / torch.log(torch.tensor(2.0))
    torch.testing.assert_close(found.bits_per_dimension, bits)


@torch.no_grad()
def test_the_likelihood_of_codes_is_the_sum_of_what_each_next_code_costs(shared_cache):
    case = Case("autoregressive/fast_gpt", None, shared_cache)
    module = case.module().eval()
    batch = next(case.batches(module))
    codes, text = batch.targets["codes"], module.encode_text(batch)
    found = module.likelihood(batch)
    assert (found.of, found.bound, found.dimensions) == ("codes", False, codes.shape[1])
    loss = next_code_loss(module.network(codes, text), codes, label_smoothing=0.0)
    torch.testing.assert_close(found.nats.mean() / codes.shape[1], loss)
    # As it is sampled, a code at a time, from what the cache keeps of those before.
    cache, nats = module.network.start_cache(text), torch.zeros(len(batch))
    for i in range(codes.shape[1]):
        logits = module.network.step(codes[:, i - 1] if i else None, i, cache)
        nats -= log_softmax(logits.float(), 1).gather(1, codes[:, i : i + 1])[:, 0]
    torch.testing.assert_close(found.nats, nats, rtol=1e-5, atol=1e-4)
