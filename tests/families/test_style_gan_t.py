"""StyleGAN-T: the authors' numbers, exact sizes, its knob, its backbone, refusals."""

import json
import math
from pathlib import Path

import pytest
import torch
from contract.models import Case
from families.style_gan_t_recipe import ours

from t2ibench.core.edits import PromptMixing, StyleMixing
from t2ibench.core.errors import ConfigError, MissingWeightsError
from t2ibench.core.noise import SeededNoise
from t2ibench.engine.parts.frozen_backbone import FrozenNetwork
from t2ibench.families.gan.projected import (
    PublishedViT,
    SmallViT,
    SpectralConv1d,
    VirtualBatchNorm,
    cropped,
)
from t2ibench.families.gan.style_gan_t import spherical_distance
from t2ibench.families.gan.style_gan_t_generator import Generator
from t2ibench.nn.stylegan import fading_blur, modulated_convolution
from t2ibench.runs.folder import Run

GOLDEN = Path(__file__).parents[1] / "golden" / "style_gan_t.json"
MODEL = "gan/style_gan_t"
SIZES = {
    "paper": {64: 975_547_691, 256: 1_016_428_351, 512: 1_020_489_289},
    "lite": {64: 74_548_515, 256: 85_694_899, 512: 87_036_539},
}
"""Weights of the authors' synthesis network with 768 text features."""


def small_vit(**changes):
    options = {
        "image_size": 16, "patch_size": 4, "width": 16, "depth": 3, "heads": 2,
        "blocks": [0, 2], "patch_embedding": True,
    }  # fmt: skip
    return SmallViT(**options | changes)


@pytest.fixture(scope="module")
def case(shared_cache):
    return Case(MODEL, None, shared_cache)


def steps_by_hand(module):
    """The module with optimisers that no trainer holds."""
    players = module.configure_optimizers()
    module.optimizers = lambda: players
    module.manual_backward = lambda loss: loss.backward()
    return module


def test_outputs_losses_and_gradients_are_those_of_the_authors_code():
    expected, found = json.loads(GOLDEN.read_text()), ours()
    assert list(found) == list(expected)
    for name, numbers in expected.items():
        size = max(map(abs, numbers))
        # Convolutions before a batch norm have biases without a gradient but rounding.
        assert found[name] == pytest.approx(numbers, rel=0, abs=1e-5 * size + 2e-8), name


@pytest.mark.parametrize(
    ("size", "resolution"), [(size, side) for size, sides in SIZES.items() for side in sides]
)
def test_published_sizes(size, resolution, shared_cache):
    words = (f"size={size}", f"data.resolution={resolution}")
    component = Case(MODEL, None, shared_cache, *words).spec.model.module.arguments["generator"]
    with torch.device("meta"):
        made = Generator(resolution=resolution, text_width=768, **component.arguments)
    assert sum(p.numel() for p in made.synthesis.parameters()) == SIZES[size][resolution]


def test_modulated_activations_equal_weights_per_sample():
    x, weight, style = torch.randn(3, 4, 6, 6), torch.randn(5, 4, 3, 3), torch.randn(3, 4)
    own = weight * style[:, None, :, None, None]
    own = own / own.square().sum((2, 3, 4), keepdim=True).sqrt()
    pairs = zip(x, own, strict=True)
    expected = torch.stack([torch.conv2d(image[None], w, padding=1)[0] for image, w in pairs])
    torch.testing.assert_close(modulated_convolution(x, weight, style), expected)


def test_spectral_norm_is_one_and_the_input_is_a_circle():
    torch.manual_seed(0)
    layer, x = SpectralConv1d(6, 5, 3), torch.randn(2, 6, 7)
    for _ in range(50):
        turned = layer(x.roll(2, 2))
    matrix = layer.weight.flatten(1) / (layer.u @ layer.weight.flatten(1) @ layer.v)
    assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1, abs=1e-4)
    layer.eval()
    torch.testing.assert_close(layer(x).roll(2, 2), turned, atol=1e-4, rtol=1e-4)
    before = layer.u.clone()
    layer(x)
    assert torch.equal(layer.u, before)


