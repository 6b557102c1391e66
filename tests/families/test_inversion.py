"""Edits of GANs by descent in their latents: closed forms, and the models that offer them."""

import pytest
import torch
from contract.models import FILES, Case, stirred

from t2ibench.core.edits import (
    ImageToImage,
    Inpainting,
    Interpolation,
    PromptMixing,
    Upscaling,
    extended,
)
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import resolve_knobs
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import TextFeatures
from t2ibench.engine.describe import descent_flops
from t2ibench.evaluation.flops import count_flops
from t2ibench.families.gan.inversion import (
    RATE,
    between,
    disagreement,
    edited,
    inverted,
    learning_rate,
)
from t2ibench.nn.batch_norm import BatchNorm

PROMPTS = ["a large red ring", "a small blue moon", "a pink cross"]
STEPS = {"inversion_steps": 4}
MANY = 30
"""Steps in which every model comes much nearer."""
MODELS = [model for model in FILES if model.startswith("gan/")]
ON_A_GAN = {"gan/giga_upsampler": ["parts.base.example=gan/fast_painter"]}
"""What puts a GAN below a stage; the others have one there, or are no stage."""


def text(count):
    return TextFeatures(
        torch.zeros(count, 1, 2), torch.ones(count, 1, dtype=torch.bool), torch.zeros(count, 2)
    )


def flat(_, latents):
    """A generator whose 8 x 8 image is its latent."""
    return latents[0].view(-1, 3, 8, 8)


def left(count, side=8):
    """A mask that paints the left half anew."""
    mask = torch.zeros(count, 1, side, side, dtype=torch.bool)
    mask[..., : side // 2] = True
    return mask


def awakened(module):
    """The module with layers off zero, and batch norm with the statistics of what passes it."""
    if hasattr(module, "base"):
        awakened(module.base.module)
    stirred(module)
    norms = [layer for layer in module.generator.modules() if isinstance(layer, BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        with torch.no_grad():
            text = module.encode_captions(PROMPTS * 3)
            module.sample(text, SeededNoise(range(9)), resolve_knobs(module.knobs))
    return module.eval()


@pytest.fixture(scope="module", params=MODELS)
def module(request, shared_cache):
    words = ["size=xs_narrow", *ON_A_GAN.get(request.param, [])]
    return awakened(Case(request.param, None, shared_cache, *words).module())


def sampled(module, rows=slice(None), edit=None, **knobs):
    prompts, seeds = PROMPTS[rows], [5, 6, 7][rows]
    return module.generate(prompts, SeededNoise(seeds), STEPS | knobs, edit=edit)


def goals(module, seed=9):
    """Images that the model itself can paint."""
    return module.generate(PROMPTS, SeededNoise([seed, seed + 1, seed + 2]))


def test_descent_finds_the_latent_of_an_image_on_its_sphere():
    torch.manual_seed(0)
    start, wanted = torch.randn(1, 192), torch.randn(1, 192)
    wanted = wanted * (start.norm() / wanted.norm())
    keep = torch.ones(1, 1, 8, 8)
    (found,) = inverted(flat, text(1), [start], wanted.view(1, 3, 8, 8), keep, 200)
    torch.testing.assert_close(found.norm(), start.norm())
    assert (found - wanted).norm() < 0.05 * (start - wanted).norm()
    (same,) = inverted(flat, text(1), [start], wanted.view(1, 3, 8, 8), keep, 0)
    assert torch.equal(same, start)


def test_what_is_painted_anew_has_no_say():
    torch.manual_seed(0)
    start, goal = torch.randn(1, 192), torch.rand(1, 3, 8, 8)
    keep = (~left(1)).float()
    other = torch.where(left(1), -goal, goal)
    a, b = (inverted(flat, text(1), [start], g, keep, 5)[0] for g in (goal, other))
    assert torch.equal(a, b)
    nothing = torch.zeros(1, 1, 8, 8)
    torch.testing.assert_close(inverted(flat, text(1), [start], goal, nothing, 5)[0], start)


def test_disagreement_in_closed_form():
    images, goal = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    assert disagreement(images, goal, torch.ones(1, 1, 8, 8)).item() == pytest.approx(2)  # 8, 4 px
    half = disagreement(images, torch.where(left(1), 5.0, goal), (~left(1)).float())
    assert half.item() == pytest.approx(2)
    # Opposite neighbours differ at full size alone.
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4).expand(1, 3, -1, -1)
    assert disagreement(images, checks, torch.ones(1, 1, 8, 8)).item() == pytest.approx(1)


def test_the_rate_rises_and_falls():
    rates = [learning_rate(step, 100) for step in range(100)]
    assert rates[50] == RATE == max(rates)
    assert rates[0] < RATE / 5 and rates[-1] < RATE / 100


def test_ends_of_an_interpolation():
    first, second = torch.randn(2, 4), torch.randn(2, 4)
    a, b = (
        text(2),
        TextFeatures(torch.ones(2, 3, 2), torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 2)),
    )
    for weight, latent, words in ((0.0, first, 0.0), (1.0, second, 1.0)):
        edit = Interpolation(b, SeededNoise([1, 2]), weight)
        told, (found,) = between(a, [first], [second], edit)
        torch.testing.assert_close(found, latent)
        assert told.pooled.eq(words).all()


def test_img2img_comes_nearer_with_less_strength(module):
    goal = goals(module)
    plain = sampled(module)
    torch.testing.assert_close(
        sampled(module, edit=ImageToImage(goal, 1.0)), plain, atol=1e-5, rtol=0
    )
    near, far = (
        (sampled(module, edit=ImageToImage(goal, s), inversion_steps=MANY) - goal).square().mean()
        for s in (0.0, 1.0)
    )
    assert near < 0.7 * far


def test_inpainting_keeps_what_is_kept_and_fits_the_rest(module):
    goal, mask = goals(module), left(3, module.resolution)
    edit = Inpainting(goal, mask)
    found, plain = sampled(module, edit=edit, inversion_steps=MANY), sampled(module)
    keep = (~mask).expand_as(goal)
    assert torch.equal(found[keep], goal[keep].clamp(-1, 1))
    assert not torch.allclose(found[~keep], goal[~keep], atol=1e-2)
    # Without the pasted pixels: what the generator paints there agrees better than before.
    unpasted = fitted(module, edit)
    torch.testing.assert_close(found[~keep], unpasted[~keep], atol=1e-4, rtol=0)
    near, far = (disagreement(images, goal, (~mask).float()) for images in (unpasted, plain))
    assert near < 0.7 * far


def fitted(module, edit):
    """What the generator paints for an inpainting, the kept region too."""
    text, noise = module.encode_captions(PROMPTS), SeededNoise([5, 6, 7])
    paint, start = module.invertible(noise, resolve_knobs(module.knobs))
    found, keep = [], (~edit.mask).float()
    with torch.no_grad():
        for i in range(3):
            one = slice(i, i + 1)
            own = [latent[one] for latent in start]
            latents = inverted(paint, text[one], own, edit.image[one], keep[one], MANY)
            found.append(paint(text[one], latents))
    return torch.cat(found).clamp(-1, 1)


def test_an_edit_is_a_function_of_its_own_sample(module):
    edit = Inpainting(goals(module), left(3, module.resolution))
    together = sampled(module, edit=edit)
    for i in range(3):
        alone = sampled(module, slice(i, i + 1), edit.rows(slice(i, i + 1)))
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=0)
    again = sampled(module, edit=edit)
    assert torch.equal(again, together)
    assert all(p.grad is None for p in module.parameters())


