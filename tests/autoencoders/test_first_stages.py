import functools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ibench.autoencoders import metrics
from t2ibench.autoencoders.adversarial import (
    PatchDiscriminator,
    adaptive_weight,
    hinge_discriminator_loss,
)
from t2ibench.autoencoders.codebook_health import perplexity, usage
from t2ibench.autoencoders.codebooks import VectorQuantizer, commitment_loss, nearest_code
from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.autoencoders.kl import KLAutoencoder, gaussian_kl
from t2ibench.autoencoders.module import AutoencoderModule
from t2ibench.autoencoders.networks import PixelNorm
from t2ibench.autoencoders.vq import VQAutoencoder
from t2ibench.core.errors import CheckpointError, ConfigError
from t2ibench.core.types import Batch

SHAPE = {"latent_channels": 4, "channels": [16, 16], "blocks": 1, "stem_factor": 2}


def make_kl(**changes):
    torch.manual_seed(0)
    return KLAutoencoder(**(SHAPE | changes))


def make_vq(**changes):
    torch.manual_seed(0)
    codebook = {
        "encoder_kernel_size": 3,
        "codebook_size": 16,
        "codebook_decay": 0.9,
        "revive_below": 0.02,
    }
    return VQAutoencoder(**(SHAPE | codebook | changes))


def make_module(autoencoder, adversary=False, start=0):
    adam = functools.partial(torch.optim.Adam, lr=1e-3)
    module = AutoencoderModule(
        autoencoder=autoencoder,
        resolution=16,
        l1_weight=1.0,
        l2_weight=1.0,
        penalty_weight=0.1,
        optimizer=adam,
        gradient_clip_norm=1.0,
        discriminator=PatchDiscriminator(channels=8, layers=2) if adversary else None,
        discriminator_optimizer=adam if adversary else None,
        adversarial_weight=0.5,
        discriminator_start_images=start,
    )
    optimizers = module.configure_optimizers()
    module.optimizers = lambda: optimizers
    module.manual_backward = lambda loss: loss.backward()
    return module.train()


def images(count=4, side=16, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=generator) * 2 - 1


def batch(count=4):
    return Batch(images(count), ["a"] * count, torch.arange(count))


def test_gaussian_kl_is_that_of_torch_distributions():
    mean, log_variance = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    normal = torch.distributions.Normal
    posterior = normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected)
    zero = torch.zeros(1, 2, 4, 4)
    assert gaussian_kl(zero, zero).item() == 0


def test_pixel_norm_gives_every_position_unit_mean_square():
    out = PixelNorm(8)(torch.randn(2, 8, 3, 3) * torch.rand(2, 1, 3, 3) * 100)
    torch.testing.assert_close(out.square().mean(1), torch.ones(2, 3, 3), rtol=1e-3, atol=1e-3)


def test_nearest_code_is_the_one_that_cdist_finds():
    quantizer = VectorQuantizer(
        codebook_size=32, width=5, decay=0.9, revive_below=0.0, gradient="straight_through"
    )
    vectors = torch.randn(100, 5)
    expected = torch.cdist(vectors, quantizer.codebook).argmin(1)
    assert torch.equal(quantizer.nearest(vectors), expected)
    assert torch.equal(quantizer.nearest(quantizer.codebook), torch.arange(32))


def test_codebook_converges_to_cluster_means_and_revives_dead_codes():
    torch.manual_seed(0)
    centres = torch.tensor([[10.0, 0.0], [-10.0, 0.0], [0.0, 10.0], [0.0, -10.0]])
    quantizer = VectorQuantizer(
        codebook_size=12, width=2, decay=0.9, revive_below=0.05, gradient="straight_through"
    )
    quantizer.codebook.fill_(1e3)
    for _ in range(100):
        vectors = centres.repeat(64, 1) + 0.1 * torch.randn(256, 2)
        quantizer.update(vectors, quantizer.nearest(vectors))
    distance = torch.cdist(centres, quantizer.codebook)
    assert distance.amin(1).max() < 0.2
    assert distance.amin(0).max() < 1.0, "a code is left far from all data"


def test_commitment_loss_moves_the_encoder_only():
    latents = torch.randn(2, 3, requires_grad=True)
    codes = torch.randn(2, 3, requires_grad=True)
    loss = commitment_loss(latents, codes)
    loss.backward()
    torch.testing.assert_close(latents.grad, 2 * (latents - codes).detach() / 6)
    assert codes.grad is None


