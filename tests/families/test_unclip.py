"""unCLIP: its frozen CLIP, its two priors, its decoder and its edits."""

import functools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import normalize

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.autoencoders.kl import KLAutoencoder
from t2ibench.core.edits import ImageInterpolation, Variation, slerp
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import Knob, front_knob
from t2ibench.core.noise import SeededNoise
from t2ibench.core.pixels import from_pixels, to_pixels
from t2ibench.core.types import Batch, TextFeatures
from t2ibench.families.diffusion.fast_unet import FastUNet
from t2ibench.families.diffusion.unclip import UnCLIP
from t2ibench.families.diffusion.unclip_prior import CausalTransformer, DiffusionPrior, closest
from t2ibench.families.diffusion.unclip_prior_ar import AutoregressivePrior
from t2ibench.families.frozen_clip import FrozenClip
from t2ibench.metrics.dual_encoder import DualEncoder, Vocabulary
from t2ibench.text.word import WordTransformer

CAPTIONS = ["a red ring", "a small blue star", "", "a large green cross on white"]
WIDTH, TEXT = 12, 16
TIMESTEPS = 1000


class CosineProcess(nn.Module):
    """abar = cos^2(pi t / 2), x_0 prediction, unweighted, DDIM: closed forms to compare with."""

    def knobs(self):
        return (Knob("num_steps", 4, 1, TIMESTEPS, integer=True),)

    def bar(self, t):
        return torch.cos(math.pi / 2 * (t + 0.5) / TIMESTEPS).square()

    def training_loss(self, predict, x0):
        t = torch.randint(0, TIMESTEPS, (len(x0),)).float()
        bar = self.bar(t).view(-1, *[1] * (x0.ndim - 1))
        x = bar.sqrt() * x0 + (1 - bar).sqrt() * torch.randn_like(x0)
        return (predict(x, t) - x0).square().mean()

    def sample(self, predict, x, noise, *, num_steps, eta=0.0):
        times = torch.linspace(TIMESTEPS - 1, 0, num_steps + 1).floor()[:-1]
        bars = [self.bar(t) for t in times] + [torch.ones(())]
        for t, bar, after in zip(times, bars, bars[1:], strict=False):
            x0 = predict(x, t.expand(len(x)))
            eps = (x - bar.sqrt() * x0) / (1 - bar).sqrt()
            x = after.sqrt() * x0 + (1 - after).sqrt() * eps
        return x


PRIORS = ("diffusion", "autoregressive")
CONDITIONINGS = ("concat", "modulation", "cross_attention")


def make_clip(measured=True):
    torch.manual_seed(3)
    config = {
        "image_size": 16,
        "embed_dim": WIDTH,
        "vision": {"width": 8, "layers": [1, 1, 1], "heads": 4},
        "text": {"width": 16, "layers": 1, "heads": 2, "context_length": 8},
    }
    clip = FrozenClip(DualEncoder("toy", config, Vocabulary.of(CAPTIONS, 8)))
    if measured:
        images = from_pixels(torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8))
        clip.measure(clip.embed_images(images), clip.embed_texts(CAPTIONS * 16))
    return clip


def make_prior(kind="diffusion", **changes):
    common = {"width": 16, "depth": 2, "heads": 2, "guidance_scale": 2.0}
    if kind == "diffusion":
        own = {"candidates": 2, "process": CosineProcess()}
        return functools.partial(DiffusionPrior, **(common | own | changes))
    own = {"dimensions": 6, "buckets": 8, "reach": 3.0, "dot_buckets": 4, "temperature": 0.8}
    return functools.partial(AutoregressivePrior, **(common | own | changes))


