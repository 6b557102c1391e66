"""The CLIP of a model that is conditioned on one: trained once and found by hash, or published.

A dual encoder trained here sees the training split alone and is shared by every run that names
it. It is no evaluator: those have weights, data and seeds of their own, and the leakage guard
compares the tensors.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from t2ibench.cli.build import cache_root, create
from t2ibench.cli.compose import to_container, without_paths
from t2ibench.cli.interrupt import Interrupted, outcome
from t2ibench.cli.progress import told_of_wait
from t2ibench.core.hashing import derive_seed
from t2ibench.core.pixels import from_pixels
from t2ibench.core.ranks import barrier, rank
from t2ibench.data.cache import ArrayCache
from t2ibench.data.records import DataSource, PreparedSplit
from t2ibench.evaluation.cost import count_flops
from t2ibench.families.frozen_clip import FrozenClip
from t2ibench.metrics.dual_encoder import DualEncoder, Vocabulary
from t2ibench.metrics.dual_encoder_training import (
    ContrastiveBatch,
    TrainingPlan,
    TrainingState,
    acceptance,
    train_dual_encoder,
)
from t2ibench.runs.clock import Clock
from t2ibench.runs.folder import Run
from t2ibench.training.checkpoint import WholeFiles, newest_whole, previous, read_whole
from t2ibench.training.preemption import deferred

MEASURED, TRIED = 2048, 512
"""Training pairs that the statistics rest on, and validation pairs that the card tells of."""


def published_towers(cfg: DictConfig) -> nn.Module | None:
    """The CLIP that ``model.clip.towers`` names, or None where one is trained or none is used.

    Raises:
        MissingWeightsError: its weights are not on this machine.
    """
    node = cfg.model.get("clip")
    return None if node is None or node.towers is None else create(node.towers)


def ready_clip(
    cfg: DictConfig, source: DataSource, run: Run, towers: nn.Module | None
) -> tuple[FrozenClip, Clock, dict[str, Any]]:
    """Trains the model's CLIP or finds it, and measures it on the training split.

    Args:
        cfg: of a model that has ``model.clip``.
        source: the data set.
        run: the model's run, which keeps a copy of a CLIP that is trained here.
        towers: of ``published_towers``.

    Returns:
        The frozen CLIP, what its training cost, and what the run's manifest says of it.
    """
    train, clock = source.split("train"), Clock()
    facts: dict[str, Any] = {}
    if towers is None:
        stage = clip_run(cfg, source)
        with stage.locked(told_of_wait(stage)), outcome(stage):
            if rank() == 0 and stage.state != "finished":
                train_clip(cfg, source, stage)
            barrier()
            clock.load_state_dict(stage.status()["clock"])
        if rank() == 0:
            shutil.copytree(stage.path / "clip", run.path / "clip", dirs_exist_ok=True)
        barrier()
        towers = DualEncoder.load(folder=run.path / "clip")
        facts["run"] = stage.path.name
    clip = FrozenClip(towers)
    cache = ArrayCache(cache_root(cfg) / "clip")
    key = f"{train.fingerprint}-{clip.fingerprint}-{MEASURED}"
    found = cache.get_or_build(key, lambda: embedded(clip, train))
    images, captions = (torch.from_numpy(np.array(found[k])) for k in ("images", "captions"))
    facts["fingerprint"] = clip.fingerprint
    return clip.measure(images, captions), clock, facts


def kept_clip(cfg: DictConfig, run: Run) -> FrozenClip | None:
    """The CLIP of a trained run; its statistics are still to be loaded with the weights.

    Raises:
        MissingWeightsError: the run has lost it, or a published one is not on this machine.
        CheckpointError: its weights are not those of its card.
    """
    if cfg.model.get("clip") is None:
        return None
    return FrozenClip(published_towers(cfg) or DualEncoder.load(folder=run.path / "clip"))


def skeleton_clip(cfg: DictConfig, train: PreparedSplit) -> FrozenClip | None:
    """A CLIP of the right layout with random weights, or a published one; unmeasured."""
    node = cfg.model.get("clip")
    if node is None:
        return None
    towers = published_towers(cfg)
    if towers is None:
        torch.manual_seed(derive_seed("init clip", node.training.seed))
        config = plain(node.config)
        towers = DualEncoder(f"{node.name}-untrained", config, vocabulary_of(config, train))
    return FrozenClip(towers)


def clip_run(cfg: DictConfig, source: DataSource) -> Run:
    """The run folder of a trained CLIP: its own configuration, data and seed, nothing else."""
    identity = {"clip": plain(cfg.model.clip), "data": source.fingerprint}
    whole = identity | {"data": without_paths(to_container(cfg)["data"])}
    label = f"clip-{cfg.model.clip.name}"
    return Run.of(cfg.paths.runs, label, identity, OmegaConf.to_yaml(OmegaConf.create(whole)))


def train_clip(cfg: DictConfig, source: DataSource, run: Run) -> None:
    """Trains the CLIP; an interrupted one goes on from its checkpoint.

    Raises:
        Interrupted: a signal ended its training; the same command resumes it.
    """
    node, train = plain(cfg.model.clip), source.split("train")
    training = dict(node["training"])
    batch_size = min(training.pop("batch_size"), len(train))
    plan = TrainingPlan(**training)
    config, vocabulary = node["config"], vocabulary_of(node["config"], train)
    draw = pairs_of(train, batch_size)
    run.set_status("running")
    run.write_manifest(data=source.fingerprint)
    one = replace(plan, steps=1)
    step_flops = count_flops(
        lambda: train_dual_encoder(run.path.name, config, vocabulary, draw, one)
    )
    found = newest_whole(run.checkpoint)
    resumed = None if found is None else read_whole(found)
    spent = resumed["seconds"] if resumed is not None else 0.0
    began = saved = time.perf_counter()

    with deferred() as stop:

        def keep(state: Callable[[], TrainingState]) -> None:
            nonlocal saved
            now = time.perf_counter()
            if stop.number is None and now - saved < cfg.trainer.checkpoint_every_seconds:
                return
            seconds = {"seconds": spent + now - began}
            WholeFiles().save_checkpoint(state() | seconds, run.checkpoint)
            saved = now
            if stop.number is not None:
                stop.obeyed = True
                raise Interrupted(stop.number)

        encoder = train_dual_encoder(
            run.path.name, config, vocabulary, draw, plan, resumed=resumed, keep=keep
        )
    seconds = spent + time.perf_counter() - began
    card = {"trained_on": {"data": source.fingerprint, "split": "train"}, "training": training}
    encoder.save(run.path / "clip", card | tried(encoder, source))
    clock = Clock(plan.steps * batch_size, step_flops / batch_size, seconds)
    run.set_status("finished", clock=clock.state_dict())
    for checkpoint in (run.checkpoint, previous(run.checkpoint)):
        checkpoint.unlink(missing_ok=True)


def pairs_of(
    split: PreparedSplit, batch_size: int
) -> Callable[[np.random.Generator], ContrastiveBatch]:
    """Draws distinct images, one of their captions each."""

    def draw(rng: np.random.Generator) -> ContrastiveBatch:
        picked = rng.choice(len(split), batch_size, replace=False)
        captions = [split.records[i].captions for i in picked]
        chosen = [some[int(rng.integers(len(some)))] for some in captions]
        return ContrastiveBatch(split.pixels(picked), chosen)

    return draw


def tried(encoder: DualEncoder, source: DataSource) -> dict[str, float]:
    """How well the encoder finds the captions of images that it has not seen."""
    if "val" not in source.splits:
        return {}
    val = source.split("val")
    count = min(TRIED, len(val))
    captions = [record.captions[0] for record in val.records[:count]]
    found = acceptance(encoder, val.pixels(range(count)), captions, captions, [None] * count)
    return {name: value for name, value in found.items() if name != "swapped_accuracy"}


def embedded(clip: FrozenClip, split: PreparedSplit) -> dict[str, Tensor]:
    """Embeddings of the first pairs of a split."""
    count = min(MEASURED, len(split))
    images = [clip.embed_images(from_pixels(split.pixels(rows))) for rows in spans(count, 128)]
    captions = clip.embed_texts([record.captions[0] for record in split.records[:count]])
    return {"images": torch.cat(images), "captions": captions}


def spans(count: int, size: int) -> Iterator[range]:
    """0 .. count - 1 in pieces."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def vocabulary_of(config: dict[str, Any], train: PreparedSplit) -> Vocabulary:
    """The words of the training captions."""
    captions = (caption for record in train.records for caption in record.captions)
    return Vocabulary.of(captions, config["text"]["context_length"])


def plain(node: Any) -> dict[str, Any]:
    """A configuration node as plain containers."""
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]
