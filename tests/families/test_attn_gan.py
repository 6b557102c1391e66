"""AttnGAN and DAMSM against the authors' code, closed forms, and what they refuse."""

import math

import pytest
import torch
from contract.models import Case
from golden import attn_gan as recipe
from torch import nn
from torch.nn.functional import avg_pool2d

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import TextFeatures
from t2ibench.engine.describe import describe
from t2ibench.families.damsm import (
    DAMSM,
    DAMSMFeatures,
    FrozenDAMSM,
    alike,
    attended,
    both_ways,
    sentence_loss,
    word_scores,
    words_loss,
)
from t2ibench.families.gan.attn_gan import AttnGAN
from t2ibench.families.gan.attn_gan_networks import (
    Discriminators,
    Generator,
    WordAttention,
    image_pyramid,
    pyramid_sides,
)
from t2ibench.families.gan.stack_gan_v2 import Generator as StackGANv2Generator
from t2ibench.families.gan.stage_losses import generator_loss_of_stages
from t2ibench.nn.gated import Augmented
from t2ibench.nn.regions import ConvRegions, InceptionRegions, Seen
from t2ibench.text.damsm import DAMSMText
from t2ibench.text.word import WordLSTM

CLOSE = {torch.float32: 1e-5, torch.float64: 1e-9}
"""Greatest difference from the authors' numbers, as a share of a tensor's norm. Gradients are
compared in float64 alone: in float32 rounding moves some by a hundredth, as these weights are
nearly of low rank and batch norm divides by what nearly cancels."""


@pytest.fixture(scope="module")
def theirs():
    return recipe.expected()


@pytest.fixture(params=CLOSE, ids=["float32", "float64"])
def dtype(request):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def assert_tensors(named, wanted):
    """Sketches agree, each number to a share of the tensor's norm and sum."""
    close = CLOSE[torch.get_default_dtype()]
    found = recipe.sketches(named)
    assert found.keys() == wanted.keys()
    for name, numbers in wanted.items():
        scale = max(1e-3, numbers[1], abs(numbers[0]))
        assert found[name] == pytest.approx(numbers, abs=close * scale), name


def near(number):
    return pytest.approx(number, rel=CLOSE[torch.get_default_dtype()])


def gradients(network):
    return {name: p.grad for name, p in network.named_parameters()}


class Pooled(nn.Module):
    """An image encoder without weights: the recipe of the parity's generator loss."""

    def __init__(self, width):
        super().__init__()

    def forward(self, images):
        small = avg_pool2d(images, 64)
        regions = torch.cat([small, small.flip(1), small[:, :2]], 1)
        return Seen(regions.flatten(2).transpose(1, 2), regions.mean((2, 3)))


def players():
    sizes = {"resolution": 256, "text_width": recipe.TEXT}
    generator = Generator(
        **sizes,
        conditioning="cross_attention",
        channels=recipe.CHANNELS,
        residual_blocks=2,
        noise_width=recipe.NOISE,
        condition_width=recipe.CONDITION,
    )
    discriminators = Discriminators(**sizes, channels=recipe.CHANNELS)
    return recipe.fill(generator), recipe.fill(discriminators)


def damsm(image=Pooled, width=recipe.TEXT, vocabulary=recipe.VOCABULARY):
    gamma1, gamma2, gamma3 = recipe.GAMMAS
    return DAMSM(
        vocabulary=vocabulary,
        width=width,
        embedding_width=6,
        max_length=5,
        dropout=0.5,
        image=image,
        gamma1=gamma1,
        gamma2=gamma2,
        gamma3=gamma3,
    )


