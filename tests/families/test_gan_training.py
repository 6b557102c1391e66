"""What every GAN trains with: augmentation, balance, accumulated and clipped gradients."""

from types import SimpleNamespace

import pytest
import torch
from contract.models import MODELS, Case
from golden.test_models import KEPT
from jaxtyping import TypeCheckError
from torch import nn

from t2ibench.core.errors import ConfigError
from t2ibench.families.contract import TextToImageModule
from t2ibench.families.gan.augment import DiffAugment, cutout, translation
from t2ibench.families.gan.balance import LOGGED, balance, balance_alarms
from t2ibench.families.gan.players import RATE
from t2ibench.families.gan.steps import Step as Taken
from t2ibench.text.word import WordTransformer

GANS = [model for model in MODELS if model.startswith("gan/")]
OF_A_BATCH = ["matching_weight=0", "wrong_weight=0"]
WITHOUT_BATCH_STATISTICS = {
    "gan/fast_painter": OF_A_BATCH,
    "gan/giga_upsampler": [*OF_A_BATCH[:1], "r1_interval=1"],
    "gan/style_gan_t": ["augment=[]", "discriminator.group=2"],
}
"""GANs whose images are judged one by one, without the losses that compare a batch's captions."""


class Step(TextToImageModule):
    """A module of one layer, for its optimiser's step."""

    family = "gan"
    knobs = ()

    def __init__(self, clip):
        text = WordTransformer(vocabulary=["a"], width=8, depth=1, heads=1, max_length=4)
        super().__init__(
            text_encoder=text, resolution=8, null_text_probability=0.0, gradient_clip_norm=clip
        )
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def training_step(self, batch, batch_idx):
        raise AssertionError("not called")

    def sample(self, text, noise, knobs):
        raise AssertionError("not called")

    def configure_optimizers(self):
        return torch.optim.SGD(self.layer.parameters(), 1.0)

    def manual_backward(self, loss):
        scaler = getattr(self._trainer, "precision_plugin", SimpleNamespace()).__dict__.get(
            "scaler"
        )
        (loss if scaler is None else scaler.scale(loss)).backward()


class Scaled(torch.optim.SGD):
    """An optimiser that steps as Lightning's does under 16-mixed."""

    def __init__(self, parameters, scaler):
        parameters = list(parameters)
        super().__init__(parameters, 1.0)
        self.inner, self.scaler = torch.optim.SGD(parameters, 1.0), scaler

    def step(self):
        self.scaler.unscale_(self.inner)
        self.scaler.step(self.inner)
        self.scaler.update()


def stepped(parts, clip=0.0, scaler=None):
    module = Step(clip)
    optimizer = module.configure_optimizers()
    if scaler is not None:
        module._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
        optimizer = Scaled(module.layer.parameters(), scaler)
    x, y = torch.randn(8, 4, generator=torch.manual_seed(1)), torch.arange(8.0)[:, None]
    losses = (
        (module.layer(x[i::parts]) - y[i::parts]).square().mean() / parts for i in range(parts)
    )
    norm = module.optimise(optimizer, losses, list(module.layer.parameters()))
    return norm, module.layer.weight.detach()


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_a_batch_in_parts_steps_as_the_whole(clip):
    (norm, whole), (same, parts) = stepped(1, clip), stepped(4, clip)
    torch.testing.assert_close(parts, whole)
    assert norm > clip
    torch.testing.assert_close(same, norm)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_scaled_losses_are_clipped_and_logged_by_their_true_norm(clip):
    plain, wanted = stepped(2, clip)
    norm, found = stepped(2, clip, torch.amp.GradScaler("cpu", init_scale=1024.0))
    torch.testing.assert_close(norm, plain)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_an_overflow_of_the_discriminator_skips_its_step_alone(clip):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    module, plain = Step(clip), Step(clip)
    module._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    judge = nn.Linear(4, 3)
    before = judge.weight.detach().clone()
    x = torch.randn(8, 4, generator=torch.manual_seed(1))

    def took(optimizer, network, factor, to=module):
        losses = (network(part).square().mean() * factor for part in x.chunk(2))
        step = Taken(to, optimizer, list(network.parameters()))
        return step.take(((loss, {"loss": loss}) for loss in losses), 2)

    logs = took(Scaled(judge.parameters(), scaler), judge, float("inf"))
    assert torch.equal(judge.weight, before) and logs["gradient_norm"] == 0
    assert scaler.get_scale() == 512
    logs = took(Scaled(module.layer.parameters(), scaler), module.layer, 10.0)
    wanted = took(torch.optim.SGD(plain.layer.parameters(), 1.0), plain.layer, 10.0, plain)
    torch.testing.assert_close(logs["gradient_norm"], wanted["gradient_norm"])
    torch.testing.assert_close(module.layer.weight, plain.layer.weight)


def gradients(case, count):
    """Of both players for one batch in parts, clipped; and what is logged."""
    module = case.module()
    module.accumulation, module.gradient_clip_norm = count, 0.5
    # Each call of StyleGAN-T's judge in training moves the estimate of its spectral norm.
    module.discriminator.eval()
    optimizers = module.configure_optimizers()
    for optimizer in optimizers:
        optimizer.step = lambda: None
    module.optimizers, module.manual_backward = lambda: optimizers, lambda loss: loss.backward()
    batch = next(iter(case.batches(module)))
    torch.manual_seed(0)
    logs = module.training_step(batch, 0)
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}, logs


