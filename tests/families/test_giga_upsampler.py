"""GigaGAN's upsampler: tiles equal the whole, memory is bounded, any run stands below it."""

from functools import partial

import pytest
import torch
from families.test_cascade import CAPTIONS, make_painter

from t2ibench.core.edits import Upscaling
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import front_knob
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import Batch
from t2ibench.families.frozen_base import BaseText
from t2ibench.families.gan.giga_discriminator import GigaDiscriminator, pyramid_of
from t2ibench.families.gan.giga_generator import enlarged as twice
from t2ibench.families.gan.giga_upsampler import GigaUpsampler, UpsamplingUNet

CONDITIONINGS = ("concat", "modulation", "cross_attention")
NETWORK = {
    "noise_width": 4,
    "style_width": 8,
    "mapping_depth": 1,
    "halvings": 1,
    "channel_base": 64,
    "channel_max": 8,
    "depth": 1,
    "candidates": 2,
    "heads": 2,
    "branch_width": 8,
    "branch_depth": 1,
}
JUDGE = {
    "channel_base": 128,
    "channel_max": 8,
    "attention_resolutions": [8],
    "heads": 2,
    "branch_width": 8,
    "branch_depth": 1,
}


def make_stage(
    upscale=4, conditioning="cross_attention", base=None, network=None, rate=1e-3, **changes
):
    base = base or make_painter(8)
    torch.manual_seed(0)
    settings = {
        "adversarial_loss": "non_saturating",
        "relativistic_gamma": 1.0,
        "matching_weight": 1.0,
        "r1_gamma": 0.1,
        "r1_interval": 2,
        "reconstruction_weight": 10.0,
        "noise_augmentation": 0.1,
        "augment": [],
        "accumulation": 1,
        "truncation_psi": 1.0,
        "tile": 128,
    }
    module = GigaUpsampler(
        text_encoder=BaseText(base),
        base=base,
        generator=partial(UpsamplingUNet, conditioning=conditioning, **NETWORK | (network or {})),
        discriminator=partial(GigaDiscriminator, **JUDGE),
        generator_optimizer=partial(torch.optim.Adam, lr=rate, betas=(0.0, 0.99)),
        discriminator_optimizer=partial(torch.optim.Adam, lr=rate, betas=(0.0, 0.99)),
        resolution=base.resolution * upscale,
        upscale=upscale,
        null_text_probability=0.0,
        gradient_clip_norm=0.0,
        **(settings | changes),
    )
    players = module.configure_optimizers()
    module.optimizers = lambda: players
    module.manual_backward = lambda loss: loss.backward()
    return module


def make_batch(side=32):
    return Batch(torch.rand(4, 3, side, side) * 2 - 1, CAPTIONS, torch.arange(4))


def enlarged(module, low, seeds=(1,)):
    captions = CAPTIONS[: len(low)]
    return module.generate(
        captions, SeededNoise(seeds), {"truncation_psi": 0.8}, edit=Upscaling(low)
    )


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("upscale", [4, 8])
def test_tiles_equal_the_whole(upscale, conditioning):
    module = make_stage(upscale, conditioning, network={"halvings": 2, "depth": 2})
    low = torch.rand(2, 3, 50, 70) * 2 - 1  # sides that the halvings do not divide
    whole = enlarged(module, low, (1, 2))
    assert whole.shape == (2, 3, 50 * upscale, 70 * upscale)
    module.tile = 16
    torch.testing.assert_close(enlarged(module, low, (1, 2)), whole, atol=2e-5, rtol=0)
    assert whole.std() > 0.1


