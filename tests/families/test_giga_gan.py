"""GigaGAN: its pyramid game, its losses, truncation of each prompt, mixing and interpolation."""

import math
from functools import partial

import pytest
import torch
from contract.models import BATCH, Case
from torch import nn
from torch.nn.functional import normalize, softplus

from t2ibench.cli.compose import compose_spec
from t2ibench.core.edits import Interpolation, PromptMixing, StyleMixing
from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import SeededNoise
from t2ibench.core.pixels import from_pixels
from t2ibench.core.types import Batch
from t2ibench.engine.build import instantiate
from t2ibench.engine.edits import make_edit
from t2ibench.engine.parts.frozen_backbone import FrozenNetwork
from t2ibench.families.frozen_clip import FrozenClip
from t2ibench.families.gan.balance import LOGGED
from t2ibench.families.gan.giga_discriminator import (
    GigaDiscriminator,
    packed,
    pyramid_of,
    realism,
    unpacked,
)
from t2ibench.families.gan.giga_gan import GigaGAN
from t2ibench.families.gan.giga_generator import MEAN_STYLES, GigaGenerator
from t2ibench.families.gan.giga_losses import (
    PENALISED,
    clip_contrastive_loss,
    multiscale_discriminator_loss,
    multiscale_generator_loss,
)
from t2ibench.families.gan.losses import Adversary
from t2ibench.metrics.dual_encoder import DualEncoder, Vocabulary
from t2ibench.text.word import WordTransformer

CAPTIONS = ["a red ring", "a small blue moon on grey", "a pink cross", "ring"]
WORDS = sorted({word for caption in CAPTIONS for word in caption.split()})
GENERATOR = {
    "noise_width": 8,
    "style_width": 16,
    "mapping_depth": 2,
    "channel_base": 128,
    "channel_max": 16,
    "depth": 2,
    "candidates": 3,
    "attention_resolutions": [8],
    "heads": 2,
    "branch_width": 16,
    "branch_depth": 1,
}
JUDGE = {
    "channel_base": 128,
    "channel_max": 16,
    "attention_resolutions": [8],
    "heads": 2,
    "branch_width": 16,
    "branch_depth": 1,
}


def make_module(resolution=16, conditioning="cross_attention", **changes):
    torch.manual_seed(0)
    options = {
        "adversarial_loss": "non_saturating",
        "relativistic_gamma": 1.0,
        "matching_weight": 1.0,
        "r1_gamma": 0.1,
        "r1_interval": 2,
        "clip_weight": 0.0,
        "clip_temperature": 0.1,
        "vision_weight": 0.0,
        "vision_width": 8,
        "augment": [],
        "accumulation": 1,
        "truncation_psi": 1.0,
        "gradient_clip_norm": 0.0,
    }
    module = GigaGAN(
        text_encoder=WordTransformer(vocabulary=WORDS, width=16, depth=1, heads=2, max_length=8),
        generator=partial(GigaGenerator, conditioning=conditioning, **GENERATOR),
        discriminator=partial(GigaDiscriminator, **JUDGE),
        generator_optimizer=partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.99)),
        discriminator_optimizer=partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.99)),
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


def make_clip(side=16):
    torch.manual_seed(3)
    config = {
        "image_size": side,
        "embed_dim": 8,
        "vision": {"width": 4, "layers": [1, 1, 1], "heads": 2},
        "text": {"width": 8, "layers": 1, "heads": 2, "context_length": 8},
    }
    return FrozenClip(DualEncoder("tiny", config, Vocabulary(WORDS, 8)))


class Patches(nn.Module):
    """A frozen network of two maps of image tokens."""

    maps, width = 2, 12

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, self.width, 4, 4)

    def forward(self, images):
        tokens = self.embed(images).flatten(2)
        return [tokens, tokens.tanh()]


# ---- the pyramid game ----


def test_a_generator_makes_and_a_judge_reads_every_size():
    module = make_module(32)
    text = module.encode_captions(CAPTIONS)
    pyramid = module.generator(text, torch.randn(4, 8))
    assert [x.shape[-1] for x in pyramid] == [4, 8, 16, 32] == module.discriminator.sides
    (logits,) = module.discriminator(pyramid, [text])
    # Judged maps from half the side down to one position, each of all images above it.
    assert [x.shape[1:] for x in logits] == [(1, 16, 16), (2, 8, 8), (3, 4, 4), (4, 1, 1)]


