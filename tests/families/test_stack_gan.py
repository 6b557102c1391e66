"""StackGAN: parity with its authors' code, parameter counts, losses in closed form, two stages."""

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from contract.models import Case
from torch.nn.functional import softplus

from t2ibench.core.edits import Upscaling
from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import Batch, TextFeatures
from t2ibench.families.frozen_base import BaseText
from t2ibench.families.gan.augment import DiffAugment
from t2ibench.families.gan.losses import Adversary
from t2ibench.families.gan.stack_gan import StackGANStageOne, StackGANStageTwo
from t2ibench.families.gan.stack_gan_losses import Losses, Made
from t2ibench.families.gan.stack_gan_networks import (
    Condition,
    ConditioningAugmentation,
    Discriminator,
    StageOneGenerator,
    StageTwoGenerator,
    divergence,
)
from t2ibench.text.word import WordTransformer

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "stack_gan.json").read_text())
CAPTIONS = ["a red ring", "a small blue moon on grey", "a pink cross", "ring"]
OPTIONS = {
    "condition_width": 8,
    "generator_channels": 4,
    "discriminator_channels": 4,
    "conditioning": "concat",
    "heads": 2,
    "generator_optimizer": partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999)),
    "discriminator_optimizer": partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999)),
    "null_text_probability": 0.0,
    "gradient_clip_norm": 0.0,
    "adversarial_loss": "non_saturating",
    "relativistic_gamma": 1.0,
    "kl_weight": 2.0,
    "augment": [],
    "accumulation": 1,
    "truncation_psi": 1.0,
}


def ready(module):
    players = module.configure_optimizers()
    module.optimizers = lambda: players
    module.manual_backward = lambda loss: loss.backward()
    return module


def stage_one(resolution=16, **changes):
    torch.manual_seed(0)
    words = sorted({w for c in CAPTIONS for w in c.split()})
    text = WordTransformer(vocabulary=words, width=16, depth=1, heads=2, max_length=8)
    options = OPTIONS | {"noise_width": 6} | changes
    return ready(StackGANStageOne(text_encoder=text, resolution=resolution, **options))


def stage_two(resolution=64, base=None, upscale=4, **changes):
    base = base or stage_one()
    torch.manual_seed(1)
    options = OPTIONS | {"residual_blocks": 1, "base": base, "upscale": upscale} | changes
    return ready(StackGANStageTwo(text_encoder=BaseText(base), resolution=resolution, **options))


def make_batch(resolution):
    image = torch.rand(4, 3, resolution, resolution) * 2 - 1
    return Batch(image=image, caption=CAPTIONS, index=torch.arange(4))


# ---- the authors' code ----


def wave(shape, k):
    """Numbers that any program can make: see the golden file."""
    entries = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.7 * (entries + 1) + k).reshape(shape).float()


def filled(network):
    """The network with the golden file's weights."""
    with torch.no_grad():
        for k, (name, parameter) in enumerate(network.named_parameters()):
            values = wave(parameter.shape, k)
            if parameter.ndim > 1:
                values = values * (2 / math.sqrt(parameter[0].numel()))
            else:
                values = 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
            parameter.copy_(values)
    return network


def assert_told(found, kept):
    """A tensor's norm and its product with a wave are those of the file to 1e-5."""
    flat = found.detach().double().flatten()
    told = [float(flat.norm()), float(flat @ wave(flat.shape, 0.5).double())]
    assert told == pytest.approx(kept, rel=1e-5, abs=1e-5 * kept[0])


@pytest.mark.parametrize("stage", [1, 2])
def test_forward_losses_and_gradients_are_the_authors(stage):
    kept = GOLDEN[f"stage_{stage}"]
    count, side, channels = (4, 64, 4) if stage == 1 else (3, 256, 2)
    pooled = wave((count, 12), 1)
    text = TextFeatures(pooled[:, None], torch.ones(count, 1, dtype=torch.bool), pooled)
    own = {"text_width": 12, "condition_width": 8, "channels": 4, "conditioning": "concat"}
    if stage == 1:
        generator = StageOneGenerator(resolution=64, noise_width=6, heads=1, **own)
        given = (text, wave((count, 6), 2), wave((count, 8), 3))
    else:
        generator = StageTwoGenerator(upscale=4, residual_blocks=2, heads=1, **own)
        given = (0.9 * wave((count, 3, 64, 64), 9), text, wave((count, 8), 3))
    judge = Discriminator(
        resolution=side, condition_width=8, channels=channels, unconditional=stage == 2
    )
    filled(generator)
    filled(judge)
    losses = Losses(judge, Adversary("non_saturating"), DiffAugment([]), 2.0)
    made, real = Made(*generator(*given)), 0.8 * wave((count, 3, side, side), 4)
    assert_told(made.images, kept["fake"])
    assert_told(made.condition.mean, kept["mean"])
    assert_told(made.condition.log_variance, kept["log_variance"])
    loss, _ = losses.of_discriminator(real, made)
    assert loss.item() == pytest.approx(kept["d_loss"], rel=1e-5)
    loss.backward()
    for parameter, gradient in zip(judge.parameters(), kept["d_grads"], strict=True):
        assert_told(parameter.grad, gradient)
    loss, logs = losses.of_generator(real, made)
    assert logs["adversarial"].item() == pytest.approx(kept["g_loss"], rel=1e-5)
    assert logs["kl"].item() == pytest.approx(kept["kl"], rel=1e-5)
    loss.backward()
    for parameter, gradient in zip(generator.parameters(), kept["g_grads"], strict=True):
        assert_told(parameter.grad, gradient)
    with torch.no_grad():
        assert_told(generator.eval()(*given)[0], kept["eval"])


