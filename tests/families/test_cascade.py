"""Super-resolution stages: their networks, their training, and chains of them."""

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from t2ibench.cli.compose import compose_spec
from t2ibench.core.edits import Upscaling
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import Knob, front_knob
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import Batch, TextFeatures
from t2ibench.engine.build import instantiate
from t2ibench.families.contract import TextToImageModule
from t2ibench.families.diffusion.imagen import EfficientUNet
from t2ibench.families.diffusion.process import DiffusionProcess
from t2ibench.families.diffusion.sr3 import BigGANBlock, SR3UNet
from t2ibench.families.diffusion.super_resolution import (
    LEVEL_WIDTH,
    SuperResolution,
    augment,
    shrink,
)
from t2ibench.families.frozen_base import BaseText, FrozenBase
from t2ibench.samplers.schedules import cosine_schedule
from t2ibench.text.word import WordTransformer

CONDITIONINGS = ("concat", "modulation", "cross_attention")
CAPTIONS = ["a red ring", "a small blue star", "", "a large green cross on white"]
WORDS = sorted({word for caption in CAPTIONS for word in caption.split()})
TEXT, TIMESTEPS = 16, 1000
XS = {
    "channels": 16,
    "channel_multipliers": [1, 2],
    "blocks_per_level": [1, 2],
    "strides": [2, 2],
    "attention_levels": [1],
    "text_levels": [0, 1],
    "heads": 2,
    "groups": 4,
}
SR3_XS = {
    "channels": 16,
    "channel_multipliers": [1, 2],
    "blocks_per_level": 1,
    "attention_levels": [1],
    "heads": 2,
    "groups": 4,
}


def make_process(**changes):
    settings = {
        "schedule": "cosine",
        "timesteps": TIMESTEPS,
        "prediction_type": "x0",
        "snr_cap": 0.0,
        "timestep_location": 0.0,
        "timestep_spread": 0.0,
        "solver": "ddim",
        "spacing": "trailing",
        "num_steps": 3,
    }
    return DiffusionProcess(**(settings | changes))


class Painter(TextToImageModule):
    """A base of another family: each caption's own colour, shaded by noise; counts its calls."""

    family = "painter"

    def __init__(self, resolution=8):
        super().__init__(
            text_encoder=WordTransformer(
                vocabulary=WORDS, width=TEXT, depth=1, heads=2, max_length=8
            ),
            resolution=resolution,
            null_text_probability=0.0,
            gradient_clip_norm=0.0,
        )
        self.paint = nn.Linear(TEXT, 3)
        self.asked = []

    @property
    def knobs(self):
        return (Knob("truncation_psi", 0.1, 0.0, 1.0, True, (0.1, 0.5, 1.0)),)

    def training_step(self, batch, batch_idx):
        raise AssertionError("a frozen base takes no step")

    def configure_optimizers(self):
        raise AssertionError("a frozen base takes no step")

    def sample(self, text, noise, knobs):
        self.asked.append(dict(knobs))
        shade = knobs["truncation_psi"] * noise.normal(3, self.resolution, self.resolution)
        return self.paint(text.pooled)[:, :, None, None].tanh() + shade


def make_painter(resolution=8):
    torch.manual_seed(5)
    return Painter(resolution)


def make_stage(base=None, reads_text=True, conditioning="cross_attention", **changes):
    base = base or make_painter()
    torch.manual_seed(0)
    network = functools.partial(SR3UNet, **SR3_XS)
    if reads_text:
        network = functools.partial(EfficientUNet, conditioning=conditioning, **XS)
    settings = {
        "text_encoder": BaseText(base),
        "base": base,
        "network": network,
        "process": make_process(),
        "optimizer": functools.partial(torch.optim.AdamW, lr=3e-3),
        "resolution": 2 * base.resolution,
        "upscale": 2,
        "enlarging": "bicubic",
        "reads_text": reads_text,
        "time_input": "timestep" if reads_text else "noise_level",
        "max_augmentation": 1.0 if reads_text else 0.0,
        "augmentation": 0.1 if reads_text else 0.0,
        "null_text_probability": 0.25,
        "gradient_clip_norm": 1.0,
        "guidance_scale": 2.0,
    }
    module = SuperResolution(**(settings | changes))
    optimizer = module.configure_optimizers()
    module.optimizers = lambda: optimizer
    module.manual_backward = lambda loss: loss.backward()
    return module


