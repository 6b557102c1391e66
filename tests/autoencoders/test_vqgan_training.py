"""Training as VQGAN was trained: every term and gradient of the authors' loss, and its options."""

import functools
from hashlib import sha256

import pytest
import torch
from golden import vqgan as recipe
from golden.attn_gan import fill, sketch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import interpolate
from torchmetrics.functional.image.lpips import _LPIPS

from t2ibench.autoencoders.adversarial import (
    PatchDiscriminator,
    PublishedPatchDiscriminator,
    hinge_discriminator_loss,
    non_saturating_discriminator_loss,
)
from t2ibench.autoencoders.codebooks import LearnedCodebook
from t2ibench.autoencoders.perceptual import LPIPS, VGG16_WIDTHS, FeatureStages, RandomFeatures
from t2ibench.autoencoders.published import PublishedQuantized
from t2ibench.autoencoders.vq import CodebookAutoencoder
from t2ibench.autoencoders.vqgan_training import VQGANTraining
from t2ibench.core.errors import CheckpointError, ConfigError, MissingWeightsError
from t2ibench.core.types import Batch


class Toy(CodebookAutoencoder):
    """Latents that are weights, a codebook, and the recipe's decoder of one convolution."""

    spatial_factor = recipe.SCALE
    latent_channels = 4
    codebook_size = 16

    def __init__(self):
        super().__init__()
        latents, codebook, weight, bias, _ = recipe.inputs()
        self.latents = nn.Parameter(latents)
        self.quantizer = LearnedCodebook(
            codebook_size=16, width=4, beta=recipe.BETA, legacy_beta=True,
            gradient="straight_through",
        )  # fmt: skip
        self.quantizer.embedding.weight = nn.Parameter(codebook)
        self.to_image = nn.Conv2d(4, 3, 3, padding=1)
        self.to_image.weight, self.to_image.bias = nn.Parameter(weight), nn.Parameter(bias)

    codebook = property(lambda self: self.quantizer)
    last_layer = property(lambda self: self.to_image.weight)

    def encode(self, images):
        return self.latents

    def decode_vectors(self, vectors):
        return self.to_image(interpolate(vectors, scale_factor=recipe.SCALE, mode="nearest"))


