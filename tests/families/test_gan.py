"""The GAN family: its losses in closed form, its two players, its text, its knob."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from contract.models import MODELS, Case
from jaxtyping import TypeCheckError
from torch.nn.functional import normalize

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import Batch, TextFeatures
from t2ibench.families.gan.fast_painter import Discriminator, FourierCanvas, Generator
from t2ibench.families.gan.losses import (
    Adversary,
    caption_words,
    gradient_penalty,
    matching_loss,
    redescription_loss,
)
from t2ibench.families.gan.module import TextConditionalGAN
from t2ibench.families.gan.pairs import halfway
from t2ibench.text.word import WordTransformer

CAPTIONS = ["a red ring", "a small blue moon on grey", "a pink cross", "ring"]
CONDITIONINGS = ("concat", "modulation", "cross_attention")


def make_module(conditioning="modulation", resolution=32, word_buckets=64, **changes):
    torch.manual_seed(0)
    words = sorted({w for c in CAPTIONS for w in c.split()})
    options = {
        "adversarial_loss": "hinge",
        "relativistic_gamma": 1.0,
        "matching": "contrastive",
        "wrong_weight": 0.5,
        "matching_weight": 1.0,
        "redescription_weight": 1.0,
        "gradient_penalty_weight": 0.0,
        "interpolation_weight": 0.0,
        "augment": [],
        "accumulation": 1,
        "truncation_psi": 1.0,
    }
    module = TextConditionalGAN(
        text_encoder=WordTransformer(vocabulary=words, width=16, depth=1, heads=2, max_length=8),
        generator=partial(
            Generator,
            noise_width=8,
            channels=16,
            depth=2,
            style_width=16,
            max_frequency=3.0,
            conditioning=conditioning,
            heads=2,
            groups=4,
        ),
        discriminator=partial(
            Discriminator, channels=8, embedding_width=16, word_buckets=word_buckets, groups=4
        ),
        generator_optimizer=partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.99)),
        discriminator_optimizer=partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.99)),
        resolution=resolution,
        null_text_probability=0.0,
        gradient_clip_norm=0.0,
        **(options | changes),
    )
    players = module.configure_optimizers()
    module.optimizers = lambda: players
    module.manual_backward = lambda loss: loss.backward()
    return module


def make_batch(resolution=32):
    image = torch.rand(4, 3, resolution, resolution) * 2 - 1
    return Batch(image=image, caption=CAPTIONS, index=torch.arange(4))


@pytest.mark.parametrize("kind", ["non_saturating", "hinge"])
def test_adversarial_losses_in_closed_form(kind):
    real, fake = torch.tensor([0.0, 2.0]), torch.tensor([0.0, -3.0])
    wrong = torch.tensor([-0.5, 0.5])

    def softplus(x):
        return math.log1p(math.exp(x))

    expected = {
        "non_saturating": (
            (softplus(0) + softplus(-2)) / 2
            + (softplus(0) + softplus(-3)) / 2
            + 0.5 * (softplus(-0.5) + softplus(0.5)) / 2,
            (softplus(0) + softplus(3)) / 2,
        ),
        "hinge": (0.5 + 0.5 + 0.25 * (0.5 + 1.5), 1.5),
    }[kind]
    adversary = Adversary(kind)
    found = adversary.discriminator_loss(real, [(1.0, fake), (0.5, wrong)])
    assert found.item() == pytest.approx(expected[0])
    assert adversary.generator_loss(fake).item() == pytest.approx(expected[1])


def test_the_relativistic_loss_compares_pairs():
    real, fake, wrong = torch.tensor([0.0, 2.0]), torch.tensor([0.0, -3.0]), torch.tensor([-0.5])

    def softplus(x):
        return math.log1p(math.exp(x))

    adversary = Adversary("relativistic", 2.0)
    found = adversary.discriminator_loss(real, [(1.0, fake), (0.5, wrong)], real_weight=7.0)
    expected = (softplus(0) + softplus(-5)) / 2 + 0.5 * softplus(-0.5)
    assert found.item() == pytest.approx(expected)
    expected = (softplus(0) + softplus(5)) / 2
    assert adversary.generator_loss(fake, real).item() == pytest.approx(expected)


def test_zero_centred_penalties_of_a_linear_score_are_its_squared_weight():
    weight = torch.randn(3, 4, 4, requires_grad=True)
    real, fake = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
    found = Adversary("relativistic", 3.0).penalty(
        lambda x: (x * weight).sum((1, 2, 3)), real, fake
    )
    torch.testing.assert_close(found, 3 * weight.square().sum())
    found.backward()
    torch.testing.assert_close(weight.grad, 6 * weight.detach())


def test_contrastive_matching_of_orthogonal_pairs():
    eye, scale = torch.eye(3), torch.tensor(2.0)
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    value = matching_loss("contrastive", eye, eye, scale)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert matching_loss("contrastive", eye, eye.roll(1, 0), scale) > value


def test_wrong_text_matching_is_two_binary_cross_entropies():
    eye, scale = torch.eye(3), torch.tensor(2.0)
    expected = (math.log1p(math.exp(-2)) + math.log(2)) / 2
    value = matching_loss("wrong_text", eye, eye, scale)
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        (lambda: Adversary("wgan")),
        (lambda: matching_loss("psychic", torch.eye(2), torch.eye(2), torch.tensor(1.0))),
    ],
)
def test_unknown_losses_are_refused(call):
    with pytest.raises((ConfigError, TypeCheckError), match="wgan|psychic"):
        call()


def test_gradient_penalty_of_a_linear_score_is_its_squared_weight():
    weight, images = torch.randn(48), torch.randn(20_000, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):  # which would round the difference away
        penalty = gradient_penalty(lambda x: x.flatten(1) @ weight, images, 0.01)
    torch.testing.assert_close(penalty, weight.square().sum(), rtol=0.05, atol=0)


def test_caption_words_hash_presence_and_ignore_case_and_punctuation():
    words = caption_words(["A red, RED ring.", "a red ring", ""], 64)
    assert torch.equal(words[0], words[1])
    assert words[0].sum() == 3 and words[2].sum() == 0


def test_without_word_labels_nothing_reads_words():
    module = make_module(redescription_weight=0.0, word_buckets=0)
    assert module.extra_supervision() == ()
    assert not any("words" in name for name, _ in module.named_parameters())
    assert module.discriminator(make_batch().image).words.shape == (4, 0)
    batch, text = make_batch(), module.encode_captions(CAPTIONS)
    judged, wanted = module.discriminator(batch.image), module.discriminator.embed_text(text)
    told, matching = module._told(judged, wanted, replace(batch, caption=["of others"] * 4))
    assert torch.equal(told, matching)


@pytest.mark.parametrize("weight, buckets", [(1.0, 0), (0.0, 64)])
def test_word_head_and_weight_come_together(weight, buckets):
    with pytest.raises(ConfigError, match="fast_painter_words"):
        make_module(redescription_weight=weight, word_buckets=buckets)


def test_families_are_compared_with_the_same_supervision(shared_cache):
    """Captions and images: of what conf/model trains, the one model with word labels says so."""
    given = {}
    for model in MODELS:
        module = Case(model, None, shared_cache).module()
        if module.extra_supervision():
            given[model] = module.extra_supervision()
    assert given == {"gan/fast_painter_words": ("word labels",)}


def test_redescription_is_zero_for_certain_and_right_words():
    words = caption_words(["a red ring", "a pink cross"], 64)
    assert redescription_loss((2 * words - 1) * 50, words).item() == pytest.approx(0, abs=1e-6)
    undecided = redescription_loss(torch.zeros_like(words), words)
    assert undecided.item() == pytest.approx(64 * math.log(2), rel=1e-5)


def test_halfway_averages_sentences_and_shared_tokens():
    tokens = torch.tensor([[[1.0], [3.0]], [[5.0], [7.0]]])
    mask = torch.tensor([[True, False], [True, True]])
    between = halfway(TextFeatures(tokens, mask, torch.tensor([[2.0], [6.0]])))
    assert torch.equal(between.pooled, torch.tensor([[4.0], [4.0]]))
    assert torch.equal(between.tokens[0], torch.tensor([[3.0], [7.0]]))
    assert between.mask.all()


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "adversarial_loss": "non_saturating",
            "matching": "wrong_text",
            "gradient_penalty_weight": 0.1,
            "interpolation_weight": 1.0,
        },
        {"adversarial_loss": "relativistic", "relativistic_gamma": 0.5},
    ],
)
def test_two_steps_change_every_parameter(conditioning, changes):
    module = make_module(conditioning, **changes)
    start = {n: p.detach().clone() for n, p in module.named_parameters()}
    for i in range(2):
        logs = module.training_step(make_batch(), i)
    assert all(torch.isfinite(v) and not v.requires_grad for v in logs.values())
    assert "loss" in logs
    # Where logits are compared with each other, what is added to all has no gradient but rounding.
    still = {"discriminator.logit.bias"} if changes.get("relativistic_gamma") else set()
    assert {n for n, p in module.named_parameters() if torch.equal(p, start[n])} <= still


def test_each_step_trains_only_its_own_player():
    module = make_module()
    of_generator, _ = module.optimizers()
    start = {n: p.detach().clone() for n, p in module.named_parameters()}

    def moved():
        return {
            n.split(".")[0] for n, p in module.named_parameters() if not torch.equal(p, start[n])
        }

    of_generator.step = lambda: None
    module.training_step(make_batch(), 0)
    assert moved() == {"discriminator", "text_encoder"}
    module = make_module()
    start = {n: p.detach().clone() for n, p in module.named_parameters()}
    module.optimizers()[1].step = lambda: None
    module.training_step(make_batch(), 0)
    assert moved() == {"generator"}
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_an_image_does_not_depend_on_its_batch(conditioning):
    module = make_module(conditioning)
    for i in range(3):
        module.training_step(make_batch(), i)
    together = module.generate(CAPTIONS, SeededNoise([5, 6, 7, 8]))
    assert together.shape == (4, 3, 32, 32) and together.abs().max() <= 1
    for i in range(4):
        alone = module.generate(CAPTIONS[i : i + 1], SeededNoise([5 + i]))
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_every_mechanism_listens_to_the_caption(conditioning):
    module = make_module(conditioning)
    for i in range(2):
        module.training_step(make_batch(), i)
    one = module.generate(["a red ring"], SeededNoise([1]))
    other = module.generate(["a small blue moon on grey"], SeededNoise([1]))
    assert not torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_resolutions(resolution):
    module = make_module(resolution=resolution)
    module.training_step(make_batch(resolution), 0)
    assert module.generate(["ring"], SeededNoise([0])).shape[-1] == resolution


def test_truncation_takes_the_noise_away():
    module = make_module()
    still = [module.generate(["ring"], SeededNoise([s]), {"truncation_psi": 0.0}) for s in (1, 2)]
    free = [module.generate(["ring"], SeededNoise([s]), {"truncation_psi": 1.0}) for s in (1, 2)]
    assert torch.equal(*still)
    assert not torch.allclose(*free, atol=1e-4)
    for value in (-0.1, 1.6):
        with pytest.raises(ConfigError, match="outside"):
            module.generate(["ring"], SeededNoise([0]), {"truncation_psi": value})


def test_what_is_sampled_is_averaged_and_the_judge_is_not():
    names = set(make_module().sampling_parameters())
    assert any(n.startswith("generator.") for n in names)
    assert any(n.startswith("text_encoder.") for n in names)
    assert not any(n.startswith("discriminator.") for n in names)


def test_state_dict_is_strict_and_complete():
    module, other = make_module(), make_module()
    module.training_step(make_batch(), 0)
    other.load_state_dict(module.state_dict(), strict=True)
    a, b = (m.generate(CAPTIONS, SeededNoise([1, 2, 3, 4])) for m in (module, other))
    assert torch.equal(a, b)


def test_the_canvas_moves_with_its_translation():
    canvas = FourierCanvas(
        resolution=16, channels=8, joint_width=3, noise_width=1, max_frequency=3.0
    )
    with torch.no_grad():
        canvas.translation.weight.copy_(torch.tensor([[0.0, 0.0, 2 / 16], [0.0, 0.0, 1 / 16]]))
    still, moved = canvas(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    torch.testing.assert_close(moved[:, 1:, 2:], still[:, :-1, :-2], atol=1e-5, rtol=1e-4)


def test_belief_rises_with_the_right_caption_only_through_relevance():
    judge = make_module().discriminator
    text = TextFeatures(
        torch.randn(4, 1, 16), torch.ones(4, 1, dtype=torch.bool), torch.randn(4, 16)
    )
    judged = judge(make_batch().image)
    silent = judged._replace(relevance=torch.zeros_like(judged.relevance))
    torch.testing.assert_close(judge.belief(silent, text), judged.logit)
    told = judge.relevance_text(text.pooled)
    eager = judged._replace(relevance=told)
    assert (judge.belief(eager, text) > judged.logit).all()


def test_embeddings_have_unit_length():
    module = make_module()
    judged = module.discriminator(make_batch().image)
    torch.testing.assert_close(judged.embedding, normalize(judged.embedding, dim=1))
    torch.testing.assert_close(judged.embedding.norm(dim=1), torch.ones(4))