def make_batch(side=16):
    return Batch(torch.rand(4, 3, side, side) * 2 - 1, CAPTIONS, torch.arange(4))


def train(module, steps=4):
    """Enough steps that every layer that starts at zero lets text and noise level through."""
    torch.manual_seed(1)
    return [module.training_step(make_batch(module.resolution), i) for i in range(steps)]


KINDS = [(True, kind) for kind in CONDITIONINGS] + [(False, None)]


@pytest.fixture(params=KINDS, ids=lambda k: f"imagen-{k[1]}" if k[0] else "sr3")
def module(request):
    reads_text, conditioning = request.param
    return make_stage(reads_text=reads_text, conditioning=conditioning)


# ---- the low-resolution image ----


def test_shrinking_is_the_mean_of_squares_of_pixels():
    x = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4)
    expected = torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).mean(0)
    torch.testing.assert_close(shrink(x, 2), expected)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2), st.integers(0, 100))
def test_augmentation_keeps_the_variance_and_ends_in_noise(levels, seed):
    stream = torch.Generator().manual_seed(seed)
    low, eps = (torch.randn(2, 3, 64, 64, generator=stream) for _ in range(2))
    noisy = augment(low, torch.tensor(levels), eps)
    assert noisy.var().item() == pytest.approx(1.0, abs=0.05)
    ends = augment(low, torch.tensor([0.0, 1.0]), eps)
    torch.testing.assert_close(ends, torch.stack([low[0], eps[1]]), atol=1e-6, rtol=0)


# ---- networks ----