def make(autoencoder, discriminator, **changes):
    rest = functools.partial(torch.optim.SGD, lr=0.0)
    given = {
        "resolution": 32, "l1_weight": 1.0, "l2_weight": 0.0, "perceptual": "none",
        "perceptual_weight": 1.0, "lpips_weights": None, "lpips_sha256": "397923af",
        "penalty_weight": 1.0, "optimizer": rest, "gradient_clip_norm": 0.0,
        "discriminator_optimizer": rest if discriminator else None,
        "adversarial_loss": "hinge", "adversarial_weight": recipe.DISC_WEIGHT,
        "discriminator_start_images": 10, "discriminator_ramp_images": 0,
    }  # fmt: skip
    made = VQGANTraining(autoencoder=autoencoder, discriminator=discriminator, **(given | changes))
    optimizers = made.configure_optimizers()
    made.optimizers = lambda: optimizers
    made.manual_backward = lambda loss: loss.backward()
    return made.train()


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory):
    """A file in torchvision's format with the recipe's weights, classifier included."""
    state = fill(FeatureStages(VGG16_WIDTHS)).state_dict()
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(state | {"classifier.6.bias": torch.zeros(1000)}, path)
    return path, sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_every_term_and_gradient_is_taming_transformers(kind, when, vgg16, doubles):
    expected = recipe.expected()[kind][when]
    path, digest = vgg16
    judge = fill(PublishedPatchDiscriminator(channels=recipe.NDF, layers=recipe.LAYERS))
    module = make(Toy(), judge, perceptual="lpips", lpips_weights=str(path), lpips_sha256=digest)
    module.perceptual.frozen_networks["network"].double()
    fill(module.perceptual.frozen_networks["network"])
    module.perceptual.frozen_networks["lin"].double()
    if kind == "vanilla":
        # Theirs changes the discriminator's loss alone.
        module.judging_loss = non_saturating_discriminator_loss
    module.images_seen = {"before": 9, "after": 10}[when]
    logs = module.training_step(Batch(recipe.inputs()[-1], ["a"] * 2, torch.arange(2)), 0)
    share = expected["d_weight"] * expected["disc_factor"]
    terms = {
        "perceptual": expected["p_loss"],
        "penalty": expected["quant_loss"],
        "l1": expected["nll_loss"] - expected["p_loss"],
        "adversarial_weight": share,
        "loss": expected["total_loss"] - share * expected["g_loss"],
    }
    for name, value in terms.items():
        assert logs[name].item() == pytest.approx(value, rel=1e-5), name
    factor = expected["disc_factor"]
    assert factor * logs["discriminator"].item() == pytest.approx(expected["disc_loss"], rel=1e-5)
    toy, wanted = module.autoencoder, expected["grads"]
    found = {
        "latents": toy.latents, "codebook": toy.quantizer.embedding.weight,
        "weight": toy.to_image.weight, "bias": toy.to_image.bias,
    }  # fmt: skip
    for name, parameter in found.items():
        assert sketch(parameter.grad) == pytest.approx(wanted[name], rel=1e-4, abs=1e-6), name
    gradients = [sketch(p.grad) for p in judge.parameters()]
    assert len(gradients) == len(expected["discriminator_grads"])
    for ours, theirs in zip(gradients, expected["discriminator_grads"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_lpips_is_torchmetrics(vgg16, tmp_path):
    path, digest = vgg16
    ours = LPIPS(str(path), digest)
    theirs = _LPIPS(pretrained=True, net="vgg", pnet_rand=True).eval()
    state = ours.frozen_networks["network"].state_dict()
    for i, name in enumerate(theirs.net.state_dict()):
        theirs.net.state_dict()[name].copy_(list(state.values())[i])
    one, other = torch.rand(2, 3, 3, 24, 32) * 2 - 1
    expected = theirs(one, other).mean()
    torch.testing.assert_close(ours(one, other), expected, rtol=1e-4, atol=1e-6)
    assert ours(one, one).item() == 0 and not list(ours.parameters())
    copy = tmp_path / "vgg16.safetensors"
    save_file({n: t.contiguous() for n, t in state.items()}, copy)
    again = LPIPS(str(copy), sha256(copy.read_bytes()).hexdigest()[:8])
    assert torch.equal(again(one, other), ours(one, other))


def test_lpips_without_its_file_or_with_another_is_one_sentence(vgg16, tmp_path, monkeypatch):
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    absent = {"perceptual": "lpips", "lpips_weights": None, "lpips_sha256": "397923af"}
    with pytest.raises(MissingWeightsError, match=r"vgg16-397923af.pth .*is not there: put it"):
        VQGANTraining.check_files(absent)
    VQGANTraining.check_files(absent | {"perceptual": "features"})
    path, digest = vgg16
    with pytest.raises(ConfigError, match="at least 8 digits"):
        VQGANTraining.check_files(absent | {"lpips_weights": str(path), "lpips_sha256": ""})
    with pytest.raises(CheckpointError, match="has SHA-256 .*, not 397923af"):
        VQGANTraining.check_files(absent | {"lpips_weights": str(path)})
    wrong = tmp_path / "wrong.pth"
    torch.save({"features.0.weight": torch.zeros(3)}, wrong)
    with pytest.raises(CheckpointError, match="13 convolutions of VGG16"):
        LPIPS(str(wrong), sha256(wrong.read_bytes()).hexdigest())
    wrong.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        LPIPS(str(wrong), sha256(wrong.read_bytes()).hexdigest())


def test_random_features_are_the_same_network_everywhere():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, other = RandomFeatures(), RandomFeatures()
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(one(x, -x), other(x, -x)) and one(x, -x) > 0 and one(x, x) == 0
    made = (-x).requires_grad_()
    one(x, made).backward()
    assert made.grad.any() and not list(one.parameters()) and not one.state_dict()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(one(x, -x), other(x, -x))


def small():
    torch.manual_seed(0)
    quantizer = LearnedCodebook(
        codebook_size=16, width=4, beta=0.25, legacy_beta=True, gradient="straight_through"
    )
    return PublishedQuantized(
        quantizer=quantizer, z_channels=8, channels=[8, 8], blocks=1, attention_levels=[],
        middle_attention=False, groups=4,
    )  # fmt: skip


def test_the_adversary_starts_late_and_its_weight_grows():
    judge = PublishedPatchDiscriminator(channels=4, layers=2)
    module = make(small(), judge, discriminator_start_images=100, discriminator_ramp_images=50)
    shares = []
    for seen in (0, 99, 100, 110, 125, 150, 999):
        module.images_seen = seen
        shares.append((module.started, module.adversarial_share))
    assert shares == [(0, 0), (0, 0), (1, 0), (1, 0.2), (1, 0.5), (1, 1), (1, 1)]


@pytest.mark.parametrize("perceptual", ["none", "features"])
@pytest.mark.parametrize("loss", ["hinge", "non_saturating"])
def test_training_changes_every_parameter_and_nothing_else(perceptual, loss):
    adam = functools.partial(torch.optim.Adam, lr=1e-3)
    judge = PublishedPatchDiscriminator(channels=4, layers=2)
    module = make(
        small(), judge, perceptual=perceptual, adversarial_loss=loss, optimizer=adam,
        discriminator_optimizer=adam, discriminator_start_images=0,
    )  # fmt: skip
    kept = {n: t.clone() for n, t in module.state_dict().items()}
    assert not any("perceptual" in n or "health" in n for n in kept)
    assert set(module.networks()) == {"autoencoder", "discriminator"}
    torch.manual_seed(1)
    batch = Batch(torch.rand(4, 3, 16, 16) * 2 - 1, ["a"] * 4, torch.arange(4))
    for i in range(2):
        logs = module.training_step(batch, i)
    assert ("perceptual" in logs) == (perceptual == "features")
    assert all(value.isfinite() and not value.requires_grad for value in logs.values())
    same = {n for n, p in module.named_parameters() if torch.equal(p, kept[n])}
    # Inside both hinges the pulls of real and fake on the last bias cancel.
    assert same <= {"discriminator.layers.8.bias"}
    assert module.alarms({n: v.item() for n, v in logs.items()} | {"codebook_dead": 1.0})


def test_losses_of_the_non_saturating_adversary():
    module = make(small(), PatchDiscriminator(channels=4, layers=1), adversarial_loss="hinge")
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    assert torch.equal(module.judging_loss(real, fake), hinge_discriminator_loss(real, fake))
    module.adversarial_loss = "non_saturating"
    cross_entropy = nn.BCEWithLogitsLoss()
    expected = (cross_entropy(real, torch.ones(2)) + cross_entropy(fake, torch.zeros(2))) / 2
    torch.testing.assert_close(module.judging_loss(real, fake), expected)
    torch.testing.assert_close(module.fooling_loss(fake), cross_entropy(fake, torch.ones(2)))


@pytest.mark.parametrize(("layers", "expected"), [(3, 2_765_633), (2, 663_361)])
def test_the_published_discriminator_has_the_published_count(layers, expected):
    torch.manual_seed(0)
    judge = PublishedPatchDiscriminator(channels=64, layers=layers)
    assert sum(p.numel() for p in judge.parameters()) == expected
    weight = torch.cat([p.flatten() for n, p in judge.named_parameters() if p.ndim == 4])
    assert weight.std().item() == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_images_too_small_for_the_discriminator_are_refused(layers):
    judge = PublishedPatchDiscriminator(channels=4, layers=layers)
    assert judge(torch.zeros(1, 3, judge.least_side, judge.least_side)).shape == (1, 1, 1, 1)
    with pytest.raises(ConfigError, match=f"below the {judge.least_side} px"):
        make(small(), judge, resolution=judge.least_side - 2)


def test_negative_weights_are_refused():
    for name in ("perceptual_weight", "discriminator_ramp_images"):
        with pytest.raises(ConfigError, match=f"module.{name}=-1 must not be negative"):
            make(small(), None, **{name: -1})