def test_interpolation_goes_from_one_image_to_the_other(module):
    other = module.encode_captions(PROMPTS[::-1])

    def at(weight):
        return sampled(module, edit=Interpolation(other, SeededNoise([20, 21, 22]), weight))

    ends = sampled(module), module.generate(PROMPTS[::-1], SeededNoise([20, 21, 22]))
    torch.testing.assert_close(at(0.0), ends[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(at(1.0), ends[1], atol=1e-5, rtol=0)
    assert (at(0.5) - ends[0]).abs().max() > 1e-3


def test_a_second_prompt_takes_over_by_layer_where_text_is_read_in_layers(module):
    others = PROMPTS[::-1]
    text = module.encode_captions(others)
    if "prompt_mixing" not in module.edits:
        with pytest.raises(ConfigError, match="offers no prompt_mixing"):
            sampled(module, edit=PromptMixing(text, 0.5, "layer"))
        return
    plain, other = sampled(module), module.generate(others, SeededNoise([5, 6, 7]))
    first, half, second = (
        sampled(module, edit=PromptMixing(text, switch, "layer")) for switch in (1.0, 0.5, 0.0)
    )
    torch.testing.assert_close(first, plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(second, other, atol=1e-5, rtol=0)
    changed = torch.tensor([0, 2])  # the middle prompt is the same in both
    for end in (plain, other):
        assert ((half - end)[changed].abs().amax((1, 2, 3)) > 1e-3).all()
    with pytest.raises(ConfigError, match="mixes prompts by layer"):
        sampled(module, edit=PromptMixing(text, 0.5, "step"))


def test_a_stage_above_another_family_is_not_edited_by_descent(shared_cache):
    stage = Case("gan/giga_upsampler", None, shared_cache, "size=xs_narrow").module()
    assert stage.edits == {Upscaling.name}
    assert "inversion_steps" not in {knob.name for knob in stage.knobs}


def test_impossible_edits_are_refused(module):
    side = module.resolution
    image = torch.zeros(3, 3, side, side)
    with pytest.raises(ConfigError, match=f"paints {side}x{side} alone"):
        sampled(module, edit=extended(image, (4, 0, 0, 0)))
    with pytest.raises(ConfigError, match="paints"):
        sampled(module, edit=ImageToImage(torch.zeros(3, 3, 8, 8), 0.5))
    with pytest.raises(ConfigError, match="3 rows of image for 2 prompts"):
        sampled(module, slice(2), ImageToImage(image, 0.5))
    with pytest.raises(ConfigError, match="outside"):
        sampled(module, edit=ImageToImage(image, 0.5), inversion_steps=0)


def test_the_steps_are_the_cost(module):
    calls = []

    def paint(prompt, latents):
        calls.append(1)
        return latents[0].view(-1, 3, 8, 8)

    edited(paint, text(2), [torch.randn(2, 192)], ImageToImage(torch.zeros(2, 3, 8, 8), 0.5), 10, 8)
    assert len(calls) == 2 * (5 + 1)


def test_the_cost_is_counted_as_if_all_steps_were_made(module):
    knobs = resolve_knobs(module.knobs, {"inversion_steps": 4})
    edit = ImageToImage(torch.zeros(1, 3, module.resolution, module.resolution), 0.25)
    made = count_flops(lambda: module.generate([""], SeededNoise([0]), knobs, edit=edit))
    told = descent_flops(module, knobs, torch.device("cpu"), left=0.75)
    assert told == pytest.approx(made, rel=1e-6)
    forward = count_flops(lambda: module.generate([""], SeededNoise([0]), knobs))
    # 3 steps and the image; a way back costs less than a pass where text is read, and two where
    # kernels depend on latents, as GigaGAN's do.
    assert 4 * forward < told < 10 * forward