def make_module(prior="diffusion", conditioning="cross_attention", pixels=False, **changes):
    clip = make_clip()
    torch.manual_seed(0)
    autoencoder = KLAutoencoder(latent_channels=4, channels=[16, 16], blocks=1, stem_factor=2)
    words = sorted({word for caption in CAPTIONS for word in caption.split()})
    settings = {
        "text_encoder": WordTransformer(
            vocabulary=words, width=TEXT, depth=1, heads=2, max_length=8
        ),
        "clip": clip,
        "first_stage": None if pixels else FrozenFirstStage(autoencoder),
        "prior": make_prior(prior),
        "network": functools.partial(
            FastUNet,
            channels=16,
            channel_multipliers=[1, 2],
            blocks_per_level=1,
            attention_levels=[1],
            conditioning=conditioning,
            heads=2,
            groups=4,
        ),
        "process": CosineProcess(),
        "optimizer": functools.partial(torch.optim.AdamW, lr=3e-3),
        "resolution": 16,
        "null_text_probability": 0.25,
        "decoder_null_text_probability": 0.5,
        "null_embedding_probability": 0.25,
        "gradient_clip_norm": 1.0,
        "guidance_scale": 2.0,
    }
    module = UnCLIP(**(settings | changes))
    optimizer = module.configure_optimizers()
    module.optimizers = lambda: optimizer
    module.manual_backward = lambda loss: loss.backward()
    return module


def make_batch(seed=0):
    stream = torch.Generator().manual_seed(seed)
    return Batch(torch.rand(4, 3, 16, 16, generator=stream) * 2 - 1, CAPTIONS, torch.arange(4))


def train(module, steps=4):
    torch.manual_seed(1)
    return [module.training_step(make_batch(i), i) for i in range(steps)]


def random_text(rows=3, length=5, seed=0):
    stream = torch.Generator().manual_seed(seed)
    mask = torch.arange(length) < torch.tensor([[length], [2], [1]])[:rows]
    return TextFeatures(
        torch.randn(rows, length, TEXT, generator=stream),
        mask,
        torch.randn(rows, TEXT, generator=stream),
        normalize(torch.randn(rows, WIDTH, generator=stream), dim=1),
    )


# ---- the frozen CLIP ----


def test_clip_gives_unit_vectors_and_keeps_its_weights_out_of_the_state_dict():
    clip = make_clip()
    image = clip.embed_images(make_batch().image)
    text = clip.embed_texts(CAPTIONS)
    for found in (image, text):
        torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
        assert not found.is_inference() and not found.requires_grad
    assert list(clip.parameters()) == []
    assert set(clip.state_dict()) == {"mean", "std", "axes", "spread", "dot_quantiles"}
    assert clip.fingerprint == clip.towers.fingerprint
    # Images are seen as the evaluator would see them: as pixels.
    rounded = from_pixels(to_pixels(make_batch().image))
    assert torch.equal(clip.embed_images(rounded), image)


def test_statistics_give_unit_variance_and_ordered_principal_axes():
    clip = make_clip(measured=False)
    torch.manual_seed(0)
    mixed = torch.randn(500, WIDTH) @ torch.randn(WIDTH, WIDTH) + 3
    images, captions = normalize(mixed, dim=1), normalize(torch.randn(500, WIDTH), dim=1)
    clip.measure(images, captions)
    scaled = clip.scaled(images)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(WIDTH), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(WIDTH), atol=1e-4, rtol=0)
    torch.testing.assert_close(clip.unscaled(scaled), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.axes @ clip.axes.T, torch.eye(WIDTH), atol=1e-5, rtol=0)
    coordinates = scaled @ clip.axes.T
    covariance = coordinates.T @ coordinates / 500
    torch.testing.assert_close(covariance, clip.spread.square().diag(), atol=1e-3, rtol=0)
    assert (clip.spread.diff() <= 0).all() and clip.spread.square().sum() == pytest.approx(WIDTH)
    dots = (images * captions).sum(1)
    below = (dots[:, None] <= clip.dot_quantiles[[25, 50, 75]]).float().mean(0)
    torch.testing.assert_close(below, torch.tensor([0.25, 0.5, 0.75]), atol=0.01, rtol=0)


