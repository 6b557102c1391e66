"""Training on the images-seen clock: budgets, resume, signals, EMA, guards."""

import csv
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training.painter import OPTIONS, WORDS, Painter, make_run, make_split, painter, train

from t2ibench.core.errors import BudgetError, CheckpointError, NonFiniteLossError
from t2ibench.core.files import read_json
from t2ibench.core.types import Batch
from t2ibench.runs.clock import Budget, Clock
from t2ibench.runs.folder import Run
from t2ibench.training.callbacks import LearningRate
from t2ibench.training.checkpoint import load_weights, newest_whole


@pytest.fixture
def split():
    return make_split()


def test_images_budget_stops_exactly(split, tmp_path):
    _, _, fitted = train(split, tmp_path, Budget("images", 80))
    assert fitted.clock.images_seen == 80
    assert fitted.clock.flops_per_image > 0


class Watching(Painter):
    """Notes the clock that it may read in its steps."""

    def training_step(self, batch, batch_idx):
        self.told.append(self.images_seen)
        return super().training_step(batch, batch_idx)


def test_a_module_reads_the_clock_also_when_it_goes_on(split, tmp_path):
    told = []
    for wrap in (interrupt_after(signal.SIGUSR1, 2), None):
        module = painter()
        module.__class__, module.told = Watching, told
        train(split, tmp_path, Budget("images", 40), module=module, each_batch=wrap)
    assert told == [0, 8, 16, 24, 32]


def test_flops_budget_charges_the_first_stage(split, tmp_path):
    _, _, probe = train(split, tmp_path, Budget("images", 8), "probe")
    per_image = probe.clock.flops_per_image
    budget = Budget("flops", per_image * 100)
    _, _, free = train(split, tmp_path, budget, "free")
    clock = Clock(parts_flops=per_image * 40)
    _, _, charged = train(split, tmp_path, budget, "charged", clock=clock)
    assert free.clock.images_seen == 104  # the first multiple of the batch that reaches 100
    assert charged.clock.images_seen == 64


def test_first_stage_dearer_than_the_budget_is_one_sentence(split, tmp_path):
    clock = Clock(parts_flops=1e30)
    with pytest.raises(BudgetError, match="first stage or base alone"):
        train(split, tmp_path, Budget("flops", 1e6), clock=clock)


def interrupt_after(number, when):
    def wrap(batches):
        for i, batch in enumerate(batches):
            if i == when:
                os.kill(os.getpid(), number)
            yield batch

    return wrap


def with_no_checkpoint_mapped(batches):
    """The batches, while no checkpoint is part of this process's memory (told by Linux alone)."""
    for batch in batches:
        maps = Path("/proc/self/maps")
        assert not maps.exists() or ".ckpt" not in maps.read_text()
        yield batch


