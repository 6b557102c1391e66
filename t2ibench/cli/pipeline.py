"""From a configuration to a trained run, and from a run back to its module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.cli.base_run import (
    base_facts,
    charged,
    check_base,
    check_same_base,
    cost_of,
    example_base,
    resolve_base,
)
from t2ibench.cli.build import (
    build_budget,
    build_module,
    build_source,
    build_text_encoder,
    cache_root,
    check_config,
    create,
    first_stage_plan,
    training_options,
    training_vocabulary,
)
from t2ibench.cli.clip_stage import kept_clip, published_towers, ready_clip, skeleton_clip
from t2ibench.cli.compose import identifying, resolve_conditioning, to_container, to_yaml
from t2ibench.cli.first_stage import cached_targets, ready_first_stage
from t2ibench.cli.interrupt import Interrupted, interruptible, outcome
from t2ibench.cli.start_run import begin_with, resolve_start, started_stage
from t2ibench.core.files import read_json, write_json
from t2ibench.core.hashing import derive_seed
from t2ibench.core.pixels import from_pixels
from t2ibench.core.ranks import from_first, rank
from t2ibench.core.types import Batch, TextFeatures
from t2ibench.data.records import DataSource, PreparedSplit
from t2ibench.data.stream import BatchStream
from t2ibench.families.contract import TextToImageModule
from t2ibench.families.frozen_base import BaseText
from t2ibench.runs.clock import Clock
from t2ibench.runs.folder import Run
from t2ibench.text.contract import TextEncoder
from t2ibench.training.checkpoint import load_weights
from t2ibench.training.devices import check_devices
from t2ibench.training.fit import check_accelerator, fit
from t2ibench.training.tracking import track_run

TEXT_ENCODER = "text_encoder"
"""Folder in an imported run: the published text encoder, or its word pieces."""


@dataclass(frozen=True)
class Trained:
    """A run with everything that sampling and scoring need.

    Attributes:
        run: its folder.
        cfg: its configuration.
        source: its data.
        module: the family with EMA weights, in eval mode.
        clock: what training spent.
    """

    run: Run
    cfg: DictConfig
    source: DataSource
    module: TextToImageModule
    clock: Clock


def find_run(cfg: DictConfig) -> Run:
    """The run of a configuration, made if it is new."""
    named_run(cfg)  # what identifies it is resolved
    return Run.of(cfg.paths.runs, label_of(cfg), identifying(cfg), to_yaml(cfg))


def named_run(cfg: DictConfig) -> Run:
    """The run of a configuration, whether or not its folder is there.

    Raises:
        ConfigError: the run that it stands on or starts from is not there.
    """
    resolve_conditioning(cfg)
    resolve_base(cfg, cfg.paths.runs)
    resolve_start(cfg, cfg.paths.runs)
    return Run.named(cfg.paths.runs, label_of(cfg), identifying(cfg))


def label_of(cfg: DictConfig) -> str:
    """The readable part of a run's name."""
    return f"{cfg.model.name.replace('/', '-')}-{cfg.size.name}-seed{cfg.seed}"


@interruptible()
def train_run(cfg: DictConfig) -> Trained:
    """Finds or trains the run of a configuration; its status tells how that ended.

    Raises:
        T2IBenchError: the configuration, the data or the weights cannot be used.
        Interrupted: a signal ended training; the same command resumes it.
    """
    resolve_conditioning(cfg)
    base_run = resolve_base(cfg, cfg.paths.runs)
    check_run(cfg)
    start = resolve_start(cfg, cfg.paths.runs)
    base = None
    if base_run is not None:
        check_base(cfg, base_run)
        base = load_module(base_run)
    source = build_source(cfg)
    plan = first_stage_plan(cfg)
    train = source.split("train")
    vocabulary = None
    if start is not None:
        vocabulary = read_json(start.path / "vocabulary.json")
    elif base is None:
        vocabulary = training_vocabulary(cfg, train)
    encoder = build_text_encoder(cfg, vocabulary) if base is None else BaseText(base)
    towers = published_towers(cfg)
    run = find_run(cfg)
    with run.locked(), outcome(run):
        if from_first(lambda: run.trained):
            return open_run(run, source)
        if rank() == 0:
            write_json(run.path / "vocabulary.json", vocabulary)
        clock, stage, clip = Clock(), None, None
        extra: dict[str, Any] = {}
        if base_run is not None and base is not None:
            clock, extra["base"] = charged(clock, cost_of(base_run)), base_facts(base_run, base)
            check_same_base(run, extra["base"])
        if start is not None:
            clock, extra["start"] = charged(clock, cost_of(start)), start.path.name
            stage = started_stage(skeleton_stage(cfg, source.resolution), start)
        elif plan is not None:
            stage, spent, stage_run = ready_first_stage(cfg, plan, source)
            clock.parts_flops, clock.parts_seconds = spent.flops, spent.seconds
            extra["first_stage"] = stage_run.path.name
        if cfg.model.get("clip") is not None:
            clip, spent, extra["clip"] = ready_clip(cfg, source, run, towers)
            clock.parts_flops += spent.flops
            clock.parts_seconds += spent.seconds
        module = build_module(cfg, encoder, stage, clip, base)
        if start is not None:
            begin_with(module, start)
        targets: dict[str, Any] = {}
        if stage is not None and module.trains_on != "image":
            targets = cached_targets(cfg, stage, train, module.trains_on)
        text = cached_text(cfg, encoder, train)

        def stream(images_seen: int, number: int, world_size: int) -> BatchStream:
            return BatchStream(
                train,
                batch_size=cfg.model.training.batch_size,
                seed=cfg.seed,
                images_seen=images_seen,
                rank=number,
                world_size=world_size,
                flip=bool(cfg.data.flip) and not targets,
                text=text,
                **targets,
            )

        run.set_status("running")
        run.write_manifest(
            data=source.fingerprint, text_encoder=encoder.fingerprint, seed=cfg.seed, **extra
        )
        # Sharded weights stay with the module that was trained.
        whole = copy.deepcopy(module) if cfg.trainer.strategy == "fsdp" else module
        with track_run(to_container(cfg)["logger"]["wandb"], run, to_container(cfg)) as track:
            fitted = fit(
                module,
                stream,
                run,
                build_budget(cfg),
                training_options(cfg, cfg.model.training),
                cfg.seed,
                clock,
                track,
                validation_batch(source),
            )
        if fitted.signal is not None:
            raise Interrupted(fitted.signal)
        load_weights(whole, run.weights)
        run.set_status("trained", clock=fitted.clock.state_dict())
        return Trained(run, cfg, source, whole.eval(), fitted.clock)


