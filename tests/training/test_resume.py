"""A run that signals cut at random steps equals one that was left alone, bit for bit."""

import random
import signal

import pytest
import torch
import yaml
from contract.models import MODELS, Case
from training.resuming import Ticking, cut_at, differences, kept_state, rows

from t2ibench.cli.compose import compose_spec, config_files
from t2ibench.data.stream import BatchStream
from t2ibench.engine.build import instantiate
from t2ibench.engine.context import Context
from t2ibench.engine.fitting import cached_targets, options_of, validation_batch
from t2ibench.runs.clock import Budget, Clock
from t2ibench.runs.folder import Run
from t2ibench.training import callbacks
from t2ibench.training.fit import fit

BATCH, STEPS = 4, 7
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


FILES = {n: yaml.safe_load(path.read_text()) for n, path in config_files("autoencoder").items()}
STAGES = {name: file["module"] for name, file in FILES.items() if "module" in file}
"""First stages that are trained."""

OFTEN = [f"trainer.log_every_images={3 * BATCH}", f"trainer.validate_every_images={2 * BATCH}"]


def random_cuts(name):
    """Two random positions with random signals; the same for a name every time."""
    chance = random.Random(name)
    steps = sorted(chance.sample(range(1, STEPS), 2))
    return {step * BATCH: chance.choice(SIGNALS) for step in steps}


def trained(make, root, options, cuts, validation, budget, monkeypatch):
    """Trains, each time with a new module as a new process would, until the budget is spent."""
    run, seen, ends = Run.named(root, "resume", {}).begin({}), {}, []
    monkeypatch.setattr(callbacks, "time", Ticking())
    for _ in range(1 + len(cuts)):
        module, batches = make()

        def stream(images_seen, rank, world_size, batches=batches):
            return cut_at(batches(images_seen), images_seen, cuts, seen)

        clock = Clock(parts_flops=1e6, parts_seconds=1.0)
        fitted = fit(
            module, stream, run, budget, options, seed=3, clock=clock, validation=validation
        )
        ends.append(fitted.signal)
    return run, seen, ends, fitted.clock


def check_resumed(make, options, tmp_path, monkeypatch, name, validation=None, budget=None):
    """Cut twice or not at all: the same checkpoint, curves, weights, clock and batches."""
    cuts = random_cuts(name)
    budget = budget or Budget("images", STEPS * BATCH)
    numbers = [cuts[position] for position in sorted(cuts)]
    results = [
        trained(make, tmp_path / where, options, dict(some), validation, budget, monkeypatch)
        for where, some in (("whole", {}), ("cut", cuts))
    ]
    (whole, seen, _, clock), (cut, seen_again, ends, clock_again) = results
    assert ends == [*numbers, None]
    assert differences(kept_state(whole), kept_state(cut)) == []
    assert whole.weights.read_bytes() == cut.weights.read_bytes()
    assert clock == clock_again and clock.images_seen == STEPS * BATCH
    assert {k: v for k, v in seen_again.items() if k in seen} == seen
    for curve in ("metrics.csv", "validation.csv"):
        assert rows(whole, curve) == rows(cut, curve)
    assert [int(row["images_seen"]) for row in rows(cut, "metrics.csv")] == [12, 24, 28]


@pytest.mark.parametrize("model", MODELS)
def test_every_model(model, shared_cache, tmp_path, monkeypatch):
    case = Case(model, None, shared_cache, *OFTEN)
    train = case.source.split("train").first(20)

    def make():
        module = case.module()
        targets = cached_targets(case.composed, module, train)

        def batches(images_seen):
            return BatchStream(
                train, batch_size=BATCH, seed=0, images_seen=images_seen, targets=targets
            )

        return module, batches

    options = options_of(case.composed, case.spec.model.training)
    validation = validation_batch(case.source, 4)
    check_resumed(make, options, tmp_path, monkeypatch, model, validation)


def small_stage(stage):
    """Choices of a first stage with narrow networks and an adversary that enters in the middle."""
    family = "diffusion/fast_unet" if stage.startswith("kl") else "autoregressive/fast_gpt"
    module = STAGES[stage]
    changed = {"discriminator_start_images": 10}
    if "Published" in module["autoencoder"]["_target_"]:
        changed |= {"autoencoder.groups": 4, "autoencoder.blocks": 1, "discriminator.channels": 4}
        changed["autoencoder.channels"] = [8] * len(module["autoencoder"]["channels"])
    if module["discriminator"] is None:
        changed = {}
    overrides = [f"parts.first_stage.module.{key}={value}" for key, value in changed.items()]
    return [f"model={family}", f"autoencoder={stage}", *overrides]


@pytest.mark.parametrize("stage", STAGES)
def test_every_first_stage(stage, shared_cache, tmp_path, monkeypatch):
    small = ["trainer=cpu", "trainer.progress=false", *OFTEN, f"paths.cache={shared_cache}"]
    small += ["data.source.num_train=20", "data.source.num_val=4", "data.source.num_test=4"]
    context = Context(compose_spec([*small_stage(stage), *small]))
    part, source = context.spec.parts["first_stage"], context.source

    def make():
        torch.manual_seed(1)
        module = instantiate(part.module, resolution=source.resolution)

        def batches(images_seen):
            return BatchStream(
                source.split("train"), batch_size=BATCH, seed=0, images_seen=images_seen
            )

        return module, batches

    options = options_of(context, part.training)
    check_resumed(make, options, tmp_path, monkeypatch, stage)


@pytest.mark.parametrize("unit", ["seconds", "flops"])
def test_every_budget(unit, shared_cache, tmp_path, monkeypatch):
    case = Case("gan/fast_painter", None, shared_cache, *OFTEN)
    train = case.source.split("train").first(20)

    def make():
        def batches(images_seen):
            return BatchStream(train, batch_size=BATCH, seed=0, images_seen=images_seen)

        return case.module(), batches

    options = options_of(case.composed, case.spec.model.training)
    amount = 1.0 + STEPS * 0.25  # the first stage's second and as many ticks as there are steps
    if unit == "flops":
        probe = trained(
            make, tmp_path / "probe", options, {}, None, Budget("images", BATCH), monkeypatch
        )
        amount = 1e6 + STEPS * BATCH * probe[-1].flops_per_image
    check_resumed(make, options, tmp_path, monkeypatch, unit, budget=Budget(unit, amount))