def family(generator, discriminators):
    """The module around given players; only its losses are used."""
    network = damsm()
    return AttnGAN(
        text_encoder=DAMSMFeatures(frozen := FrozenDAMSM(network)),
        damsm=frozen,
        generator=lambda **_: generator,
        discriminator=lambda **_: discriminators,
        generator_optimizer=torch.optim.Adam,
        discriminator_optimizer=torch.optim.Adam,
        resolution=256,
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


def test_generator_discriminators_and_losses_are_the_authors(theirs, dtype):
    generator, discriminators = players()
    module, text = family(generator, discriminators), recipe.text_features()
    drawn = generator(text, recipe.draws())
    named = {f"image{i}": image for i, image in enumerate(drawn.images)}
    maps = generator.attention_maps(text, recipe.draws())
    named |= {f"attention{i}": found for i, found in enumerate(maps)}
    named |= {"mean": drawn.augmented.mean, "log_variance": drawn.augmented.log_variance}
    assert_tensors(named, theirs["generator"])
    assert drawn.augmented.divergence.item() == near(theirs["divergence"])

    real = discriminators(recipe.real_images(), text.pooled, True)
    fake = discriminators([image.detach() for image in drawn.images], text.pooled)
    loss = module.discriminator_loss(real, fake)
    assert loss.item() == near(sum(theirs["discriminator_losses"]))
    if dtype == torch.float64:
        loss.backward()
        assert_tensors(gradients(discriminators), theirs["discriminator_gradients"])

    # Captions of one class are no negatives there; here those that are alike.
    names = [str(number) for number in recipe.CLASSES]
    matched = module.damsm.losses(drawn.images[-1], text, names)
    judged = discriminators(drawn.images, text.pooled)
    fooled = generator_loss_of_stages(module.adversary, judged, None)
    loss = fooled + 5 * (matched.words + matched.sentence) + drawn.augmented.divergence
    assert loss.item() == near(theirs["generator_loss"])
    if dtype == torch.float64:
        loss.backward()
        assert_tensors(gradients(generator), theirs["generator_gradients"])


@pytest.mark.parametrize("kind", ["plain", "classes"])
def test_both_damsm_losses_are_the_authors(theirs, kind, dtype):
    wanted = theirs[f"damsm_{kind}"]
    regions, whole = recipe.region_features(3)
    regions = regions.flatten(2).transpose(1, 2).clone().requires_grad_()
    text = recipe.text_features()
    given = [regions, whole.clone().requires_grad_()]
    given += [t.clone().requires_grad_() for t in (text.tokens, text.pooled)]
    same = alike([str(c) for c in recipe.CLASSES]) if kind == "classes" else None
    matched = damsm().losses(Seen(*given[:2]), TextFeatures(given[2], text.mask, given[3]), same)
    assert matched.words.item() == near(wanted["words"])
    assert matched.sentence.item() == near(wanted["sentence"])
    (matched.words + matched.sentence).backward()
    found = [t.grad for t in given]
    found[0] = found[0].transpose(1, 2).reshape(4, 8, 3, 3)
    names = ("regions", "whole", "words", "sentence")
    assert_tensors(dict(zip(names, found, strict=True)), wanted["gradients"])
    weights, _ = attended(regions, text.tokens, text.mask, recipe.GAMMAS[0])
    assert recipe.sketch(weights[0, 0]) == near(wanted["attention0"])


def test_both_encoders_are_the_authors(theirs, dtype):
    text = recipe.fill(damsm().text).eval()
    words = recipe.VOCABULARY
    found = text.encode([" ".join(words[i : i + n]) for i, n in enumerate(recipe.LENGTHS)])
    assert_tensors({"words": found.tokens, "sentence": found.pooled}, theirs["text"])
    (found.tokens.square().sum() + found.pooled.pow(3).sum()).backward()
    assert_tensors(gradients(text), theirs["text_gradients"])
    image = recipe.fill(InceptionRegions(width=recipe.TEXT)).eval()
    pixels = recipe.wave((1, 3, 64, 64), 23).requires_grad_()
    seen = image(pixels)
    named = {"regions": seen.regions, "whole": seen.whole}
    if dtype == torch.float64:
        (seen.regions.sum() + seen.whole.sum()).backward()
        named["gradient"] = pixels.grad
    assert_tensors(named, {name: theirs["image"][name] for name in named})
    assert {n.split(".")[0] for n, p in image.named_parameters() if p.requires_grad} == {
        "region", "image",
    }  # fmt: skip


# ---- counts ----

COUNTS = {
    "paper": (7_084_592, 6_313_730, 19_424_002, 71_858_946),
    "paper_coco": (13_811_456, 13_304_450, 42_800_258, 160_774_274),
}


@pytest.mark.parametrize("size", COUNTS)
def test_parameters_are_as_published(size, shared_cache):
    case = Case("gan/attn_gan", None, shared_cache, f"size={size}", "data.resolution=256")
    found = describe(case.context())["parameters"]
    names = ("generator", *(f"discriminator_{side}" for side in (64, 128, 256)))
    assert tuple(found[name] for name in names) == COUNTS[size]


def test_parameters_of_stack_gan_v2_are_as_published():
    sizes = {"resolution": 256}
    with torch.device("meta"):
        generator = StackGANv2Generator(
            **sizes,
            text_width=1024,
            conditioning="concat",
            channels=64,
            residual_blocks=2,
            noise_width=100,
            condition_width=128,
        )
        judges = Discriminators(**sizes, text_width=128, channels=64).of_side.values()
    counts = [sum(p.numel() for p in n.parameters()) for n in (generator, *judges)]
    assert counts == [21_239_696, 5_723_906, 18_834_178, 71_269_122]


def test_judged_maps_are_as_wide_as_the_halvings_make_them_up_to_eight_times():
    for resolution, times in ((32, (1, 2, 4)), (64, (2, 4, 8)), (256, (8, 8, 8))):
        judges = Discriminators(resolution=resolution, text_width=5, channels=3).of_side.values()
        assert tuple(judge.alone.in_channels / 3 for judge in judges) == times


def test_text_encoder_of_birds_has_as_many_parameters_as_published():
    with torch.device("meta"):
        text = DAMSMText(
            vocabulary=[str(i) for i in range(5449)],  # 5,450 with the end
            width=256, embedding_width=300, max_length=18, dropout=0.5,
        )  # fmt: skip
    assert sum(p.numel() for p in text.parameters()) == 2_075_320


# ---- closed forms ----


def test_divergence_is_that_of_two_normal_distributions():
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    ours = Augmented(mean, mean, log_variance).divergence
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    wanted = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(ours, wanted.mean())


def test_scores_of_words_that_are_regions():
    """A word equal to one region of an orthonormal set, and none else: R = gamma2 cos + log L."""
    regions = torch.eye(4)[None] * 50
    words = torch.eye(4)[None, :2] * 50
    mask = torch.ones(1, 2, dtype=torch.bool)
    # Over words, region 0 is all word 0's; over regions, exp(4) to 3 exp(...) of the others.
    weights, context = attended(regions, words, mask, 4.0)
    near, far, half = math.exp(4), math.exp(0), math.exp(2)  # own, the other word's, nobody's
    wanted = torch.tensor([near, far, half, half]) / (near + far + 2 * half)
    torch.testing.assert_close(weights[0, 0, 0], wanted)
    cosine = wanted[0] / wanted.norm()
    score = word_scores(regions, words, mask, 4.0, 5.0)
    torch.testing.assert_close(score, (5 * cosine + math.log(2)).reshape(1, 1))
    torch.testing.assert_close(context[0, 0, 0], 50 * wanted)


def test_losses_are_those_of_chance_without_a_difference_and_fall_to_zero_with_one():
    same = torch.ones(6, 8)
    torch.testing.assert_close(sentence_loss(same, same, 10.0), torch.tensor(2 * math.log(6)))
    apart = torch.eye(6)
    assert float(sentence_loss(apart, apart, 100.0)) < 1e-6
    assert float(both_ways(apart * 100)) < 1e-6
    # Pairs that are alike are left out: chance of two in place of three.
    alone = both_ways(torch.zeros(3, 3), alike(["a", "a", "b"]))
    torch.testing.assert_close(alone, torch.tensor(2 * (2 * math.log(2) + math.log(3)) / 3))
    assert alike(["a", "b"]) is None


def test_padding_changes_no_loss():
    torch.manual_seed(0)
    regions, text = torch.randn(4, 9, 8), recipe.text_features()
    longer = text.padded(9)
    for words in (words_loss,):
        one, other = (words(regions, t.tokens, t.mask, *recipe.GAMMAS) for t in (text, longer))
        torch.testing.assert_close(one, other)


def test_word_attention_is_a_convex_combination_of_the_caption_s_words():
    torch.manual_seed(0)
    attention, text = WordAttention(6, recipe.TEXT), recipe.text_features()
    x = torch.randn(recipe.BATCH, 6, 3, 3)
    weights = attention.maps(x, text)
    torch.testing.assert_close(weights.sum(1), torch.ones(recipe.BATCH, 3, 3))
    assert (weights.masked_select(~text.mask[:, :, None, None]) == 0).all()
    context = torch.einsum("blhw,blc->bchw", weights, attention.words(text.tokens))
    torch.testing.assert_close(attention(x, text), context)
    # Not scaled: the scores are scalar products.
    scores = torch.einsum("bchw,blc->blhw", x, attention.words(text.tokens))
    wanted = scores[0].softmax(0)
    torch.testing.assert_close(weights[0], wanted)


def test_smaller_real_images_are_means_of_pixels():
    images = torch.arange(2 * 3 * 8 * 8.0).reshape(2, 3, 8, 8)
    small, middle, whole = image_pyramid(images, 3)
    assert torch.equal(whole, images)
    torch.testing.assert_close(middle[0, 0, 0, 0], images[0, 0, :2, :2].mean())
    torch.testing.assert_close(small[1, 2, 1, 1], images[1, 2, 4:, 4:].mean())


# ---- text ----


def test_long_captions_keep_their_first_words_or_random_ones_in_order():
    import numpy as np

    text = damsm().text
    caption = " ".join(recipe.VOCABULARY[:9])
    assert text.ids([caption])[0].tolist() == [[1, 2, 3, 4, 5]]
    drawn = text.ids([caption] * 50, np.random.default_rng(0))[0]
    assert (drawn.diff(dim=1) > 0).all() and len(drawn.unique(dim=0)) > 10
    ids, mask = text.ids(["", "unheard word3"])
    assert ids.tolist() == [[0], [4]] and mask.all()
    report = text.token_report([caption, "unheard word3", ""])
    assert report.truncated == (0,) and report.unread == (2,)
    assert report.unknown_words == ("unheard",)


def test_features_of_a_caption_do_not_depend_on_the_batch():
    text = damsm().text.eval()
    together = text.encode(["word1 word2 word3", "word4"])
    alone = text.encode(["word4"])
    torch.testing.assert_close(together.pooled[1], alone.pooled[0])
    torch.testing.assert_close(together.tokens[1, :1], alone.tokens[0])
    assert (together.tokens[1, 1:] == 0).all()


# ---- the family ----


@pytest.fixture(scope="module")
def case(shared_cache):
    return Case("gan/attn_gan", None, shared_cache)


def stepped(module, batch):
    optimizers = module.configure_optimizers()
    module.optimizers = lambda: optimizers
    module.manual_backward = lambda loss: loss.backward()
    torch.manual_seed(0)
    return module.training_step(batch, 0)


def test_gradients_reach_the_generator_through_damsm_and_change_nothing_of_it(case):
    module = case.module()
    before = module.damsm.fingerprint
    batch = next(case.batches(module))
    logs = stepped(module, batch)
    assert module.damsm.fingerprint == before
    assert {"generator_words", "generator_sentence", "generator_divergence"} <= logs.keys()
    drawn = module.generator(module.encode_text(batch), torch.randn(len(batch), 200))
    matched = module.damsm_losses(drawn.images[-1], batch.caption, module.encode_text(batch))
    (matched.words + matched.sentence).backward()
    last = module.generator.colours[-1].weight.grad
    assert last is not None and last.abs().sum() > 0


def test_accumulated_parts_without_batch_norm_are_the_whole_batch(shared_cache):
    """With batch norm frozen and DAMSM left out, parts sum to the batch but for the pairs."""
    words = ("model.module.damsm_weight=0", "model.module.discriminator_optimizer.lr=0")
    norms = {}
    for parts in (1, 2):
        case = Case(
            "gan/attn_gan", None, shared_cache, *words, f"model.module.accumulation={parts}"
        )
        module = case.module()
        for layer in module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
        norms[parts] = stepped(module, next(case.batches(module)))
    # The mean of the parts' losses is the batch's.
    for name in ("generator_adversarial", "generator_divergence"):
        torch.testing.assert_close(norms[1][name], norms[2][name])


def test_relativistic_loss_is_zero_difference_at_chance(shared_cache):
    words = ("model.module.adversarial_loss=relativistic", "model.module.relativistic_gamma=1.0")
    case = Case("gan/attn_gan", None, shared_cache, *words)
    module = case.module()
    logs = stepped(module, next(case.batches(module)))
    assert logs["discriminator_penalty"] > 0
    assert all(torch.isfinite(value) for value in logs.values())


def test_another_text_encoder_is_trained_along_and_damsm_reads_its_own(shared_cache):
    case = Case("gan/attn_gan", None, shared_cache, "text=word_transformer")
    module, batch = case.module(), None
    batch = next(case.batches(module))
    before = [p.detach().clone() for p in module.text_encoder.parameters()]
    stepped(module, batch)
    moved = [
        not torch.equal(a, b) for a, b in zip(before, module.text_encoder.parameters(), strict=True)
    ]
    assert any(moved)
    assert not module.damsm.is_text_of(module.text_encoder)
    assert "text_encoder" in module.parts()


def test_guarded_parts_name_damsm(case):
    assert {"damsm.network", "text_encoder.text"} <= set(case.module().guarded_parts())


def test_attention_maps_are_of_the_sampled_image(case):
    module = case.module().eval()
    text = module.encode_captions(["a red ring", "a large blue moon"])
    maps = module.attention_maps(text, SeededNoise([1, 2]), {"truncation_psi": 1.0})
    assert [m.shape[2:] for m in maps] == [(4, 4), (8, 8)]
    alone = module.attention_maps(text[1:], SeededNoise([2]), {"truncation_psi": 1.0})
    torch.testing.assert_close(alone[1][0], maps[1][1])
    assert (maps[1][0, 3:] == 0).all()  # the first caption has three words


@pytest.mark.parametrize("side", [8, 24, 48, 100])
def test_sides_that_the_pyramid_cannot_make_are_refused(side):
    with pytest.raises(ConfigError, match="power of two of at least 16"):
        pyramid_sides(side)


class Sentence(WordLSTM):
    """A text encoder that only pools."""

    word_tokens = False

    def contextualise(self, ids, mask, lengths):
        found = super().contextualise(ids, mask, lengths)
        return TextFeatures(found.pooled[:, None], mask[:, :1], found.pooled)


def test_an_encoder_without_words_is_refused_where_words_are_read(case, shared_cache):
    words = ("text=word_lstm", "text.encoder.width=8")
    read, concat = (
        Case("gan/attn_gan", kind, shared_cache, *words) for kind in ("cross_attention", "concat")
    )
    for made in (read, concat):
        made.spec.text.encoder.__dict__["cls"] = Sentence
    with pytest.raises(ConfigError, match="one vector a caption and none a word"):
        read.spec.parts["damsm"].check(read.context())
    with pytest.raises(ConfigError, match="Sentence gives one vector a caption"):
        read.module()
    concat.spec.parts["damsm"].check(concat.context())
    image = concat.module().generate(["a red ring"], SeededNoise([0]))
    assert image.shape == (1, 3, 16, 16)


def test_missing_inception_weights_are_told_before_any_work(shared_cache):
    case = Case("gan/attn_gan", None, shared_cache, "parts.damsm.path=weights.pth")
    with pytest.raises(ConfigError, match="damsm=conv begins with random weights"):
        case.spec.parts["damsm"].check(case.context())


def test_a_grid_that_the_image_encoder_cannot_make_is_refused():
    with pytest.raises(ConfigError, match="image_size=24 must be a power of two"):
        ConvRegions(width=8, image_size=24, channels=8, grid=16, groups=4)
    seen = ConvRegions(width=8, image_size=32, channels=8, grid=8, groups=4)(
        torch.zeros(2, 3, 16, 16)
    )
    assert seen.regions.shape == (2, 64, 8) and seen.whole.shape == (2, 8)