def test_a_network_without_its_condition_sees_something_else():
    torch.manual_seed(0)
    text = TextFeatures(
        torch.randn(2, 5, TEXT), torch.ones(2, 5, dtype=torch.bool), torch.zeros(2, TEXT)
    )
    network = EfficientUNet(
        latent_channels=3, extra_channels=3, vector_width=LEVEL_WIDTH, text_width=TEXT,
        conditioning="cross_attention", **XS,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    x, t, vector = (
        torch.randn(2, 6, 16, 16),
        torch.tensor([10.0, 900.0]),
        torch.randn(2, LEVEL_WIDTH),
    )

    def out(x=x, t=t, text=text, vector=vector):
        return network(x, t, network.prepare(text), vector=vector)

    plain = out()
    assert plain.shape == (2, 3, 16, 16)
    low = torch.cat([x[:, :3], torch.randn(2, 3, 16, 16)], 1)
    words = TextFeatures(text.tokens.flip(2), text.mask, text.pooled)
    sentence = TextFeatures(text.tokens, text.mask, torch.randn(2, TEXT))
    others = [
        out(x=low),
        out(t=t.flip(0)),
        out(text=words),
        out(text=sentence),
        out(vector=-vector),
    ]
    assert all((other - plain).abs().max() > 1e-4 for other in others)


@pytest.mark.parametrize("size", [(16, 16), (8, 24), (13, 9)])
def test_the_efficient_unet_takes_any_size(size):
    network = EfficientUNet(latent_channels=3, text_width=TEXT, conditioning="concat", **XS)
    text = WordTransformer(vocabulary=WORDS, width=TEXT, depth=1, heads=2, max_length=8).null(1)
    x = torch.randn(1, 3, *size)
    assert network(x, torch.zeros(1), network.prepare(text)).shape == x.shape


def test_half_of_the_blocks_of_an_efficient_unet_stand_low():
    low_heavy = XS | {"channel_multipliers": [1, 1, 1], "blocks_per_level": [1, 2, 4]}
    low_heavy |= {"strides": [1, 2, 2], "text_levels": [2]}
    network = EfficientUNet(latent_channels=3, text_width=TEXT, conditioning="concat", **low_heavy)
    sides = []
    for level in (*network.down, *network.up):
        level[0].register_forward_hook(lambda block, args, out: sides.append(args[0].shape[-1]))
    text = WordTransformer(vocabulary=WORDS, width=TEXT, depth=1, heads=2, max_length=8).null(1)
    network(torch.randn(1, 3, 16, 16), torch.zeros(1), network.prepare(text))
    assert sides == [16, 8, 4, 4, 8, 16]
    assert [len(level) for level in network.down] == [1, 3, 5]
    assert len(network.prepare(text)) == 1 + 2 * 2


def test_levels_need_as_many_entries_everywhere():
    with pytest.raises(ConfigError, match="one entry a level"):
        EfficientUNet(
            latent_channels=3, text_width=TEXT, conditioning="concat", **XS | {"strides": [2]}
        )


@pytest.mark.parametrize("resample", ["same", "down", "up"])
def test_a_biggan_block_starts_as_its_rescaled_skip(resample):
    block = BigGANBlock(8, 8, 4, 2, resample)
    x = torch.randn(2, 8, 4, 4)
    skip = {
        "same": x,
        "down": nn.functional.avg_pool2d(x, 2),
        "up": x.repeat_interleave(2, 2).repeat_interleave(2, 3),
    }[resample]
    torch.testing.assert_close(block(x, torch.randn(2, 4)), skip / 2**0.5)


def test_sr3_says_which_sizes_it_takes():
    network = SR3UNet(latent_channels=3, extra_channels=3, **SR3_XS)
    with pytest.raises(ConfigError, match="multiples of 2"):
        network(torch.randn(1, 6, 7, 8), torch.zeros(1), [])


PUBLISHED = [
    # channels, multipliers, blocks, published millions: Saharia et al. 2021, table of appendix
    (128, [1, 2, 4, 8, 8], 3, 550),
    (128, [1, 2, 4, 4, 8, 8], 3, 625),
    (64, [1, 2, 4, 8, 8, 16, 16], 3, 625),
    (16, [1, 2, 4, 8, 16, 32, 32, 32], 2, 150),
]


@pytest.mark.parametrize(("channels", "multipliers", "blocks", "millions"), PUBLISHED)
def test_sr3_has_the_published_size(channels, multipliers, blocks, millions):
    with torch.device("meta"):
        network = SR3UNet(
            latent_channels=3,
            extra_channels=3,
            channels=channels,
            channel_multipliers=multipliers,
            blocks_per_level=blocks,
            attention_levels=[len(multipliers) - 1],
            heads=1,
            groups=16,
        )
    count = sum(p.numel() for p in network.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.03)


PAPER = [
    # model, side, what else is asked, our count; published: 2e9, 6e8, 4e8, 6.25e8
    ("imagen", 64, [], 1_689_736_195),
    ("imagen_sr", 256, [], 611_783_811),
    ("imagen_sr", 1024, ["model.module.network.attention_levels=[]"], 603_389_059),
    ("sr3", 256, [], 617_093_891),
]


@pytest.mark.parametrize(("model", "side", "extra", "count"), PAPER)
def test_paper_layouts_are_configured(model, side, extra, count):
    asked = [f"model=diffusion/{model}", "size=paper", f"data.resolution={side}"]
    spec = compose_spec([*asked, "conditioning=cross_attention", *extra])
    inputs = {"latent_channels": 3}
    if model != "sr3":
        inputs["text_width"] = 4096  # T5-XXL
    if model != "imagen":
        inputs["extra_channels"] = 3
    if model == "imagen_sr":
        inputs["vector_width"] = LEVEL_WIDTH
    with torch.device("meta"):
        network = instantiate(spec.model.module.arguments["network"])(**inputs)
    assert sum(p.numel() for p in network.parameters()) == count


# ---- a stage ----


def test_two_steps_change_every_parameter_and_none_of_the_base(module):
    base = module.base.module
    below = {n: t.clone() for n, t in base.state_dict().items()}
    start = {n: p.detach().clone() for n, p in module.named_parameters()}
    assert set(start) == {f"network.{n}" for n, _ in module.network.named_parameters()}
    module.train()
    logs = train(module)
    assert all(torch.isfinite(row["loss"]) and not row["loss"].requires_grad for row in logs)
    assert not [n for n, p in module.named_parameters() if torch.equal(p, start[n])]
    assert all(torch.equal(below[n], t) for n, t in base.state_dict().items())
    assert not base.training and not any(p.requires_grad for p in base.parameters())
    assert set(module.state_dict()) == set(start) == set(module.sampling_parameters())


def test_an_image_belongs_to_its_prompt_and_seed(module):
    train(module)
    together = module.generate(CAPTIONS[:3], SeededNoise([4, 5, 6]))
    assert together.shape == (3, 3, 16, 16)
    for i in range(3):
        alone = module.generate(CAPTIONS[i : i + 1], SeededNoise([4 + i]))
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=1e-4)
    same_noise = module.generate(CAPTIONS[:2], SeededNoise([4, 4]))
    assert not torch.allclose(same_noise[0], same_noise[1], atol=1e-4), "the prompt is ignored"
    assert torch.equal(together, module.generate(CAPTIONS[:3], SeededNoise([4, 5, 6])))