def test_straight_through_gives_latents_the_decoders_gradient():
    model = make_vq().eval()
    latents = model.encode(images()).detach().requires_grad_()
    nearest, _ = model.quantise(latents)
    through = latents + (nearest - latents).detach()
    (grad,) = torch.autograd.grad(model.decoder(through).square().sum(), latents)
    at_code = nearest.detach().requires_grad_()
    (expected,) = torch.autograd.grad(model.decoder(at_code).square().sum(), at_code)
    torch.testing.assert_close(grad, expected)


@given(st.integers(1, 40), st.integers(0, 5))
def test_perplexity_and_usage_count_codes(used, seed):
    codes = torch.randperm(64, generator=torch.Generator().manual_seed(seed))[:used]
    assert perplexity(codes, 64).item() == pytest.approx(used, rel=1e-4)
    assert usage(codes, 64).item() == pytest.approx(used / 64)


def test_psnr_is_its_closed_form_and_bounded():
    flat = torch.zeros(2, 3, 4, 4)
    assert metrics.psnr(flat, flat + 0.2).item() == pytest.approx(20 * math.log10(2 / 0.2))
    assert metrics.psnr(flat, flat).item() == 100
    assert metrics.l1_error(flat, flat + 0.2).item() == pytest.approx(0.2)


def test_ssim_is_its_formula_for_flat_images():
    flat = torch.zeros(2, 3, 16, 16)
    # Without variance only the luminance term is left: c1 / (mu^2 + c1) with c1 = (0.01 * 2)^2.
    assert metrics.ssim(flat, flat + 0.2).item() == pytest.approx(4e-4 / (0.04 + 4e-4), rel=1e-3)
    x = images(2, 16)
    scores = metrics.reconstruction_scores(x, x)
    assert scores == {"psnr": 100.0, "ssim": pytest.approx(1.0), "l1": 0.0}


def test_hinge_loss_is_zero_beyond_the_margins():
    assert hinge_discriminator_loss(torch.full((4,), 2.0), torch.full((4,), -2.0)) == 0
    assert hinge_discriminator_loss(torch.zeros(4), torch.zeros(4)).item() == 1


def test_adaptive_weight_balances_gradient_norms():
    layer = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    weight = adaptive_weight((3 * layer).sum(), (0.5 * layer).sum(), layer)
    assert weight.item() == pytest.approx(6, rel=1e-3)
    assert adaptive_weight((3e9 * layer).sum(), (0 * layer).sum(), layer).item() == 1e4


@pytest.mark.parametrize("make", [make_kl, make_vq])
def test_shapes_factor_and_batch_independence(make):
    model = make().eval()
    x = images(4, side=32)
    with torch.no_grad():
        latents = model.encode(x)
        assert latents.shape == (4, 4, 8, 8) and model.spatial_factor == 4
        assert model.decode(latents).shape == x.shape
        torch.testing.assert_close(model.encode(x[2:3])[0], latents[2], atol=1e-5, rtol=1e-4)


def test_a_kernel_of_one_makes_codes_of_single_patches():
    model = make_vq(encoder_kernel_size=1)
    model.eval()
    x, changed = images(1), images(1)
    changed[:, :, 4:8, 8:12] = 0.5
    with torch.no_grad():
        moved = (model.encode(x) - model.encode(changed)).abs().amax((0, 1)) > 0
    assert moved.nonzero().tolist() == [[1, 2]]
    with pytest.raises(ConfigError, match="must be 3, or 1"):
        make_vq(encoder_kernel_size=5)


def test_codes_decode_to_what_latents_decode_to():
    model = make_vq().eval()
    with torch.no_grad():
        codes = model.codes(images())
        assert codes.shape == (4, 16) and codes.dtype == torch.int64
        via_latents = model.decode(model.encode(images()))
        torch.testing.assert_close(model.decode_codes(codes), via_latents)


@pytest.mark.parametrize("make", [make_kl, make_vq])
@pytest.mark.parametrize("adversary", [False, True])
def test_training_changes_every_parameter(make, adversary):
    module = make_module(make(), adversary)
    start = {n: p.detach().clone() for n, p in module.named_parameters()}
    torch.manual_seed(1)
    for i in range(3):
        logs = module.training_step(batch(), i)
    assert all(torch.isfinite(v) and not v.requires_grad for v in logs.values())
    same = [n for n, p in module.named_parameters() if torch.equal(p, start[n])]
    # Inside both hinges the pulls of real and fake on the discriminator's last bias cancel.
    assert same == (["discriminator.layers.4.bias"] if adversary else [])
    averaged = module.sampling_parameters()
    assert averaged and all(name.startswith("autoencoder.") for name in averaged)