def test_each_logit_is_of_one_image_of_one_size():
    module = make_module(32)
    text = module.encode_captions(CAPTIONS)
    pyramid = pyramid_of(torch.randn(4, 3, 32, 32), 4)
    (before,) = module.discriminator(pyramid, [text])
    for number in range(4):  # from the largest, in the order of their entering
        changed = list(pyramid)
        changed[3 - number] = changed[3 - number].clone()
        changed[3 - number][2] += 1
        (after,) = module.discriminator(changed, [text])
        for old, new in zip(before, after, strict=True):
            moved = (old != new).flatten(2).any(2)
            wanted = torch.zeros_like(moved)
            if number < old.shape[1]:
                wanted[2, number] = True
            assert torch.equal(moved, wanted)


def test_two_sets_of_images_share_their_captions():
    module = make_module()
    text = module.encode_captions(CAPTIONS)
    one, other = (pyramid_of(torch.randn(4, 3, 16, 16), 3) for _ in range(2))
    both = [torch.cat(pair) for pair in zip(one, other, strict=True)]
    (together,) = module.discriminator(both, [text])
    for rows, pyramid in ((slice(4), one), (slice(4, 8), other)):
        (alone,) = module.discriminator(pyramid, [text])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[rows], b)


def test_losses_are_summed_over_pairs_and_averaged_over_places():
    torch.manual_seed(0)
    kinds = [
        [torch.randn(5, j + 1, side, side) for j, side in enumerate((8, 4, 1))] for _ in range(4)
    ]
    right, fake, wrong, fake_wrong = kinds
    adversary = Adversary("non_saturating")
    found = multiscale_discriminator_loss(
        adversary, right, [(1.0, fake), (0.5, wrong), (0.5, fake_wrong)]
    )
    expected = sum(
        softplus(-right[j][:, i]).mean()
        + softplus(fake[j][:, i]).mean()
        + 0.5 * softplus(wrong[j][:, i]).mean()
        + 0.5 * softplus(fake_wrong[j][:, i]).mean()
        for j in range(3)
        for i in range(j + 1)
    )
    torch.testing.assert_close(found, expected)
    found = multiscale_generator_loss(adversary, fake, None)
    expected = sum(softplus(-fake[j][:, i]).mean() for j in range(3) for i in range(j + 1))
    torch.testing.assert_close(found, expected)
    assert realism(right).shape == (5,)


def test_a_pyramid_is_packed_and_unpacked():
    pyramid = pyramid_of(torch.randn(2, 3, 16, 16), 3)
    row = packed(pyramid)
    assert row.shape == (2, 3, 1, 16 + 64 + 256)
    for a, b in zip(unpacked(row, [4, 8, 16]), pyramid, strict=True):
        assert torch.equal(a, b)


def test_the_penalty_is_that_of_all_sizes_and_falls_due_lazily():
    module = make_module(r1_gamma=0.5, r1_interval=4)
    due = [module.game.kind(step) == PENALISED for step in range(8)]
    assert due == [False, False, False, True] * 2
    real = pyramid_of(torch.randn(4, 3, 16, 16), 3)
    text = module.encode_captions(CAPTIONS).detach()
    leaves = [x.clone().requires_grad_() for x in real]
    (logits,) = module.discriminator(leaves, [text])
    slopes = torch.autograd.grad(realism(logits).sum(), leaves)
    expected = 0.5 / 2 * sum(s.square().sum((1, 2, 3)) for s in slopes).mean()
    torch.testing.assert_close(
        module.game._penalty(module.discriminator, real, real, text), expected
    )
    assert not make_module(r1_gamma=0.0).game.kind(1)
    assert not make_module(adversarial_loss="relativistic").game.kind(1)


# ---- training ----


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adversarial_loss": "relativistic", "relativistic_gamma": 0.5},
        {"accumulation": 2, "augment": ["translation"], "gradient_clip_norm": 1.0},
        {"clip": True, "clip_weight": 1.0, "vision_weight": 0.5, "backbone": True},
    ],
)
def test_a_few_steps_change_every_parameter(changes):
    if "clip" in changes:
        changes = changes | {"clip": make_clip(), "backbone": FrozenNetwork(Patches())}
    module = make_module(**changes)
    start = {n: p.detach().clone() for n, p in module.named_parameters()}
    for step in range(2):
        module.images_seen = 4 * step
        logs = module.training_step(make_batch(), step)
    assert all(torch.isfinite(v) and not v.requires_grad for v in logs.values())
    assert {*LOGGED, "discriminator_matching"} <= set(logs)
    assert "discriminator_penalty" in logs
    assert ("generator_clip" in logs) == (changes.get("clip_weight", 0) > 0)
    still = {n for n, p in module.named_parameters() if torch.equal(p, start[n])}
    # The relativistic loss does not see what is added to all logits of a map.
    unseen = ".plain.bias" if module.game.adversary.relativistic else "none"
    assert not [name for name in still if not name.endswith(unseen)]
    assert all(p.requires_grad for p in module.parameters())
    assert set(module.alarms({k: float(v) for k, v in logs.items()})) <= {
        "won",
        "lost",
        "dead",
        "collapse",
    }


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
    batch = make_batch()
    batch = Batch(batch.image, [CAPTIONS[0], CAPTIONS[1]] * 2, batch.index)  # neighbours in parts
    clip = make_clip()
    found = []
    for parts in (1, 2):
        module = make_module(accumulation=parts, clip=clip, clip_weight=1.0)
        # The discriminator stays, so that the generator's gradients are of the same game.
        module.optimizers()[1].step = lambda: None
        module.optimizers()[0].step = lambda: None
        torch.manual_seed(5)
        module.images_seen = 4  # a step with R1
        logs = module.training_step(batch, 0)
        gradients = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
        found.append((gradients, logs))
    (whole, logs), (parts, logs_of_parts) = found
    assert set(whole) == set(parts)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=2e-5, rtol=1e-3, msg=name)
    for name in set(logs) - {"real_spread", "fake_spread"}:
        torch.testing.assert_close(logs_of_parts[name], logs[name], atol=1e-4, rtol=1e-4)


