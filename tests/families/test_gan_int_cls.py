"""GAN-INT-CLS: parameter counts, layout, its losses and pairs, what it does with biases."""

import math
from functools import partial

import pytest
import torch
from contract.models import Case
from torch.nn.functional import softplus

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import Batch, TextFeatures
from t2ibench.families.gan.gan_int_cls import (
    GANINTCLS,
    Bottleneck,
    Discriminator,
    Generator,
    convolution_biases,
    stages,
)
from t2ibench.families.gan.pairs import first_with_second_half
from t2ibench.text.word import WordTransformer

CAPTIONS = ["a red ring", "a small blue moon on grey", "a pink cross", "ring"]


def make_module(resolution=16, **changes):
    torch.manual_seed(0)
    words = sorted({w for c in CAPTIONS for w in c.split()})
    options = {
        "noise_width": 6,
        "projected_width": 8,
        "generator_channels": 8,
        "discriminator_channels": 8,
        "conditioning": "concat",
        "heads": 2,
        "adversarial_loss": "non_saturating",
        "relativistic_gamma": 1.0,
        "wrong_weight": 0.5,
        "interpolation_weight": 1.0,
        "augment": [],
        "accumulation": 1,
        "truncation_psi": 1.0,
        "gradient_clip_norm": 0.0,
    }
    module = GANINTCLS(
        text_encoder=WordTransformer(vocabulary=words, width=16, depth=1, heads=2, max_length=8),
        generator_optimizer=partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999)),
        discriminator_optimizer=partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999)),
        resolution=resolution,
        null_text_probability=0.0,
        **(options | changes),
    )
    players = module.configure_optimizers()
    module.optimizers = lambda: players
    module.manual_backward = lambda loss: loss.backward()
    return module


def make_batch(resolution=16):
    image = torch.rand(4, 3, resolution, resolution) * 2 - 1
    return Batch(image=image, caption=CAPTIONS, index=torch.arange(4))


def features(pooled):
    return TextFeatures(pooled[:, None], torch.ones(len(pooled), 1, dtype=torch.bool), pooled)


def test_parameters_are_the_papers(shared_cache):
    words = ("data.resolution=64", "text=char_cnn_rnn", "size=paper")
    with torch.device("meta"):
        module = Case("gan/gan_int_cls", None, shared_cache, *words).module()
    counts = [sum(p.numel() for p in n.parameters()) for n in module.networks().values()]
    assert counts == [18_909_699, 4_032_321]
    biases = sum(b.numel() for n in module.networks().values() for b in convolution_biases(n))
    assert biases == 4227 + 2241  # of convolutions, zeroed before every step


def test_stages_halve_the_channels_and_double_the_side():
    generator = Generator(
        resolution=64, text_width=8, noise_width=6, projected_width=4, channels=2,
        conditioning="concat", heads=1,
    )  # fmt: skip
    assert [up.out_channels for up in generator.ups] == [16, 8, 4, 2]
    assert len(generator.bottlenecks) == 2
    judge = Discriminator(resolution=64, text_width=8, projected_width=4, channels=2)
    assert [down.out_channels for down in judge.downs] == [2, 4, 8, 16]
    assert judge.features(torch.zeros(2, 3, 64, 64)).shape == (2, 16, 4, 4)


def test_maps_before_a_bottleneck_have_no_activation():
    """Negative values reach it: with its branch at zero it returns their activation alone."""
    torch.manual_seed(0)
    judge = Discriminator(resolution=64, text_width=8, projected_width=4, channels=2)
    seen = []
    judge.norms[2].register_forward_hook(lambda *given: seen.append(given[2]))
    judge.downs[3].register_forward_hook(lambda *given: seen.append(given[1][0]))
    judge.features(torch.randn(4, 3, 64, 64))
    assert torch.equal(*seen) and (seen[0] < 0).any()
    block = Bottleneck(8, 2, 0.2)
    with torch.no_grad():
        block.widen_norm.weight.zero_()
    x = torch.randn(3, 8, 4, 4)
    torch.testing.assert_close(block(x), torch.where(x > 0, x, 0.2 * x))


def test_captions_of_the_first_half_meet_those_of_the_second():
    pooled = torch.tensor([[0.0], [2.0], [10.0], [6.0], [99.0]])
    found = first_with_second_half(features(pooled))
    assert torch.equal(found.pooled, torch.tensor([[5.0], [4.0]]))
    assert torch.equal(found.tokens[:, 0], found.pooled)


