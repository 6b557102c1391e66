"""What every GAN trains with: augmentation, balance, accumulated and clipped gradients."""

from types import SimpleNamespace

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn

from t2ibench.core.errors import ConfigError
from t2ibench.families.contract import TextToImageModule
from t2ibench.families.gan.augment import DiffAugment, cutout, translation
from t2ibench.families.gan.balance import balance, balance_alarms
from t2ibench.text.word import WordTransformer


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


class Unscaling(torch.optim.SGD):
    """Steps as Lightning's optimiser does under 16-mixed."""

    def __init__(self, parameters, scaler):
        super().__init__(parameters, 1.0)
        self.scaler = scaler

    def step(self):
        self.scaler.unscale_(self)
        super().step()


def stepped(parts, clip=0.0, scaler=None):
    module = Step(clip)
    optimizer = module.configure_optimizers()
    if scaler is not None:
        module._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
        optimizer = Unscaling(module.layer.parameters(), scaler)
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
    assert (norm is None) == (clip == 0)
    if clip:
        assert norm > clip
        torch.testing.assert_close(same, norm)


def test_scaled_losses_are_clipped_by_their_true_norm():
    plain, wanted = stepped(2, 0.5)
    norm, found = stepped(2, 0.5, torch.amp.GradScaler("cpu", init_scale=1024.0))
    torch.testing.assert_close(norm, plain)
    torch.testing.assert_close(found, wanted)


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
        (logged(gap=1e-5), {"dead"}),
        (logged(spread=0.01), {"collapse"}),
    ],
)
def test_what_is_out_of_balance_is_told(found, kinds):
    told = balance_alarms(found, "the.rate", "the.penalty")
    assert set(told) == kinds
    assert all("the.rate" in s and "the.penalty" in s for s in told.values())


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