def test_knobs_of_the_base_are_offered_under_its_name(module):
    names = [knob.name for knob in module.knobs]
    assert "base_truncation_psi" in names and "num_steps" in names
    assert front_knob(module.knobs).name == "base_truncation_psi"
    assert ("guidance_scale" in names) == module.reads_text
    assert ("augmentation" in names) == (module.max_augmentation > 0)
    module.generate(CAPTIONS[:1], SeededNoise([1]), {"base_truncation_psi": 0.7})
    assert module.base.module.asked == [{"truncation_psi": 0.7}]
    with pytest.raises(ConfigError, match="not a knob"):
        module.generate(CAPTIONS[:1], SeededNoise([1]), {"truncation_psi": 0.7})


def upscaled(module, low, text, noise, knobs=None):
    return module.generate(text, noise, knobs, edit=Upscaling(low))


def test_upscaling_the_bases_image_is_sampling(module):
    train(module)
    text = module.encode_captions(CAPTIONS[:2])
    noise = SeededNoise([8, 9])
    low = module.base.generate(text, noise, {"base_truncation_psi": 0.1})
    again = module.generate(text, noise, edit=Upscaling(low))
    torch.testing.assert_close(again, module.generate(CAPTIONS[:2], SeededNoise([8, 9])))


def test_upscaling_follows_the_given_image_and_not_the_base(module):
    train(module)
    low = torch.rand(2, 3, 8, 8) * 2 - 1
    high = upscaled(module, low, CAPTIONS[:2], SeededNoise([1, 2]))
    assert high.shape == (2, 3, 16, 16) and high.abs().max() <= 1
    other = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=Upscaling(-low))
    assert not torch.allclose(other, high, atol=1e-3)
    assert module.base.module.asked == []
    wide = module.generate([""], SeededNoise([3]), edit=Upscaling(torch.zeros(1, 3, 6, 10)))
    assert wide.shape == (1, 3, 12, 20)
    with pytest.raises(ConfigError, match="as many of each"):
        module.generate(CAPTIONS[:2], SeededNoise([1, 2]), edit=Upscaling(torch.zeros(3, 3, 8, 8)))


def test_one_evaluation_a_step_whatever_the_guidance():
    module, rows = make_stage(), []
    module.network.register_forward_hook(lambda net, args, out: rows.append(len(args[0])))
    for scale, batch in ((1.0, 3), (3.0, 6)):
        knobs = {"guidance_scale": scale, "num_steps": 4}
        module.generate(CAPTIONS[:3], SeededNoise([1, 2, 3]), knobs)
        assert rows == [batch] * 4
        rows.clear()


def test_guidance_at_one_and_zero_are_the_two_branches():
    module = make_stage()
    train(module)
    low, noise = torch.rand(2, 3, 8, 8), [1, 2]
    free = upscaled(module, low, CAPTIONS[:2], SeededNoise(noise), {"guidance_scale": 0.0})
    bare = upscaled(
        module, low, module.text_encoder.null(2), SeededNoise(noise), {"guidance_scale": 1.0}
    )
    torch.testing.assert_close(free, bare, atol=1e-4, rtol=1e-4)
    told = upscaled(module, low, CAPTIONS[:2], SeededNoise(noise), {"guidance_scale": 1.0})
    assert not torch.allclose(told, bare, atol=1e-4)


def test_dynamic_thresholding_is_an_option_of_a_stage():
    module = make_stage(process=make_process(prediction_type="v"))
    train(module)
    strong = {"guidance_scale": 30.0}
    low = torch.rand(2, 3, 8, 8) * 2 - 1
    free, bound = (
        upscaled(module, low, CAPTIONS[:2], SeededNoise([1, 2]), strong | {"threshold": p})
        for p in (0.0, 0.9)
    )
    assert not torch.allclose(free, bound, atol=1e-3)