@pytest.mark.parametrize(
    "size, one, two, judge_one, judge_two",
    [
        ("paper", 10_301_248, 26_290_080, 5_715_713, 71_269_122),
        ("coco", 20_020_832, 37_130_480, 12_407_425, 159_889_538),
    ],
)
def test_parameters_are_the_papers(size, one, two, judge_one, judge_two, shared_cache):
    def count(network):
        return sum(p.numel() for p in network.parameters())

    words = ("data.resolution=64", "text=char_cnn_rnn", f"size={size}")
    with torch.device("meta"):
        base = Case("gan/stack_gan_1", None, shared_cache, *words).module()
        assert (count(base.generator), count(base.discriminator)) == (one, judge_one)
        module = Case("gan/stack_gan_2", None, shared_cache, f"size={size}", "data.resolution=256")
        made = module.spec.model.module.arguments
        named = ("upscale", "condition_width", "generator_channels", "residual_blocks")
        chosen = {name: made[name] for name in (*named, "discriminator_channels")}
        stage = stage_two(256, base, **chosen)
        assert (count(stage.generator), count(stage.discriminator)) == (two, judge_two)


# ---- closed forms ----


def test_the_divergence_of_a_standard_normal_is_zero_and_known_elsewhere():
    zero = torch.zeros(2, 3)
    assert divergence(Condition(zero, zero, zero)) == 0
    found = divergence(Condition(zero, torch.full((2, 3), 2.0), torch.full((2, 3), 1.0)))
    assert found.item() == pytest.approx(-0.5 * (1 + 1 - 4 - math.e))


def test_conditions_are_drawn_from_their_distribution():
    augmentation = ConditioningAugmentation(5, 3)
    sentence = torch.randn(1, 5).expand(20_000, -1)
    drawn, mean, log_variance = augmentation(sentence, torch.randn(20_000, 3))
    assert (mean >= 0).all() and (log_variance >= 0).all()
    torch.testing.assert_close(drawn.mean(0), mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.var(0), log_variance[0].exp(), atol=0, rtol=0.05)
    still = augmentation(sentence[:1], torch.zeros(1, 3))
    assert torch.equal(still.drawn, still.mean)


class Given(Discriminator):
    """A judge whose logits are the condition's first entry plus the image's first pixel."""

    def __init__(self, unconditional):
        super().__init__(resolution=8, condition_width=1, channels=1, unconditional=unconditional)

    def features(self, images):
        return images

    def judge(self, features, condition):
        return features[:, 0, 0, 0] + condition[:, 0]

    def realism(self, features):
        return 2 * features[:, 0, 0, 0]


@pytest.mark.parametrize("both", [False, True])
def test_losses_in_closed_form(both):
    judge = Given(both)
    losses = Losses(judge, Adversary("non_saturating"), DiffAugment([]), 3.0)
    real, fake = torch.rand(3, 3, 8, 8), torch.rand(3, 3, 8, 8)
    mean, zero = torch.tensor([[0.1], [0.5], [2.0]]), torch.zeros(3, 1)
    made = Made(fake, Condition(mean, mean, zero))
    x, y, c = real[:, 0, 0, 0], fake[:, 0, 0, 0], mean[:, 0]
    right, wrong = softplus(-x - c).mean(), softplus(x[:2] + c[1:]).mean()
    drawn = softplus(y + c).mean()
    expected = right + 0.5 * (wrong + drawn)
    told = softplus(-y - c).mean() + 3.0 * divergence(made.condition)
    if both:
        expected = (right + softplus(-2 * x).mean()) / 2
        expected = expected + (wrong + drawn + softplus(2 * y).mean()) / 3
        told = told + softplus(-2 * y).mean()
    torch.testing.assert_close(losses.of_discriminator(real, made)[0], expected)
    torch.testing.assert_close(losses.of_generator(real, made)[0], told)