def test_the_contrastive_loss_in_closed_form():
    eye = torch.eye(4)
    found = clip_contrastive_loss(eye[1:3], eye, 0.5, slice(1, 3))
    assert found.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 3)), rel=1e-5)


@pytest.mark.parametrize("side", [16, 32, 8])
def test_generated_images_are_embedded_as_pixels_are_and_with_gradients(side):
    clip = make_clip()
    pixels = torch.randint(0, 256, (3, 3, side, side)).to(torch.uint8)
    images = from_pixels(pixels).requires_grad_()
    found = clip.embed_generated(images)
    torch.testing.assert_close(found, clip.embed_images(images.detach()), atol=1e-5, rtol=1e-5)
    found[:, 0].sum().backward()
    assert images.grad.abs().amax((1, 2, 3)).min() > 0


# ---- sampling ----


def test_the_mean_style_is_a_prompts_own():
    module = make_module()
    mapping, sentence = module.generator.mapping, torch.randn(3, 16)
    latents = SeededNoise(range(MEAN_STYLES)).normal(8)
    for mean, one in zip(mapping.mean(sentence), sentence, strict=True):
        each = mapping(latents, one.expand(MEAN_STYLES, -1))
        torch.testing.assert_close(mean, each.mean(0), atol=1e-5, rtol=1e-4)
    noise = torch.randn(3, 8)
    full, none, half = (mapping.truncated(noise, sentence, psi) for psi in (1.0, 0.0, 0.5))
    torch.testing.assert_close(full, mapping(noise, sentence))
    torch.testing.assert_close(none, mapping.mean(sentence))
    torch.testing.assert_close(half, (full + none) / 2)


def test_truncation_leaves_the_prompt_alone():
    module = make_module()
    knobs = {"truncation_psi": 0.0}
    one, other = (module.generate(CAPTIONS, SeededNoise(range(s, s + 4)), knobs) for s in (0, 9))
    assert torch.equal(one, other)
    assert (one[0] - one[1]).abs().max() > 1e-3


def generated(module, caption=CAPTIONS[0], seed=1, edit=None, psi=0.7):
    return module.generate([caption], SeededNoise([seed]), {"truncation_psi": psi}, edit=edit)


def test_styles_and_prompts_mix_by_layers():
    module = make_module(32)
    other = module.encode_captions(CAPTIONS[1:2]).detach()
    own, latent, prompt = (
        generated(module), generated(module, seed=2), generated(module, CAPTIONS[1])
    )  # fmt: skip

    def style(switch):
        return generated(module, edit=StyleMixing(SeededNoise([2]), switch))

    def mixed(switch):
        return generated(module, edit=PromptMixing(other, switch, by="layer"))

    for mix, end in ((style, latent), (mixed, prompt)):
        torch.testing.assert_close(mix(1.0), own)
        torch.testing.assert_close(mix(0.0), end)
        assert (mix(0.5) - own).abs().max() > 1e-3 and (mix(0.5) - end).abs().max() > 1e-3
    with pytest.raises(ConfigError, match="set by=layer"):
        generated(module, edit=PromptMixing(other, 0.5, by="step"))


def test_fine_layers_change_no_coarse_image():
    """What the first levels made stays: the mixed image differs above their resolution."""
    module = make_module(32)
    seen = []
    module.generator.levels[1].register_forward_hook(lambda level, given, out: seen.append(out[1]))
    generated(module)
    generated(module, edit=StyleMixing(SeededNoise([2]), 0.5))
    assert torch.equal(*seen)