@given(st.floats(0, 1), st.integers(0, 1000))
def test_slerp_stays_on_the_sphere_and_turns_evenly(amount, seed):
    stream = torch.Generator().manual_seed(seed)
    first, second = normalize(torch.randn(2, 3, 8, generator=stream), dim=2)
    between = slerp(first, second, amount)
    torch.testing.assert_close(between.norm(dim=1), torch.ones(3))
    angle = torch.arccos((first * second).sum(1).clamp(-1, 1))
    turned = torch.arccos((first * between).sum(1).clamp(-1, 1))
    torch.testing.assert_close(turned, amount * angle, atol=2e-3, rtol=0)
    torch.testing.assert_close(slerp(first, first, amount), first, atol=1e-4, rtol=0)


# ---- the transformer under both priors ----


def test_a_position_sees_itself_and_real_ones_before_it_alone():
    torch.manual_seed(0)
    network = CausalTransformer(16, 2, 2)
    x = torch.randn(1, 6, 16)
    plain, _ = network(x)
    for changed in range(6):
        other = x.clone()
        other[:, changed] = torch.randn(16)
        moved = (network(other)[0] - plain).abs().amax((0, 2)) > 1e-5
        assert moved.tolist() == [place >= changed for place in range(6)]
    mask = torch.tensor([[True, False, True, True, True, True]])
    hidden, _ = network(x, mask)
    other = x.clone()
    other[:, 1] = torch.randn(16)
    moved = (network(other, mask)[0] - hidden).abs().amax((0, 2)) > 1e-5
    assert moved.tolist() == [False, True, False, False, False, False]