# ---- training and sampling ----


@pytest.mark.parametrize("make, side", [(stage_one, 16), (stage_two, 64)])
def test_each_step_trains_its_own_player(make, side):
    module = make()
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    base = {n: t.clone() for n, t in stage_one().state_dict().items()}
    logs = module.training_step(make_batch(side), 0)
    assert all(torch.isfinite(v) and not v.requires_grad for v in logs.values())
    assert {"real_logit", "fake_spread", "generator_kl", "generator_gradient_norm"} <= set(logs)
    assert not [n for n, p in module.named_parameters() if torch.equal(p, before[n])]
    if make is stage_two:
        kept = module.base.module.state_dict()
        assert all(torch.equal(t, base[n]) for n, t in kept.items())
        assert not any(name.startswith("base") for name in module.state_dict())


def test_the_discriminator_reads_the_mean_without_a_gradient():
    module = stage_one()
    batch = make_batch(16)
    made = module.make(batch, module.inputs(batch))
    loss, _ = module.losses.of_discriminator(batch.image, made)
    loss.backward()
    assert all(p.grad is None for p in module.drawing_parameters())


@pytest.mark.parametrize("make, side", [(stage_one, 16), (stage_two, 64)])
def test_accumulated_gradients_are_the_mean_of_the_parts(make, side):
    """The generator's first step on two parts is that on their mean loss."""
    module, parts = make(accumulation=2), make()
    batch = make_batch(side)
    taken = []
    for one in (module, parts):
        one.optimise = lambda optimizer, losses, parameters: (
            taken.append([torch.autograd.grad(sum(losses), parameters, allow_unused=True)])
            or torch.zeros(())
        )
    torch.manual_seed(5)
    module.training_step(batch, 0)
    torch.manual_seed(5)
    halves = [batch.rows(slice(0, 2)), batch.rows(slice(2, 4))]
    given = [parts.inputs(half) for half in halves]
    losses = [
        parts.losses.of_generator(half.image, parts.make(half, inputs))[0]
        for half, inputs in zip(halves, given, strict=True)
    ]
    wanted = torch.autograd.grad(sum(losses) / 2, parts.drawing_parameters())
    for found, right in zip(taken[1][0], wanted, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="accumulation=3"):
        make(accumulation=3).training_step(batch, 0)


@pytest.mark.parametrize("make, side", [(stage_one, 16), (stage_two, 64)])
def test_the_relativistic_loss_trains_every_parameter(make, side):
    module = make(adversarial_loss="relativistic", augment=["color", "translation", "cutout"])
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    for i in range(2):
        logs = module.training_step(make_batch(side), i)
    assert logs["discriminator_penalty"] > 0
    still = {n for n, p in module.named_parameters() if torch.equal(p, before[n])}
    assert still <= {"discriminator.logit.bias", "discriminator.unconditional_logit.bias"}


def test_truncation_takes_all_noise_away():
    base = stage_one()
    filled(base.generator)
    stage = stage_two(base=base)
    filled(stage.generator)
    for module, name in ((base, "truncation_psi"), (stage, "base_truncation_psi")):
        knobs = {name: 0.0, "truncation_psi": 0.0}
        one, other = (module.generate(["ring"], SeededNoise([s]), knobs) for s in (1, 2))
        assert torch.equal(one, other)
        one, other = (module.generate(["ring"], SeededNoise([s])) for s in (1, 2))
        assert not torch.allclose(one, other, atol=1e-5)


def test_stage_two_redraws_what_its_base_draws():
    base = stage_one()
    filled(base.generator)
    module = stage_two(base=base)
    filled(module.generator)
    small = base.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]))
    knobs = {"truncation_psi": 0.0}
    whole = module.generate(CAPTIONS, SeededNoise([1, 2, 3, 4]), knobs)
    given = module.generate(CAPTIONS, SeededNoise([9] * 4), knobs, edit=Upscaling(small))
    torch.testing.assert_close(whole, given)
    other = module.generate(CAPTIONS, SeededNoise([9] * 4), knobs, edit=Upscaling(-small))
    assert not torch.allclose(whole, other, atol=1e-3)


@pytest.mark.parametrize("resolution", [4, 24, 63])
def test_other_resolutions_are_refused(resolution):
    with pytest.raises(ConfigError, match=f"data.resolution={resolution}"):
        stage_one(resolution)


@pytest.mark.parametrize("changes", [{"upscale": 3}, {"upscale": 2}, {"resolution": 32}])
def test_a_base_of_another_resolution_is_refused(changes):
    with pytest.raises(ConfigError, match=r"base's 16 px"):
        stage_two(**changes)
