"""The first stage of a model: found by hash, trained once, shared by every run that names it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.autoencoders.metrics import reconstruction_scores
from t2ibench.cli.build import FirstStagePlan, cache_root, create, training_options
from t2ibench.cli.compose import to_container, without_paths
from t2ibench.cli.interrupt import Interrupted, outcome
from t2ibench.cli.progress import told_of_wait
from t2ibench.core.hashing import derive_seed
from t2ibench.core.pixels import from_pixels
from t2ibench.core.ranks import barrier, from_first, rank
from t2ibench.core.types import Images
from t2ibench.data.cache import ArrayCache
from t2ibench.data.records import DataSource, PreparedSplit
from t2ibench.data.stream import BatchStream
from t2ibench.runs.clock import Budget, Clock
from t2ibench.runs.folder import Run
from t2ibench.training.fit import fit


def first_stage_run(cfg: DictConfig, plan: FirstStagePlan, source: DataSource) -> Run:
    """The run folder of a first stage: its own configuration, data and seed, nothing else."""
    identity = {
        "first_stage": plan.config,
        "images": plan.images,
        "seed": cfg.first_stage.seed,
        "data": source.fingerprint,
        "precision": cfg.trainer.precision,
    }
    whole = {"first_stage": identity, "data": without_paths(to_container(cfg)["data"])}
    label = f"first_stage-{plan.name}"
    return Run.of(cfg.paths.runs, label, identity, OmegaConf.to_yaml(OmegaConf.create(whole)))


def ready_first_stage(
    cfg: DictConfig, plan: FirstStagePlan, source: DataSource
) -> tuple[FrozenFirstStage, Clock, Run]:
    """Trains the first stage, or finds it trained.

    Returns:
        The frozen stage with its measured latent statistics, what it cost, and its run.

    Raises:
        Interrupted: a signal ended its training; the same command resumes it.
    """
    run = first_stage_run(cfg, plan, source)
    with run.locked(told_of_wait(run)), outcome(run):
        clock = Clock()
        weights = run.path / "checkpoints" / "first_stage.safetensors"
        torch.manual_seed(derive_seed("init first stage", cfg.first_stage.seed))
        module = create(plan.config["module"], resolution=source.resolution)
        module.to(memory_format=torch.channels_last)
        if from_first(lambda: run.state == "finished"):
            clock.load_state_dict(run.status()["clock"])
            return FrozenFirstStage.load(weights, module.autoencoder), clock, run
        train = source.split("train")
        training = plan.config["training"]

        def stream(images_seen: int, number: int, world_size: int) -> BatchStream:
            return BatchStream(
                train,
                batch_size=training["batch_size"],
                seed=derive_seed("first stage", cfg.first_stage.seed),
                images_seen=images_seen,
                rank=number,
                world_size=world_size,
            )

        run.set_status("running")
        run.write_manifest(data=source.fingerprint)
        fitted = fit(
            module,
            stream,
            run,
            Budget("images", plan.images),
            # Small enough to be replicated, whatever the generator's strategy.
            replace(training_options(cfg, training), strategy="auto"),
            cfg.first_stage.seed,
            clock,
        )
        if fitted.signal is not None:
            raise Interrupted(fitted.signal)
        if rank() == 0:
            stage = FrozenFirstStage.measure(averaged(module, run), image_batches(train, 2048))
            stage.save(weights)
            scores = held_out_scores(stage, source)
            run.set_status("finished", clock=clock.state_dict(), reconstruction=scores)
        barrier()
        return FrozenFirstStage.load(weights, module.autoencoder), clock, run


def averaged(module: Any, run: Run) -> Any:
    """The autoencoder with the EMA weights that training saved."""
    from t2ibench.training.checkpoint import load_weights

    load_weights(module, run.weights)
    return module.autoencoder


def held_out_scores(stage: FrozenFirstStage, source: DataSource) -> dict[str, float]:
    """PSNR, SSIM and mean absolute error on the first 1,000 validation images."""
    images = torch.cat(list(image_batches(source.split("val"), 1000)))
    return reconstruction_scores(images, reconstructions(stage, images))


def image_batches(split: PreparedSplit, count: int, batch_size: int = 128) -> Iterator[Images]:
    """The first ``count`` images of a split in [-1, 1]."""
    total = min(count, len(split))
    for start in range(0, total, batch_size):
        yield from_pixels(split.pixels(range(start, min(start + batch_size, total))))


def cached_targets(
    cfg: DictConfig, stage: FrozenFirstStage, split: PreparedSplit, target: str
) -> dict[str, np.ndarray]:
    """Latents or codes of a whole split, computed once for a stage and a data set."""
    cache = ArrayCache(cache_root(cfg) / target)

    def build() -> dict[str, Tensor]:
        encode = stage.encode if target == "latents" else stage.codes
        with torch.no_grad():
            return {target: torch.cat([encode(x) for x in image_batches(split, len(split))])}

    return cache.get_or_build(f"{split.fingerprint}-{stage.fingerprint}-{target}", build)


@torch.no_grad()
def reconstructions(stage: FrozenFirstStage, images: Tensor, batch_size: int = 128) -> Tensor:
    """What the first stage makes of real images: the ceiling of what it can serve."""
    pieces = images.split(batch_size)
    if stage.kind == "vq":
        return torch.cat([stage.decode_codes(stage.codes(x)) for x in pieces])
    return torch.cat([stage.decode(stage.encode(x)) for x in pieces])