def test_reading_in_pieces_is_reading_at_once():
    torch.manual_seed(0)
    network = CausalTransformer(16, 3, 4)
    x, mask = torch.randn(2, 7, 16), torch.ones(2, 7, dtype=torch.bool)
    mask[1, 2:4] = False
    whole, _ = network(x, mask)
    first, past = network(x[:, :4], mask[:, :4])
    second, past = network(x[:, 4:5], mask[:, 4:5], past)
    third, past = network(x[:, 5:], None, past)
    torch.testing.assert_close(torch.cat([first, second, third], 1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(past.last, whole[:, -1], atol=1e-5, rtol=1e-5)


def test_padding_of_a_caption_changes_no_prediction():
    prior = make_prior()(embedding_width=WIDTH, text_width=TEXT)
    text, x, t = random_text(), torch.randn(3, WIDTH), torch.tensor([0.0, 400.0, 999.0])
    noisy = text.tokens + torch.randn_like(text.tokens) * (~text.mask).unsqueeze(-1)
    other = replace(text, tokens=noisy)
    torch.testing.assert_close(prior(x, t, prior.read(text)), prior(x, t, prior.read(other)))
    reworded = replace(text, tokens=text.tokens.flip(2))
    assert not torch.allclose(prior(x, t, prior.read(text)), prior(x, t, prior.read(reworded)))


# ---- the diffusion prior ----


def test_the_candidate_closest_to_the_caption_is_taken():
    caption = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    candidates = torch.tensor([[[0.2, 9.0], [0.9, -1.0]], [[5.0, 0.3], [7.0, -0.4]]])
    assert closest(candidates, caption).tolist() == [
        candidates[0, 1].tolist(),
        [5.0, candidates[1, 0, 1]],
    ]


def test_more_candidates_come_closer_and_begin_with_the_same():
    clip, text = make_clip(), random_text()
    null = replace(random_text(seed=1), embedding=torch.zeros(3, WIDTH))
    knobs = {"prior_guidance_scale": 2.0, "prior_num_steps": 3}
    dots = []
    for candidates in (1, 8):
        torch.manual_seed(0)
        prior = make_prior(candidates=candidates)(embedding_width=WIDTH, text_width=TEXT).eval()
        found = prior.sample(clip, text, null, SeededNoise([1, 2, 3]), knobs)
        alone = prior.sample(clip, text[1:2], null[1:2], SeededNoise([2]), knobs)
        torch.testing.assert_close(alone[0], found[1], atol=1e-4, rtol=1e-4)
        dots.append((found * text.embedding).sum(1))
    assert (dots[1] >= dots[0] - 1e-6).all() and (dots[1] > dots[0]).any()
    with pytest.raises(ConfigError, match="candidates=0"):
        make_prior(candidates=0)(embedding_width=WIDTH, text_width=TEXT)


def test_the_prior_recovers_a_gaussian_conditional():
    """z given the caption is N(m_c, s^2 I): the prior learns the caption's mean, and s."""
    torch.manual_seed(0)
    spread, means = 0.8, torch.tensor([[1.5, -1.0, 0.0], [-1.5, 1.0, 0.5]])
    width = means.shape[1]
    prior = make_prior(candidates=1, width=32)(embedding_width=width, text_width=TEXT)
    clip = FrozenClip(make_clip().towers)
    clip.width, clip.mean, clip.std = width, torch.zeros(width), torch.ones(width)
    codes = normalize(torch.randn(2, width), dim=1)

    def text(which):
        tokens = 4.0 * torch.eye(TEXT)[which].unsqueeze(1)
        real = torch.ones(len(which), 1, dtype=torch.bool)
        return TextFeatures(tokens, real, tokens[:, 0], codes[which])

    optimizer = torch.optim.AdamW(prior.parameters(), lr=4e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 400)
    losses = []
    for _ in range(400):
        which = torch.randint(0, 2, (64,))
        loss = prior.loss(clip, means[which] + spread * torch.randn(64, width), text(which))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(float(loss.detach()))
    # The mean over noise levels of s^2 sigma^2 / (s^2 alpha^2 + sigma^2), the least error.
    bar = CosineProcess().bar(torch.arange(TIMESTEPS))
    least = float((spread**2 * (1 - bar) / (spread**2 * bar + 1 - bar)).mean())
    assert sum(losses[-50:]) / 50 == pytest.approx(least, rel=0.15)
    which = torch.arange(2).repeat_interleave(300)
    knobs = {"prior_guidance_scale": 1.0, "prior_num_steps": 25}
    with torch.no_grad():
        drawn = prior.sample(clip, text(which), text(which), SeededNoise(range(600)), knobs)
    drawn = drawn.unflatten(0, (2, 300))
    torch.testing.assert_close(drawn.mean(1), means, atol=0.2, rtol=0)
    assert float(drawn.std(1).mean()) == pytest.approx(spread, rel=0.2)


# ---- the autoregressive prior ----


@given(st.integers(0, 1000), st.integers(1, WIDTH), st.sampled_from([2, 16, 64]))
def test_buckets_come_back_and_err_by_half_a_bucket_at_most(seed, dimensions, buckets):
    clip = make_clip()
    prior = make_prior("autoregressive", dimensions=dimensions, buckets=buckets)(
        embedding_width=WIDTH, text_width=TEXT
    )
    stream = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, buckets, (5, dimensions), generator=stream)
    assert torch.equal(prior.quantise(clip, prior.dequantise(clip, codes)), codes)
    inside = (torch.rand(5, dimensions, generator=stream) * 2 - 1) * prior.reach
    axes, spread = clip.axes[:dimensions], clip.spread[:dimensions]
    embeddings = clip.unscaled((inside * spread) @ axes)
    again = prior.dequantise(clip, prior.quantise(clip, embeddings))
    error = (clip.scaled(again) - clip.scaled(embeddings)) @ axes.T / spread
    assert error.abs().max() <= prior.reach / buckets * 1.001


def test_all_axes_and_many_buckets_lose_next_to_nothing():
    clip = make_clip()
    images = from_pixels(torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8))
    embeddings = clip.embed_images(images)
    errors = []
    for dimensions in (2, 6, WIDTH):
        prior = make_prior("autoregressive", dimensions=dimensions, buckets=512, reach=6.0)(
            embedding_width=WIDTH, text_width=TEXT
        )
        again = prior.dequantise(clip, prior.quantise(clip, embeddings))
        errors.append(float((again - embeddings).norm(dim=1).mean()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.01
    with pytest.raises(ConfigError, match="dimensions=13"):
        make_prior("autoregressive", dimensions=13)(embedding_width=WIDTH, text_width=TEXT)


def test_sampling_step_by_step_is_teacher_forcing():
    """Greedy codes are the most likely ones given themselves; so the cache holds the truth."""
    clip, text = make_clip(), random_text()
    torch.manual_seed(2)
    prior = make_prior("autoregressive")(embedding_width=WIDTH, text_width=TEXT).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(3)
        knobs = {"prior_guidance_scale": 1.0, "prior_temperature": 0.0}
        drawn = prior.sample(clip, text, text, SeededNoise([1, 2, 3]), knobs)
        codes = prior.quantise(clip, drawn)
        # The dot product's token, drawn from the upper half by the same noise.
        lower = prior.dot_buckets // 2
        dots = lower + (SeededNoise([1, 2, 3]).uniform() * (prior.dot_buckets - lower)).long()
        logits = prior(codes, prior.read(text, dots))
    assert torch.equal(logits.argmax(-1), codes)
    assert len(codes.unique(dim=0)) > 1


def test_dot_token_says_where_the_pair_lies_and_when_the_caption_is_dropped():
    clip = make_clip()
    prior = make_prior("autoregressive")(embedding_width=WIDTH, text_width=TEXT)
    text = random_text()
    wanted = clip.dot_quantiles[[10, 60, 90]]
    # Along z_t the dot product is the length.
    embeddings = text.embedding * wanted.unsqueeze(1)
    assert prior.dot_token(clip, embeddings, text).tolist() == [0, 2, 3]
    dropped = replace(text, embedding=text.embedding * 0)
    assert prior.dot_token(clip, embeddings, dropped).tolist() == [4, 4, 4]


def test_the_autoregressive_prior_learns_what_follows_from_the_caption():
    clip = make_clip()
    torch.manual_seed(0)
    prior = make_prior("autoregressive", width=32)(embedding_width=WIDTH, text_width=TEXT)
    text = random_text()
    codes = torch.randint(0, prior.buckets, (3, prior.dimensions))
    embeddings = prior.dequantise(clip, codes)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-2)
    for _ in range(60):
        loss = prior.loss(clip, embeddings, text)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 < math.log(prior.buckets)
    knobs = {"prior_guidance_scale": 1.0, "prior_temperature": 0.0}
    # The dot products of these made-up pairs are not in the upper half: read them as they are.
    dots = prior.dot_token(clip, embeddings, text)
    logits = prior(codes, prior.read(text, dots))
    assert torch.equal(logits.argmax(-1), codes) and knobs["prior_temperature"] == 0


# ---- the whole ----


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_an_image_belongs_to_its_prompt_and_seed(prior, conditioning):
    module = make_module(prior, conditioning)
    start = {n: p.detach().clone() for n, p in module.named_parameters()}
    logs = train(module)
    assert all(torch.isfinite(row["loss"]) and not row["loss"].requires_grad for row in logs)
    assert logs[0]["loss"] == logs[0]["prior_loss"] + logs[0]["decoder_loss"]
    same = {n for n, p in module.named_parameters() if torch.equal(p, start[n])}
    assert same == {n for n in start if n.startswith("first_stage.")}
    together = module.generate(CAPTIONS[:3], SeededNoise([4, 5, 6]))
    for i in range(3):
        alone = module.generate(CAPTIONS[i : i + 1], SeededNoise([4 + i]))
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=1e-4)
    same_noise = module.generate(CAPTIONS, SeededNoise([4, 4, 4, 4]))
    assert not torch.allclose(same_noise[0], same_noise[1], atol=1e-4), "the prompt is ignored"