def test_adversary_waits_for_its_image():
    module = make_module(make_kl(), adversary=True, start=8)
    before = [p.detach().clone() for p in module.discriminator.parameters()]
    weights = []
    for i in range(3):
        module.images_seen = i * 4
        weights.append(module.training_step(batch(), i)["adversarial_weight"].item())
    assert weights[:2] == [0, 0] and weights[2] > 0
    now = list(module.discriminator.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(before, now, strict=True))


@pytest.mark.parametrize("make", [make_kl, make_vq])
def test_training_lowers_the_reconstruction_error(make):
    module = make_module(make())
    torch.manual_seed(1)
    errors = [module.training_step(batch(), i)["l1"].item() for i in range(30)]
    assert sum(errors[-5:]) < 0.85 * sum(errors[:5])


@pytest.mark.parametrize("make", [make_kl, make_vq])
def test_frozen_stage_normalises_saves_and_loads(make, tmp_path):
    model = make()
    stage = FrozenFirstStage.measure(model, images(64).split(10))
    with torch.no_grad():
        mean, variance = model.moments(images(64))
    drawn = mean + variance.sqrt() * torch.randn_like(mean)
    latents = (drawn - stage._column(stage.latent_mean)) / stage._column(stage.latent_std)
    near = 0.0 if variance.max() == 0 else 0.05  # of 16,384 draws a channel
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4 + near, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-2 + near, rtol=0)
    with torch.no_grad():
        direct = model.decode(model.encode(images()))
        torch.testing.assert_close(
            stage.decode(stage.encode(images())), direct, atol=1e-4, rtol=1e-4
        )
    path = tmp_path / "stage.safetensors"
    stage.save(path)
    other = make()
    torch.nn.init.ones_(other.last_layer)
    loaded = FrozenFirstStage.load(path, other)
    assert loaded.fingerprint == stage.fingerprint
    assert loaded.kind == model.kind and not any(p.requires_grad for p in loaded.parameters())
    assert not loaded.train().autoencoder.training


@pytest.mark.parametrize("autocast", [False, True])
def test_the_nearest_code_is_the_nearest_under_autocast_too(autocast):
    torch.manual_seed(0)
    vectors, codebook = torch.randn(300, 8), torch.randn(512, 8)
    expected = torch.cdist(vectors.double(), codebook.double()).argmin(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(nearest_code(vectors, codebook), expected)


def test_a_channel_that_says_nothing_is_not_blown_up():
    """A collapsed posterior: means a hundredth of the others', variance 1 as the prior's."""

    class Collapsed(KLAutoencoder):
        def posterior(self, images):
            mean, log_variance = super().posterior(images)
            used = torch.tensor([1.0, 1.0, 1.0, 0.0])[:, None, None]
            mean = (mean / mean.std()) * (0.01 + 0.99 * used)
            return mean, torch.full_like(log_variance, -8.0) * used

    model = Collapsed(latent_channels=4, channels=[8, 12], blocks=1, stem_factor=2)
    stage = FrozenFirstStage.measure(model, [images(64)])
    power = stage.encode(images(64)).square().mean((0, 2, 3))
    assert power[3] < 1e-3 and power[:3].min() > 0.9


def test_frozen_stage_refuses_what_does_not_fit(tmp_path):
    path = tmp_path / "stage.safetensors"
    with pytest.raises(CheckpointError, match="is missing"):
        FrozenFirstStage.load(path, make_kl())
    FrozenFirstStage(make_kl()).save(path)
    with pytest.raises(CheckpointError, match="does not fit"):
        FrozenFirstStage.load(path, make_kl(blocks=2))
    with pytest.raises(CheckpointError, match="does not fit"):
        FrozenFirstStage.load(path, make_kl(channels=[16, 32]))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        FrozenFirstStage.load(path, make_kl())
    with pytest.raises(ConfigError, match="has no codes"):
        FrozenFirstStage(make_kl()).codes(images())
    with pytest.raises(ConfigError, match="at least one batch"):
        FrozenFirstStage.measure(make_kl(), [])


def test_impossible_configurations_are_refused():
    with pytest.raises(ConfigError, match="multiple"):
        make_module(make_kl(channels=[8, 8, 8, 8, 8]))
    with pytest.raises(ConfigError, match="at least one level"):
        make_kl(channels=[])
    module = make_module(make_kl())
    with pytest.raises(ConfigError, match="or neither"):
        AutoencoderModule(
            autoencoder=module.autoencoder,
            resolution=16,
            l1_weight=1.0,
            l2_weight=0.0,
            penalty_weight=0.0,
            optimizer=module.optimizer_factory,
            gradient_clip_norm=0.0,
            discriminator=PatchDiscriminator(channels=8, layers=1),
            discriminator_optimizer=None,
            adversarial_weight=0.0,
            discriminator_start_images=0,
        )