@pytest.mark.parametrize("when", [1, 4, 7])
def test_resumed_equals_uninterrupted(split, tmp_path, when):
    budget = Budget("images", 96)
    whole, module, _ = train(split, tmp_path, budget, "whole")
    run, _, first = train(
        split, tmp_path, budget, "cut", each_batch=interrupt_after(signal.SIGTERM, when)
    )
    assert first.interrupted
    # Batch `when` was only fetched.
    assert newest_whole(run.checkpoint).clock["images_seen"] == 8 * when
    _, resumed, second = train(split, tmp_path, budget, "cut", each_batch=with_no_checkpoint_mapped)
    assert not second.interrupted and second.clock.images_seen == 96
    for (name, a), b in zip(
        module.state_dict().items(), resumed.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert whole.weights.read_bytes() == run.weights.read_bytes()


def test_signals_are_given_back(split, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(split, tmp_path, Budget("images", 16))
    assert signal.getsignal(signal.SIGTERM) is before


def test_killed_between_last_checkpoint_and_export(split, tmp_path):
    budget = Budget("images", 48)
    run, _, _ = train(split, tmp_path, budget)
    expected = run.weights.read_bytes()
    run.weights.unlink()
    train(split, tmp_path, budget)
    assert run.weights.read_bytes() == expected


def test_exported_weights_are_the_average(split, tmp_path):
    run, module, _ = train(split, tmp_path, Budget("images", 80))
    live = module.paint.weight.detach().clone()
    load_weights(module, run.weights)
    assert not torch.equal(live, module.paint.weight)
    run, module, _ = train(
        split,
        tmp_path,
        Budget("images", 80),
        "no-ema",
        options=replace(OPTIONS, ema_half_life_images=0),
    )
    live = module.paint.weight.detach().clone()
    load_weights(module, run.weights)
    assert torch.equal(live, module.paint.weight)


def test_non_finite_loss_names_the_images(split, tmp_path):
    with pytest.raises(NonFiniteLossError, match="became NaN or infinite between 16 and 32"):
        train(split, tmp_path, Budget("images", 80), module=painter(explode_after=2))


def test_corrupt_checkpoint_is_one_sentence(split, tmp_path):
    run = make_run(tmp_path)
    run.checkpoint.parent.mkdir(parents=True)
    run.checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="delete it"):
        train(split, tmp_path, Budget("images", 16))


def test_weights_of_another_shape_are_refused(split, tmp_path):
    run, _, _ = train(split, tmp_path, Budget("images", 8))
    other = painter()
    other.paint = nn.Linear(5, 5)
    with pytest.raises(CheckpointError, match="2 of another shape"):
        load_weights(other, run.weights)


def test_learning_curves_are_written(split, tmp_path):
    run, _, _ = train(split, tmp_path, Budget("images", 64))
    lines = (run.path / "metrics.csv").read_text().splitlines()
    assert lines[0].split(",")[:3] == ["images_seen", "flops", "seconds"]
    assert [int(line.split(",")[0]) for line in lines[1:]] == [16, 32, 48, 64]


def test_warmup_and_cosine(split, tmp_path):
    rates = []

    class Watched(Painter):
        def training_step(self, batch, batch_idx):
            rates.append(self.optimizers().param_groups[0]["lr"])
            return super().training_step(batch, batch_idx)

    module = painter()
    module.__class__ = Watched
    train(split, tmp_path, Budget("images", 80), module=module)
    assert rates[0] == pytest.approx(1e-2 / 32)
    assert max(rates) == rates[4]
    assert rates[-1] == pytest.approx(1e-2 * 0.5 * (1 + np.cos(np.pi * 0.9)), rel=1e-4)


@pytest.mark.parametrize(
    ("decay", "wanted"),
    [
        ("constant", [1, 1, 1, 1, 1, 1]),
        ("linear", [1, 7 / 8, 2 / 3, 1 / 2, 1 / 6, 0]),
        ("cosine", [1, np.cos(np.pi / 16) ** 2, 3 / 4, 1 / 2, np.sin(np.pi / 12) ** 2, 0]),
        ("halving", [1, 1, 1 / 4, 1 / 8, 1 / 32, 1 / 32]),
    ],
)
def test_learning_rates_fall_with_the_budget(decay, wanted):
    clock = Clock()
    rate = LearningRate(clock, Budget("images", 240), 0, decay)
    found = []
    for images in (0, 30, 80, 120, 200, 240):
        clock.images_seen = images
        found.append(rate.factor())
    assert found == pytest.approx(wanted, abs=1e-6)


def test_status_survives_as_json(tmp_path):
    run = make_run(tmp_path)
    run.set_status("failed", reason="because")
    assert read_json(run.path / "status.json")["reason"] == "because"
    assert Run.at(run.path).state == "failed"


def validation_rows(run):
    with open(run.path / "validation.csv", newline="") as file:
        return [(int(r["images_seen"]), float(r["val_loss"])) for r in csv.DictReader(file)]


def test_validation_losses_are_measured_at_intervals_and_change_nothing(split, tmp_path):
    fixed = Batch(torch.zeros(4, 3, 8, 8), WORDS, torch.arange(4))
    options = replace(OPTIONS, validate_every_images=32)
    run, watched, fitted = train(
        split, tmp_path, Budget("images", 96), "watched", options=options, validation=fixed
    )
    _, alone, _ = train(split, tmp_path, Budget("images", 96), "alone")
    for mine, theirs in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    rows = validation_rows(run)
    assert [images for images, _ in rows] == [32, 64, 96]
    assert rows[-1][1] < rows[0][1], "zeros are nearer to the mean image than the start is"
    last = watched.validation_losses(fixed)["val_loss"].item()
    assert rows[-1][1] == pytest.approx(last, abs=1e-6)


def test_without_an_interval_there_is_no_validation(split, tmp_path):
    fixed = Batch(torch.zeros(4, 3, 8, 8), WORDS, torch.arange(4))
    run, _, _ = train(split, tmp_path, Budget("images", 32), validation=fixed)
    assert not (run.path / "validation.csv").exists()


@pytest.mark.slow
def test_compiled_training_is_training(split, tmp_path):
    options = replace(OPTIONS, compile=True)
    run, compiled, fitted = train(split, tmp_path, Budget("images", 64), "fast", options=options)
    _, plain, alone = train(split, tmp_path, Budget("images", 64), "plain")
    assert compiled.paint._compiled_call_impl is not None
    assert fitted.clock.flops_per_image == alone.clock.flops_per_image > 0
    for (name, mine), theirs in zip(compiled.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, msg=name)
    again = painter()
    load_weights(again, run.weights)