class Sums(torch.nn.Module):
    """A judge whose logits are the sentence's first entry plus the image's first pixel."""

    def features(self, images):
        return images[:, 0, 0, 0]

    def judge(self, seen, text):
        return seen + text.pooled[:, 0]


def test_losses_in_closed_form():
    module, batch = make_module(wrong_weight=0.3, interpolation_weight=0.7), make_batch()
    module.discriminator = Sums()
    text = module.encode_text(batch)
    torch.manual_seed(3)
    found, _ = module._judged(batch)
    torch.manual_seed(3)
    with torch.no_grad():
        fake = module.generator(text, torch.randn(4, 6))[:, 0, 0, 0]
    real, told = batch.image[:, 0, 0, 0], text.pooled[:, 0]
    wrong = softplus(real + told.roll(1)).mean()  # image i + 1 with caption i
    right = softplus(-real - told).mean()
    torch.testing.assert_close(found, right + 0.3 * wrong + 0.7 * softplus(fake + told).mean())
    torch.manual_seed(3)
    found, _ = module._drawn(batch)
    torch.manual_seed(3)
    all_text = TextFeatures.cat([text, first_with_second_half(text)])
    drawn = module.generator(all_text, torch.randn(6, 6))[:, 0, 0, 0]
    each = softplus(-drawn - all_text.pooled[:, 0])
    torch.testing.assert_close(found, (each[:4].sum() + 0.7 * each[4:].sum()) / 6)


def test_interpolation_is_of_the_generator_alone():
    """With and without it the discriminator has the same loss, the generator another."""
    told = []
    for weight in (0.0, 1.0):
        module = make_module(interpolation_weight=weight)
        torch.manual_seed(2)
        batch = make_batch()
        torch.manual_seed(3)
        told.append(module.training_step(batch, 0))
    assert torch.equal(told[0]["discriminator_loss"], told[1]["discriminator_loss"])
    assert not torch.allclose(told[0]["loss"], told[1]["loss"])


def test_biases_of_convolutions_are_zero_in_every_step():
    module, seen = make_module(), []

    def look(*_):
        found = [b for n in (module.generator, module.discriminator) for b in convolution_biases(n)]
        seen.append(max(float(b.detach().abs().max()) for b in found))

    module.discriminator.logit.register_forward_hook(look)
    for i in range(2):
        module.training_step(make_batch(), i)
    assert len(seen) == 8 and max(seen) == 0.0
    assert any(float(b.detach().abs().max()) > 0 for b in convolution_biases(module.generator))


@pytest.mark.parametrize("conditioning", ["concat", "modulation", "cross_attention"])
def test_every_mechanism_listens_to_the_caption(conditioning):
    module = make_module(conditioning=conditioning)
    with torch.no_grad():
        for p in module.generator.parameters():
            p.add_(0.1 * torch.randn_like(p))
    one, other = (module.generate([c], SeededNoise([1])) for c in CAPTIONS[:2])
    assert not torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("changes", [{"augment": ["color", "translation"]}, {"accumulation": 2}])
def test_the_relativistic_loss_trains_both_players(changes):
    module = make_module(adversarial_loss="relativistic", **changes)
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    logs = module.training_step(make_batch(), 0)
    assert logs["discriminator_penalty"] > 0 and math.isfinite(logs["loss"])
    moved = {n.split(".")[0] for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"text_encoder", "generator", "discriminator"}


def test_alarms_name_settings_that_exist():
    module = make_module()
    logged = dict.fromkeys(("real_logit", "fake_logit", "fake_spread"), 0.0)
    found = module.alarms(logged | {"accuracy": 1.0, "real_spread": 1.0})
    assert set(found) == {"collapse", "won", "dead"}
    assert "model.module.discriminator_optimizer.lr" in found["won"]


@pytest.mark.parametrize("resolution, count", [(8, 1), (64, 4), (128, 5)])
def test_resolutions_are_reached_by_doubling(resolution, count):
    assert stages(resolution) == count


@pytest.mark.parametrize("resolution", [4, 48])
def test_other_resolutions_are_refused(resolution):
    with pytest.raises(ConfigError, match=f"data.resolution={resolution}"):
        make_module(resolution)