def test_pixels_without_a_first_stage():
    module = make_module(pixels=True)
    assert not module.targets() and list(make_module().targets()) == ["latents"]
    train(module, 2)
    assert module.generate(CAPTIONS[:1], SeededNoise([0])).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_decoder_obeys_the_embedding(conditioning):
    module = make_module(conditioning=conditioning)
    train(module)
    knobs = {k.name: k.default for k in module.knobs}
    embeddings = module.clip.embed_images(make_batch().image)
    null = module.null_text(4)
    plain = module.decode(embeddings, null, SeededNoise([1, 2, 3, 4]), knobs)
    turned = module.decode(embeddings.roll(1, 0), null, SeededNoise([1, 2, 3, 4]), knobs)
    assert (plain - turned).abs().amax((1, 2, 3)).min() > 1e-4
    free = knobs | {"guidance_scale": 0.0}
    unguided = [
        module.decode(z, null, SeededNoise([1, 2, 3, 4]), free) for z in (embeddings, -embeddings)
    ]
    torch.testing.assert_close(*unguided)


def test_variations_and_interpolation():
    module = make_module()
    train(module)
    images = make_batch().image
    module.train()

    def edited(edit, seeds, knobs=None):
        return module.generate([""] * len(seeds), SeededNoise(seeds), knobs, edit=edit)

    found = edited(Variation(images), [1, 2, 3, 4])
    assert module.training and found.abs().max() <= 1 and found.shape == images.shape
    alone = edited(Variation(images[2:3]), [3])
    torch.testing.assert_close(alone[0], found[2], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(edited(Variation(images), [5, 6, 7, 8]), found, atol=1e-4)
    ends = [edited(ImageInterpolation(images, images.flip(0), a), [1, 2, 3, 4]) for a in (0.0, 1.0)]
    torch.testing.assert_close(ends[0], found, atol=1e-3, rtol=0)
    turned = edited(Variation(images.flip(0)), [1, 2, 3, 4])
    torch.testing.assert_close(ends[1], turned, atol=1e-3, rtol=0)
    with pytest.raises(ConfigError, match="outside"):
        ImageInterpolation(images, images, 1.5)
    with pytest.raises(ConfigError, match="not a knob"):
        edited(Variation(images), [1, 2, 3, 4], {"telepathy": 1.0})
    with pytest.raises(ConfigError, match="4 rows of image for 1 prompts"):
        edited(Variation(images), [1])


@pytest.mark.parametrize("prior", PRIORS)
def test_knobs(prior):
    module = make_module(prior)
    assert front_knob(module.knobs).name == "guidance_scale"
    own = {"diffusion": "prior_num_steps", "autoregressive": "prior_temperature"}[prior]
    assert {"guidance_scale", "num_steps", "prior_guidance_scale", own} <= {
        k.name for k in module.knobs
    }
    train(module)
    plain = module.generate(CAPTIONS[:2], SeededNoise([1, 2]))
    strong = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), {"prior_guidance_scale": 6.0})
    assert not torch.allclose(plain, strong, atol=1e-4)


def test_features_without_the_captions_embedding_are_refused():
    module = make_module()
    with pytest.raises(ConfigError, match="encode_captions"):
        module.generate(module.text_encoder.encode(CAPTIONS[:1]), SeededNoise([0]))
    features = module.encode_captions(CAPTIONS[:2])
    a = module.generate(features, SeededNoise([1, 2]))
    assert torch.equal(a, module.generate(CAPTIONS[:2], SeededNoise([1, 2])))


def test_size_of_the_published_priors():
    """The paper has 2048 x 24, "1B"; the counts are ours, its text transformer not in them."""
    with torch.device("meta"):
        common = {"width": 2048, "depth": 24, "heads": 32}
        diffusion = make_prior(**common)(embedding_width=1024, text_width=2048)
        autoregressive = make_prior(
            "autoregressive", **common, dimensions=319, buckets=1024, dot_buckets=8
        )(embedding_width=1024, text_width=2048)
    counts = [sum(p.numel() for p in net.parameters()) for net in (diffusion, autoregressive)]
    assert all(1.1e9 < count < 1.3e9 for count in counts), counts