@pytest.mark.parametrize("model", WITHOUT_BATCH_STATISTICS)
def test_accumulated_training_is_that_of_the_whole_batch(model, shared_cache):
    words = [f"model.module.{word}" for word in WITHOUT_BATCH_STATISTICS[model]]
    case = Case(model, None, shared_cache, *words)
    (whole, logs), (parts, of_parts) = gradients(case, 1), gradients(case, 2)
    assert set(whole) == set(parts)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-5, rtol=1e-3, msg=name)
    for name in (n for n in logs if not n.endswith(("spread", "matching"))):
        torch.testing.assert_close(of_parts[name], logs[name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("model", GANS)
def test_all_log_the_same_names(model):
    """The golden facts are what a step logs (``golden/test_models.py``)."""
    assert set(LOGGED) <= set(KEPT[model]["losses"])


@pytest.mark.parametrize("model", GANS)
def test_the_average_is_of_what_samples_and_alarms_name_keys(model, shared_cache):
    module = Case(model, None, shared_cache).module()
    averaged = {id(p) for p in module.sampling_parameters().values()}
    drawing = {id(p) for p in module.generator.parameters() if p.requires_grad}
    text = {id(p) for p in module.text_encoder.parameters() if p.requires_grad}
    judging = {id(p) for p in module.judging_parameters()} - text
    assert drawing and judging and averaged == drawing | text
    (key, *_) = module.held_back_by.split()
    told = module.alarms(logged(accuracy=1.0, gap=0.0, spread=0.0))
    told |= module.alarms(logged(accuracy=0.0))
    assert set(told) == set(SAID)
    assert all(key in sentence and RATE in sentence for sentence in told.values())
    # A key that does not exist cannot be composed.
    other = Case(model, None, shared_cache, f"{RATE}=0.25", f"{key}=1").module()
    assert other.configure_optimizers()[1].param_groups[0]["lr"] == 0.25


def test_augmentation_moves_cuts_and_colours():
    images = torch.rand(64, 3, 16, 16) * 0.5 + 0.25
    moved, cut = translation(images), cutout(images)
    shifts = set()
    for one, other in zip(images, moved, strict=True):
        found = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if torch.equal(
                nn.functional.pad(one, (2, 2, 2, 2))[:, 2 - dy : 18 - dy, 2 - dx : 18 - dx], other
            )
        ]
        assert len(found) == 1
        shifts |= set(found)
    assert len(shifts) > 15  # of 25
    gone = (cut == 0).all(1).sum((1, 2))
    assert gone.max() == 64 and gone.min() < 64
    assert torch.equal(cut[cut != 0], images[cut != 0])
    changed = DiffAugment(["color", "translation", "cutout"])
    inputs = images.clone().requires_grad_()
    changed(inputs).sum().backward()
    assert inputs.grad is not None and torch.isfinite(inputs.grad).all()
    assert DiffAugment([])(images) is images


def test_unknown_augmentation_is_refused():
    with pytest.raises((ConfigError, TypeCheckError), match="blur"):
        DiffAugment(["blur"])


def logged(accuracy=0.8, gap=1.0, spread=0.5):
    return {
        "real_logit": gap, "fake_logit": 0.0, "accuracy": accuracy,
        "real_spread": 0.5, "fake_spread": spread,
    }  # fmt: skip


@pytest.mark.parametrize(
    "found, kinds",
    [
        (logged(), set()),
        (logged(accuracy=1.0), {"won"}),
        (logged(accuracy=0.01), {"lost"}),
        (logged(gap=1e-5), {"dead"}),
        (logged(spread=0.01), {"collapse"}),
    ],
)
def test_what_is_out_of_balance_is_told(found, kinds):
    told = balance_alarms(found, "the.rate", "the.penalty")
    assert set(told) == kinds
    assert all("the.rate" in s and "the.penalty" in s for s in told.values())


SAID = {
    "won": "tells real from generated",
    "lost": "takes generated images for real",
    "dead": "gives real and generated images the same logit",
    "collapse": "all but collapsed to one image",
}


@pytest.mark.parametrize(
    "kind, words",
    [
        ("won", ["generator_optimizer.lr=1e-9"]),
        ("lost", ["discriminator_optimizer.lr=0"]),
        # Weights decay to nothing in every step.
        (
            "dead",
            [
                "discriminator_optimizer._target_=torch.optim.AdamW",
                "discriminator_optimizer.weight_decay=500",
            ],
        ),
        ("collapse", ["generator_optimizer.lr=1.0"]),
    ],
)
def test_a_silly_setting_is_told_in_training(kind, words, shared_cache, tmp_path, caplog):
    words = [f"model.module.{word}" for word in words]
    case = Case("gan/fast_painter", None, shared_cache, "trainer.log_every_images=80", *words)
    case.train(tmp_path, 240)
    assert SAID[kind] in caplog.text


def test_balance_is_of_pairs_and_pixels():
    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    found = balance(
        torch.tensor([1.0, 0.0]),
        torch.tensor([[0.0], [2.0]]),
        images,
        images[:1].repeat(2, 1, 1, 1),
    )
    assert {n: round(float(v), 6) for n, v in found.items()} == {
        "real_logit": 0.5, "fake_logit": 1.0, "accuracy": 0.5,
        "real_spread": 0.5, "fake_spread": 0.0,
    }  # fmt: skip


def test_penalised_training_is_counted(shared_cache, tmp_path):
    """The counter of FLOPs follows the gradient that is differentiated."""
    word = "model.module.adversarial_loss=relativistic"
    flops = []
    for gamma in (0.0, 1.0):
        words = [word, f"model.module.relativistic_gamma={gamma}"]
        case = Case("gan/fast_painter", None, shared_cache, *words)
        flops.append(case.train(tmp_path / str(gamma), 4)[2].clock.flops_by_part["discriminator"])
    assert flops[1] > 1.5 * flops[0]