def test_interpolation_ends_in_both_images():
    module = make_module()
    other = module.encode_captions(CAPTIONS[1:2]).detach()

    def between(weight):
        return generated(module, edit=Interpolation(other, SeededNoise([7]), weight))

    torch.testing.assert_close(between(0.0), generated(module), atol=1e-5, rtol=1e-4)
    end = generated(module, CAPTIONS[1], 7)
    torch.testing.assert_close(between(1.0), end, atol=1e-5, rtol=1e-4)
    steps = [between(w) for w in (0.45, 0.5, 0.55)]
    near, far = (steps[1] - steps[0]).abs().mean(), (end - generated(module)).abs().mean()
    assert 0 < near < far


def test_edits_as_users_name_them():
    module = make_module()
    mixing = make_edit("prompt_mixing", {"with": "ring", "switch": "0.5"}, module, 2, None, 0)
    assert mixing.by == "layer"
    styles = [
        make_edit("style_mixing", {"switch": "0.5", **named}, module, 2, None, 0).noise.seeds
        for named in ({}, {"style": "0"}, {"style": "1"})
    ]
    assert styles[0] == styles[1] != styles[2]
    assert len(set(styles[0])) == 1, "all images share the second latent"


# ---- what is refused ----


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resolution": 24}, "data.resolution=24 is no power of two"),
        ({"resolution": 4}, "at least 8"),
        ({"clip_weight": 1.0}, "clip_weight=1 with no clip does not fit"),
        ({"vision_weight": 1.0}, "vision_weight=1 with no backbone does not fit"),
    ],
)
def test_impossible_models_are_one_sentence(changes, words):
    with pytest.raises(ConfigError, match=words):
        make_module(**changes)


def test_a_clip_without_a_weight_is_refused():
    with pytest.raises(ConfigError, match="with a clip does not fit"):
        make_module(clip=make_clip())


@pytest.mark.parametrize("accumulation", [3, 4, 0])
def test_parts_of_a_batch_have_two_images(accumulation):
    with pytest.raises(ConfigError, match="accumulation="):
        make_module(accumulation=accumulation).training_step(make_batch(), 0)


def test_text_that_reaches_no_map_is_refused():
    with pytest.raises(ConfigError, match="names no side"):
        GigaGenerator(
            resolution=16, text_width=8, conditioning="concat",
            **GENERATOR | {"attention_resolutions": [64]},
        )  # fmt: skip


# ---- sizes ----


def counted(model, resolution, inputs, *words):
    asked = [f"model=gan/{model}", "size=paper", f"data.resolution={resolution}", *words]
    spec = compose_spec([*asked, "conditioning=cross_attention"])
    with torch.device("meta"):
        network = instantiate(spec.model.module.arguments["generator"])(**inputs)
    return sum(p.numel() for p in network.parameters())


def test_the_whole_has_the_published_size():
    """Kang et al. 2023: 1.0 billion parameters; none are published for the parts."""
    generator = counted("giga_gan", 64, {"resolution": 64, "text_width": 768})
    upsampler = counted(
        "giga_upsampler", 512, {"upscale": 8, "text_width": 768}, "base=x", "model.module.upscale=8"
    )
    assert (generator, upsampler) == (730_520_159, 321_156_900)
    assert (generator + upsampler) / 1e9 == pytest.approx(1.0, abs=0.06)


def test_normalised_embeddings_are_compared():
    vectors = make_clip().embed_texts(CAPTIONS)
    torch.testing.assert_close(vectors, normalize(vectors, dim=1))


def test_a_lazy_penalty_is_charged_where_it_is_taken(shared_cache, tmp_path):
    case = Case("gan/giga_gan", None, shared_cache, "model.module.r1_interval=3")
    run, _, fitted = case.train(tmp_path / "whole", 4 * BATCH)
    plain, penalised = (sum(fitted.clock.flops_by_kind[kind].values()) for kind in ("", PENALISED))
    assert penalised > 1.2 * plain
    assert fitted.clock.flops == pytest.approx(BATCH * (3 * plain + penalised))
    by_part = fitted.clock.flops_by_part
    assert sum(by_part.values()) == pytest.approx(fitted.clock.flops_per_image)
    case.train(tmp_path / "cut", 4 * BATCH, interrupt_at=3)
    _, _, resumed = case.train(tmp_path / "cut", 4 * BATCH)
    assert resumed.clock.flops == fitted.clock.flops
    without = Case("gan/giga_gan", None, shared_cache, "model.module.r1_gamma=0")
    _, _, unpenalised = without.train(tmp_path / "without", 2 * BATCH)
    assert unpenalised.clock.flops_per_image == plain