def test_the_network_is_told_how_noisy_the_low_resolution_image_is():
    module, told = make_stage(), []
    train(module)
    module.network.register_forward_hook(
        lambda net, args, kwargs, out: told.append(kwargs["vector"]), with_kwargs=True
    )
    low = torch.rand(1, 3, 8, 8)
    images = [
        upscaled(
            module, low, CAPTIONS[:1], SeededNoise([1]), {"augmentation": a, "guidance_scale": 1.0}
        )
        for a in (0.0, 0.5)
    ]
    assert not torch.allclose(*images, atol=1e-4)
    assert not torch.allclose(told[0], told[-1])
    train(module, 1)
    levels = told[-1]
    assert len(levels) == 4 and len({tuple(row.tolist()) for row in levels}) == 4


def test_sr3_is_told_the_noise_level_and_not_the_timestep():
    module, told = make_stage(reads_text=False), []
    module.network.register_forward_hook(lambda net, args, out: told.append(args[1]))
    upscaled(module, torch.rand(1, 3, 8, 8), [""], SeededNoise([1]), {"num_steps": 2})
    expected = 1000 * cosine_schedule(TIMESTEPS)[[999, 499]].sqrt().float()
    torch.testing.assert_close(torch.cat(told), expected, atol=1e-3, rtol=1e-4)
    half = module._told(torch.tensor([10.5]))
    ends = module._told(torch.tensor([10.0, 11.0]))
    torch.testing.assert_close(half, ends.mean(0, keepdim=True))


def test_a_third_stage_stands_on_the_second():
    second = make_stage()
    train(second)
    third = make_stage(base=second, reads_text=False)
    train(third)
    assert third.resolution == 32
    names = {knob.name for knob in third.knobs}
    assert {"base_base_truncation_psi", "base_num_steps", "base_guidance_scale"} <= names
    assert front_knob(third.knobs).name == "base_base_truncation_psi"
    knobs = {"base_num_steps": 2, "base_base_truncation_psi": 0.4}
    together = third.generate(CAPTIONS[:3], SeededNoise([4, 5, 6]), knobs)
    assert together.shape == (3, 3, 32, 32)
    assert second.base.module.asked[-1] == {"truncation_psi": 0.4}
    alone = third.generate(CAPTIONS[2:3], SeededNoise([6]), knobs)
    torch.testing.assert_close(alone[0], together[2], atol=1e-4, rtol=1e-4)
    assert third.parts()["base"] is second and second.parts()["base"] is second.base.module


def test_all_stages_share_one_frozen_text_encoder():
    base = make_painter()
    second = make_stage(base=base)
    third = make_stage(base=second)
    theirs = base.text_encoder.eval().encode(CAPTIONS)
    for stage in (second, third):
        stage.train()
        ours = stage.encode_captions(CAPTIONS)
        assert torch.equal(ours.tokens, theirs.tokens) and not ours.tokens.requires_grad
        assert not stage.text_encoder.trainable
        null = stage.text_encoder.null(2)
        assert torch.equal(null.pooled, base.text_encoder.null(2).pooled)
    kept = second.text_encoder.fingerprint
    assert kept == third.text_encoder.fingerprint
    with torch.no_grad():
        base.text_encoder.embedding.weight.add_(1.0)
    assert second.text_encoder.fingerprint != kept


def test_a_base_follows_its_stage_to_another_type():
    stage = make_stage().double()
    assert next(stage.base.module.parameters()).dtype == torch.float64
    assert isinstance(stage.base, FrozenBase) and not list(stage.base.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"upscale": 4}, "makes 32 px of the base's 8"),
        ({"enlarging": "lanczos"}, "choose bicubic, bilinear, nearest"),
        ({"time_input": "sigma"}, "choose timestep, noise_level"),
        ({"augmentation": 0.5, "max_augmentation": 0.2}, "augmentation <= max_augmentation"),
        ({"max_augmentation": 1.5}, "max_augmentation=1.5"),
    ],
)
def test_impossible_stages_are_one_sentence(changes, words):
    with pytest.raises(ConfigError, match=words):
        make_stage(**changes)