def check_run(cfg: DictConfig) -> None:
    """What can be known of a run to be impossible before any work.

    Raises:
        ConfigError: the configuration is impossible, here or anywhere.
    """
    check_config(cfg)
    check_accelerator(cfg.trainer.accelerator, cfg.trainer.devices)
    sizes = [cfg.model.training.batch_size]
    plan = first_stage_plan(cfg)
    if plan is not None:
        sizes.append(plan.config["training"]["batch_size"])
    check_devices(cfg.trainer, sizes)


def validation_batch(source: DataSource, count: int = 64) -> Batch:
    """The first validation images with their first captions."""
    split = source.split("val")
    count = min(count, len(split))
    return Batch(
        from_pixels(split.pixels(slice(0, count))),
        [record.captions[0] for record in split.records[:count]],
        torch.arange(count),
    )


def open_run(run: Run, source: DataSource | None = None) -> Trained:
    """Loads a trained run's module from its own configuration and weights.

    Raises:
        CheckpointError: the run is not trained to its end.
    """
    cfg: Any = OmegaConf.load(run.path / "config.yaml")
    return Trained(run, cfg, source or build_source(cfg), load_module(run), cost_of(run))


def load_module(run: Run) -> TextToImageModule:
    """A trained run's module with EMA weights, in eval mode; the run it stands on below it.

    Raises:
        CheckpointError: the run is not trained to its end, or its base is another since.
        ConfigError: its base is not in the same folder of runs.
    """
    cfg: Any = OmegaConf.load(run.path / "config.yaml")
    base_run, base = resolve_base(cfg, run.path.parent), None
    if base_run is not None:
        base = load_module(base_run)
        check_same_base(run, base_facts(base_run, base))
    encoder = load_text_encoder(run, cfg) if base is None else BaseText(base)
    stage = skeleton_stage(cfg, cfg.data.resolution)
    module = build_module(cfg, encoder, stage, kept_clip(cfg, run), base)
    load_weights(module, run.weights)
    return module.eval()


def cached_text(
    cfg: DictConfig, encoder: TextEncoder, train: PreparedSplit
) -> Callable[..., TextFeatures] | None:
    """A frozen encoder behind its filled disk cache; None where the module encodes as it trains."""
    if not cfg.text.cached:
        return None
    from t2ibench.text.cache import FrozenTextCache

    cache = FrozenTextCache(encoder, cache_root(cfg) / "text")
    cache.warm([caption for record in train.records for caption in record.captions])
    return cache


def untrained_module(cfg: DictConfig) -> tuple[TextToImageModule, DataSource]:
    """The module of a configuration with random weights, its first stage unmeasured."""
    source = build_source(cfg)
    train = source.split("train")
    base = untrained_base(cfg)
    encoder = (
        build_text_encoder(cfg, training_vocabulary(cfg, train)) if base is None else BaseText(base)
    )
    stage, clip = skeleton_stage(cfg, source.resolution), skeleton_clip(cfg, train)
    return build_module(cfg, encoder, stage, clip, base), source


def untrained_base(cfg: DictConfig) -> TextToImageModule | None:
    """The run that ``model.base`` names, or an untrained module like it; None without a base."""
    if "base" not in cfg.model:
        return None
    if cfg.model.base is None:
        return untrained_module(example_base(cfg))[0]
    run = resolve_base(cfg, cfg.paths.runs)
    assert run is not None, "model.base names a run"
    return load_module(run)


def skeleton_stage(cfg: DictConfig, resolution: int) -> FrozenFirstStage | None:
    """A first stage of the right layout, whose weights are still to be loaded."""
    plan = first_stage_plan(cfg)
    if plan is None:
        return None
    torch.manual_seed(derive_seed("init first stage", cfg.first_stage.seed))
    return FrozenFirstStage(create(plan.config["module"], resolution=resolution).autoencoder)


def load_text_encoder(run: Run, cfg: DictConfig) -> TextEncoder:
    """The run's text encoder: with the vocabulary it was trained with, or the one it carries."""
    if (run.path / TEXT_ENCODER).is_dir():
        carry_text_encoder(run, cfg)
    return build_text_encoder(cfg, read_json(run.path / "vocabulary.json"))


def carry_text_encoder(run: Run, cfg: DictConfig) -> Path:
    """Points the configuration to the text encoder in the run's own folder, wherever that lies."""
    folder = run.path / TEXT_ENCODER
    cfg.text.path = cfg.text.encoder.path = str(folder)
    return folder