@pytest.mark.parametrize("halvings, depth, upscale", [(1, 1, 2), (2, 2, 4), (3, 1, 8)])
def test_the_halo_is_as_wide_as_pixels_reach(halvings, depth, upscale):
    """No output pixel of a cell depends on pixels farther away; some do on all but the last."""
    torch.manual_seed(0)
    sizes = NETWORK | {"halvings": halvings, "depth": depth}
    network = UpsamplingUNet(upscale=upscale, text_width=8, conditioning="modulation", **sizes)
    network.double()
    cell, halo = network.multiple, network.halo
    side = 2 * halo + 3 * cell
    low = torch.randn(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    style = torch.randn(1, sizes["style_width"], dtype=torch.float64)
    told = torch.randn(1, 8, dtype=torch.float64)
    contexts = [
        None if level.text is None else level.text.block.scale_shift(told).unsqueeze(1).chunk(2, -1)
        for level in network.up
    ]
    image = network.enlarge(low, style, contexts)[-1]
    first = halo + cell  # a cell in the middle
    rows = slice(upscale * first, upscale * (first + cell))
    (slope,) = torch.autograd.grad(image[..., rows, rows].square().sum(), low)
    touched = slope.abs().amax((0, 1, 2)).nonzero()[:, 0]
    reach = max(first - touched.min().item(), touched.max().item() - (first + cell - 1))
    assert halo - 2 * cell <= reach <= halo


def test_memory_does_not_grow_with_the_image():
    module, seen = make_stage(tile=16), []
    module.generator.first.register_forward_hook(lambda conv, given, out: seen.append(out.numel()))
    most = []
    for side in (64, 128):
        enlarged(module, torch.zeros(1, 3, side, side))
        most.append(max(seen))
        seen.clear()
    assert most[0] == most[1] == 8 * (16 + 2 * module.generator.halo) ** 2


def test_small_details_come_from_the_small_image():
    module = make_stage()
    low = torch.rand(1, 3, 8, 8) * 2 - 1
    assert (enlarged(module, low) - enlarged(module, -low)).abs().max() > 0.1
    assert module.base.module.asked == []


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("changes", [{}, {"adversarial_loss": "relativistic"}, {"accumulation": 2}])
def test_a_few_steps_change_every_parameter_and_none_of_the_base(conditioning, changes):
    module = make_stage(conditioning=conditioning, **changes)
    below = {n: t.clone() for n, t in module.base.module.state_dict().items()}
    start = {n: p.detach().clone() for n, p in module.named_parameters()}
    for step in range(3):
        module.images_seen = 4 * step
        logs = module.training_step(make_batch(), step)
        assert all(torch.isfinite(v) and not v.requires_grad for v in logs.values())
    still = {n for n, p in module.named_parameters() if torch.equal(p, start[n])}
    unseen = ".plain.bias" if module.game.adversary.relativistic else "none"
    assert not [name for name in still if not name.endswith(unseen)]
    assert all(torch.equal(below[n], t) for n, t in module.base.module.state_dict().items())
    assert {"generator_reconstruction", "discriminator_matching"} <= set(logs)
    assert not any(n.startswith("discriminator") for n in module.sampling_parameters())


def test_reconstruction_sharpens_what_bilinear_enlarging_blurs():
    module = make_stage(2, rate=0.02, reconstruction_weight=100.0, noise_augmentation=0.0)
    places = torch.arange(16)
    squares = (places[:, None] // 3 + places // 5) % 2 * 2.0 - 1
    batch = Batch(squares.expand(4, 3, 16, 16).contiguous(), CAPTIONS, torch.arange(4))
    blurred = (twice(pyramid_of(batch.image, 2)[0]) - batch.image).abs().mean().item()
    errors = [module.training_step(batch, i)["generator_reconstruction"].item() for i in range(20)]
    assert errors[-1] < 0.75 * blurred < errors[0]


def test_a_stage_stands_on_a_stage():
    second = make_stage(2)
    third = make_stage(2, base=second)
    assert front_knob(third.knobs).name == "base_base_truncation_psi"
    images = third.generate(CAPTIONS[:2], SeededNoise([1, 2]), {"base_base_truncation_psi": 0.4})
    assert images.shape == (2, 3, 32, 32)
    assert second.base.module.asked == [{"truncation_psi": 0.4}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"upscale": 3}, "is no power of two"),
        ({"tile": 3}, "tile=3 is no multiple of 2"),
        ({"base": make_painter(6)}, "data.resolution=24 is no power of two"),
    ],
)
def test_impossible_stages_are_one_sentence(changes, words):
    with pytest.raises(ConfigError, match=words):
        make_stage(**changes)