def test_virtual_batches_do_not_mix_and_may_be_uneven():
    norm, x = VirtualBatchNorm(3, 8), torch.randn(16, 3, 5)
    torch.testing.assert_close(norm(x)[:8], norm(x[:8]))
    uneven = norm(torch.randn(9, 3, 5))  # groups of 5 and 4
    torch.testing.assert_close(uneven[:5].mean((0, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(uneven[5:].mean((0, 2)), torch.zeros(3), atol=1e-5, rtol=0)


def test_squared_angles():
    a = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    b = torch.tensor([[0.0, 3.0], [5.0, 0.0]])
    expected = torch.tensor([(math.pi / 2) ** 2, (math.pi / 4) ** 2])
    torch.testing.assert_close(spherical_distance(a, b), expected)


def test_the_blur_fades_to_nothing():
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(fading_blur(images, 0.3), images)
    spreads = [fading_blur(images, sigma).std() for sigma in (0.4, 1.0, 3.0)]
    assert spreads == sorted(spreads, reverse=True)
    # A flat image stays flat away from the border, where what is outside counts as grey.
    assert fading_blur(torch.ones(1, 1, 33, 33), 2.0)[0, 0, 16, 16].item() == pytest.approx(1)


def test_a_crop_is_a_part():
    images = torch.arange(64.0).view(1, 1, 8, 8).expand(2, 3, 8, 8)
    part = cropped(images, 3)
    assert part.shape == (2, 3, 3, 3)
    assert torch.equal(part[0, 0] - part[0, 0, 0, 0], images[0, 0, :3, :3])


def test_only_the_mapped_noise_is_truncated(case):
    module = case.module()
    generator = module.generator
    z = torch.randn(64, 64)
    generator.train()
    first = generator.mapping(z, 1.0)
    torch.testing.assert_close(generator.mapping.average, 0.005 * first.mean(0))
    generator.eval()
    assert torch.equal(generator.mapping(z, 0.0), generator.mapping.average.expand(64, -1))
    torch.testing.assert_close(generator.mapping(z, 1.0), first)
    knobs = {"truncation_psi": 0.0}
    one, other = (module.generate([p], SeededNoise([1]), knobs) for p in ("a red ring", "a moon"))
    again = module.generate(["a red ring"], SeededNoise([2]), knobs)
    assert (one - other).abs().max() > 1e-3  # the text is whole at psi 0
    torch.testing.assert_close(one, again)  # noise maps begin without strength


def test_parts_of_a_batch_have_the_gradients_of_the_whole(case):
    """Where each part has whole groups of the virtual batch norm and nothing is augmented."""
    words = ["model.module.augment=[]", "model.module.discriminator.group=2"]
    norms = []
    for count in (1, 2):
        made = Case(
            MODEL, None, case.spec.paths.cache, *words, f"model.module.accumulation={count}"
        )
        module = steps_by_hand(made.module())
        batch = next(made.batches(module))
        torch.manual_seed(3)
        # Two passes are two power iterations.
        for layer in module.discriminator.modules():
            if isinstance(layer, SpectralConv1d):
                layer.eval()
        logs = module.training_step(batch, 0)
        norms.append(
            [float(logs[f"{who}_gradient_norm"]) for who in ("discriminator", "generator")]
        )
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_the_relativistic_loss_penalises_through_the_backbone(case):
    words = ["model.module.adversarial_loss=relativistic", "model.module.relativistic_gamma=0.5"]
    made = Case(MODEL, None, case.spec.paths.cache, *words)
    module = steps_by_hand(made.module())
    logs = module.training_step(next(made.batches(module)), 0)
    assert float(logs["discriminator_penalty"]) > 0
    assert all(torch.isfinite(value) and not value.requires_grad for value in logs.values())


def test_guidance_reaches_the_generator_and_turns_towards_the_caption(case):
    words = [
        "clip=dual_encoder",
        "parts.clip.network.image_size=16",
        "model.module.clip_weight=1.0",
    ]
    made = Case(MODEL, None, case.spec.paths.cache, *words)
    module = steps_by_hand(made.module())
    images = (2 * torch.rand(2, 3, 16, 16) - 1).requires_grad_()
    captions = ["a large red ring", "a small blue moon"]
    before = module.guidance(images, captions)
    (gradient,) = torch.autograd.grad(before, images)
    assert module.guidance(images - 0.5 * gradient / gradient.norm(), captions) < before
    logs = module.training_step(next(made.batches(module)), 0)
    assert float(logs["generator_clip"]) > 0
    assert "clip" in {name.split(".")[0] for name in module.guarded_parts()}


@pytest.mark.parametrize("words", [["clip=dual_encoder"], ["model.module.clip_weight=0.2"]])
def test_guidance_needs_a_clip_and_a_weight(words, case):
    with pytest.raises(ConfigError, match="guidance needs both"):
        Case(MODEL, None, case.spec.paths.cache, *words).module()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.resolution=48"], "power of two"),
        (["data.resolution=512"], "raise it to 16384"),
        (["parts.backbone.network.blocks=[0,4]"], "block 4 of a vision transformer with 4 blocks"),
        (["parts.backbone.network.patch_size=5"], "multiple of patch_size=5"),
    ],
)
def test_what_cannot_be_made_is_refused_before_training(words, message, case):
    with pytest.raises(ConfigError, match=message):
        Case(MODEL, None, case.spec.paths.cache, *words).module()


def test_features_are_tokens_with_the_class_token_added():
    vit = small_vit()
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    maps = vit(images)
    assert [tuple(m.shape) for m in maps] == [(2, 16, 16)] * 3 == [(2, vit.width, 16)] * vit.maps
    whole = vit.vit.forward_intermediates(
        images, indices=[2], norm=False, output_fmt="NLC", return_prefix_tokens=True,
        intermediates_only=True,
    )  # fmt: skip
    tokens, prefix = whole[0]
    torch.testing.assert_close(maps[1], (tokens + prefix).transpose(1, 2))
    enlarged = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(vit(enlarged)[0], maps[0])


def test_a_published_vit_is_read_from_a_file_by_name(tmp_path):
    options = {"architecture": "vit_tiny_patch16_224", "blocks": [0], "patch_embedding": False}
    torch.manual_seed(0)
    made = PublishedViT(weights=None, **options)
    path = tmp_path / "vit.pth"
    torch.save(made.vit.state_dict() | {"head.weight": torch.zeros(10, 192)}, path)
    torch.manual_seed(1)
    read = PublishedViT(weights=str(path), **options)
    assert FrozenNetwork(read).fingerprint == FrozenNetwork(made).fingerprint
    with pytest.raises(MissingWeightsError, match=r"backbone\.path"):
        PublishedViT(weights=str(tmp_path / "none.pth"), **options)
    with pytest.raises(ConfigError, match="no model of timm"):
        PublishedViT(weights=None, **options | {"architecture": "vit_of_dreams"})
    with pytest.raises(ConfigError, match="no vision transformer"):
        PublishedViT(weights=None, **options | {"architecture": "resnet10t"})


def test_the_leaderboard_is_told_of_a_random_backbone(case, tmp_path):
    (part,) = case.spec.parts.values()
    assert part.given(case.module()) == ("random backbone vit_random",)
    facts = part.prepare(case.context(), Run.named(tmp_path, "x", {}).begin({})).facts
    assert facts["pretrained"] is False and facts["fingerprint"]


def test_another_prompt_or_style_takes_over_in_the_finer_layers(case):
    module = case.module().eval()
    other = module.encode_captions(["a small blue moon"])

    def sampled(prompt="a large red ring", edit=None, seed=1):
        return module.generate([prompt], SeededNoise([seed]), edit=edit)

    for make, second in (
        (lambda switch: PromptMixing(other, switch, "layer"), sampled("a small blue moon")),
        (lambda switch: StyleMixing(SeededNoise([2]), switch), sampled(seed=2)),
    ):
        torch.testing.assert_close(sampled(edit=make(1.0)), sampled())
        torch.testing.assert_close(sampled(edit=make(0.0)), second)
        assert not torch.allclose(sampled(edit=make(0.5)), sampled(), atol=1e-4)
    with pytest.raises(ConfigError, match="by=layer"):
        sampled(edit=PromptMixing(other, 0.5, "step"))
