"""A run that signals cut at random steps equals one that was left alone, bit for bit."""

import random
import signal

import pytest
import torch
from omegaconf import OmegaConf
from t2ibench.cli.build import build_source, create, first_stage_plan, training_options
from t2ibench.cli.first_stage import cached_targets
from t2ibench.cli.pipeline import untrained_module, validation_batch
from training.resuming import Ticking, cut_at, differences, kept_state, rows

from t2ibench.cli.compose import compose_config, config_dir, resolve_conditioning
from t2ibench.data.stream import BatchStream
from t2ibench.runs.clock import Budget, Clock
from t2ibench.runs.folder import Run
from t2ibench.training import callbacks
from t2ibench.training.fit import fit

BATCH, STEPS = 4, 7
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def names(folder):
    root = config_dir() / folder
    return sorted(str(p.relative_to(root).with_suffix("")) for p in root.rglob("*.yaml"))


def config(cache, *chosen):
    cfg = compose_config(
        [
            *chosen,
            "data.source.num_train=20",
            "data.source.num_val=4",
            "data.source.num_test=4",
            f"paths.cache={cache}",
            f"paths.runs={cache}/runs",
            "trainer=cpu",
            "trainer.progress=false",
            f"trainer.log_every_images={3 * BATCH}",
            f"trainer.validate_every_images={2 * BATCH}",
        ]
    )
    resolve_conditioning(cfg)
    return cfg


def random_cuts(name):
    """Two random positions with random signals; the same for a name every time."""
    chance = random.Random(name)
    steps = sorted(chance.sample(range(1, STEPS), 2))
    return {step * BATCH: chance.choice(SIGNALS) for step in steps}


def trained(make, root, options, cuts, validation, budget, monkeypatch):
    """Trains, each time with a new module as a new process would, until the budget is spent."""
    run, seen, ends = Run.of(root, "resume", {}, ""), {}, []
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


@pytest.mark.parametrize("model", names("model"))
def test_every_model(model, shared_cache, tmp_path, monkeypatch):
    cfg = config(shared_cache, f"model={model}")

    def make():
        module, source = untrained_module(cfg)
        train, targets = source.split("train"), {}
        if module.trains_on != "image":
            targets = cached_targets(cfg, module.first_stage, train, module.trains_on)

        def batches(images_seen):
            return BatchStream(train, batch_size=BATCH, seed=0, images_seen=images_seen, **targets)

        return module, batches

    options = training_options(cfg, cfg.model.training)
    validation = validation_batch(untrained_module(cfg)[1])
    check_resumed(make, options, tmp_path, monkeypatch, model, validation)


def small_stage(stage):
    """Choices of a first stage with narrow networks and an adversary that enters in the middle."""
    family = "diffusion/ldm" if stage.startswith("kl") else "autoregressive/vqgan_gpt"
    module = OmegaConf.load(config_dir() / "autoencoder" / f"{stage}.yaml").module
    changed = {"discriminator_start_images": 10}
    if "Published" in module.autoencoder._target_:
        changed |= {"autoencoder.groups": 4, "autoencoder.blocks": 1, "discriminator.channels": 4}
        changed["autoencoder.channels"] = [8] * len(module.autoencoder.channels)
    if module.discriminator is None:
        changed = {}
    overrides = [f"first_stage.override.module.{key}={value}" for key, value in changed.items()]
    return [f"model={family}", f"model.first_stage={stage}", *overrides]


@pytest.mark.parametrize("stage", names("autoencoder"))
def test_every_first_stage(stage, shared_cache, tmp_path, monkeypatch):
    cfg = config(shared_cache, *small_stage(stage))
    plan, source = first_stage_plan(cfg), build_source(cfg)

    def make():
        torch.manual_seed(1)
        module = create(plan.config["module"], resolution=source.resolution)

        def batches(images_seen):
            return BatchStream(
                source.split("train"), batch_size=BATCH, seed=0, images_seen=images_seen
            )

        return module, batches

    options = training_options(cfg, plan.config["training"])
    check_resumed(make, options, tmp_path, monkeypatch, stage)


@pytest.mark.parametrize("unit", ["seconds", "flops"])
def test_every_budget(unit, shared_cache, tmp_path, monkeypatch):
    cfg = config(shared_cache, "model=gan/gan_int_cls")
    module, source = untrained_module(cfg)

    def make():
        def batches(images_seen):
            split = source.split("train")
            return BatchStream(split, batch_size=BATCH, seed=0, images_seen=images_seen)

        return untrained_module(cfg)[0], batches

    options = training_options(cfg, cfg.model.training)
    amount = 1.0 + STEPS * 0.25  # the first stage's second and as many ticks as there are steps
    if unit == "flops":
        probe = trained(
            make, tmp_path / "probe", options, {}, None, Budget("images", BATCH), monkeypatch
        )
        amount = 1e6 + STEPS * BATCH * probe[-1].flops_per_image
    check_resumed(make, options, tmp_path, monkeypatch, unit, budget=Budget(unit, amount))
