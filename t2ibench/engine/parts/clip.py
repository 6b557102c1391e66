"""CLIPs that a model is conditioned on, as parts: trained once and found by content, or published.

A dual encoder trained here sees the training split alone and is shared by every run that names
it. It is no evaluator: those have weights, data and seeds of their own, and the leakage guard
compares the tensors.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from t2ibench.core.errors import T2IBenchError
from t2ibench.core.hashing import derive_seed
from t2ibench.core.pixels import from_pixels
from t2ibench.core.ranks import barrier, rank
from t2ibench.data.cache import ArrayCache
from t2ibench.data.records import DataSource, PreparedSplit
from t2ibench.engine.assemble import folder_of_part
from t2ibench.engine.build import instantiate
from t2ibench.engine.context import Context
from t2ibench.engine.device import facts
from t2ibench.engine.interrupt import outcome
from t2ibench.engine.parts.part import Part, Prepared
from t2ibench.engine.parts.resumable import forget_checkpoints, resumable
from t2ibench.engine.progress import wait_reporter
from t2ibench.engine.spec import ComponentField, Content, Settings, Trained
from t2ibench.evaluation.flops import count_flops
from t2ibench.families.frozen_clip import FrozenClip
from t2ibench.metrics.dual_encoder import DualEncoder, Vocabulary
from t2ibench.metrics.dual_encoder_training import (
    ContrastiveBatch,
    TrainingPlan,
    acceptance,
    train_dual_encoder,
)
from t2ibench.runs.clock import Clock
from t2ibench.runs.folder import Run

STATISTICS_PAIRS, CARD_PAIRS = 2048, 512
"""Number of training pairs of the statistics, and of validation pairs of the card's results."""

EMBEDDED_AT_ONCE = 128
"""Batch size in which images are embedded."""

log = logging.getLogger(__name__)

KEPT_STATE = ("steps", "encoder", "optimizer", "schedule", "batches", "noise", "seconds")
"""Names in a checkpoint of a CLIP's training."""

KEPT = "clip"
"""Folder in a run's parts with a copy of a CLIP that was trained here."""


class ClipRecipe(Settings):
    """Recipe of training a small CLIP (``metrics.dual_encoder_training.TrainingPlan``)."""

    batch_size: Annotated[int, Field(ge=1), Trained]
    steps: Annotated[int, Field(ge=1), Trained]
    learning_rate: Annotated[float, Field(gt=0), Trained]
    warmup_steps: Annotated[int, Field(ge=0), Trained]
    weight_decay: Annotated[float, Field(ge=0), Trained]
    noise: Annotated[float, Field(ge=0), Trained]
    shift: Annotated[int, Field(ge=0), Trained]
    seed: Annotated[int, Field(ge=0), Trained]


class TrainedClip(Part):
    """A small CLIP trained on the run's own training split (``clip=dual_encoder``).

    Attributes:
        network: layout of its towers.
        training: training recipe, with a seed of its own.
    """

    weights_in_model: ClassVar[bool] = True

    network: Annotated[dict[str, Any], Trained]
    training: ClipRecipe

    def identity(self, context: Context) -> dict[str, Any]:
        """Configuration and data of the CLIP; nothing of the generator's."""
        return self.values(Trained) | {"data": context.source.split_fingerprint("train")}

    def prepare(self, context: Context, run: Run) -> Prepared:
        """Trains the CLIP, or finds it trained, and measures it on the training split."""
        own, clock, kept = self.run(context), Clock(), folder_of_part(run, KEPT)
        with own.locked(wait_reporter(own)), outcome(own):
            own.begin(self.recorded(context))
            if rank() == 0 and not (own.state == "finished" and is_whole(own.path / KEPT)):
                train_clip(self, context, own)
            barrier()
            clock.load_state_dict(own.status()["clock"])
        if rank() == 0:
            shutil.copytree(own.path / KEPT, kept, dirs_exist_ok=True)
        barrier()
        clip = FrozenClip(DualEncoder.load(folder=kept)).to(context.device)
        found = {"run": own.path.name, "fingerprint": clip.fingerprint}
        return Prepared(with_statistics(clip, context), clock.flops, clock.seconds, found)

    def restore(self, context: Context, run: Run | None) -> nn.Module:
        """Loads the run's copy; its statistics are among the model's weights."""
        if run is not None:
            return FrozenClip(DualEncoder.load(folder=folder_of_part(run, KEPT)))
        torch.manual_seed(derive_seed("init clip", self.training.seed))
        captions = context.source.captions_with_every_word("train")
        words = Vocabulary.of(captions, self.network["text"]["context_length"])
        return FrozenClip(DualEncoder(f"{self.name}-untrained", self.network, words))

    def given(self, module: nn.Module) -> tuple[str, ...]:
        """Phrase for the leaderboard: a CLIP trained on the same pairs."""
        return ("CLIP trained on the same images and captions",)

    def run(self, context: Context) -> Run:
        """Run folder of the CLIP."""
        root, label = context.spec.paths.runs, f"clip-{self.name}"
        return Run.named(root, label, self.identity(context))


class PublishedClip(Part):
    """A published CLIP, frozen (``clip=published parts.clip.path=FOLDER``).

    Attributes:
        path: folder of its files, passed to the towers; identified by its content.
        towers: class and arguments of the network.
    """

    weights_in_model: ClassVar[bool] = True

    path: Annotated[str | None, Content]
    towers: Annotated[ComponentField, Content]

    def identity(self, context: Context) -> dict[str, Any]:
        """Fingerprint of its weights."""
        return {"fingerprint": self._towers(context).fingerprint}

    def check(self, context: Context) -> None:
        """Loads the CLIP, so that missing weights are reported before any work."""
        self._towers(context)

    def prepare(self, context: Context, run: Run) -> Prepared:
        """Loads the towers and measures them on the training split."""
        clip = FrozenClip(self._towers(context)).to(context.device)
        return Prepared(with_statistics(clip, context), facts={"fingerprint": clip.fingerprint})

    def restore(self, context: Context, run: Run | None) -> nn.Module:
        """Loads the same towers; their statistics are among the model's weights."""
        return FrozenClip(self._towers(context))

    def given(self, module: nn.Module) -> tuple[str, ...]:
        """Phrase for the leaderboard: a pretrained CLIP."""
        return (f"pretrained CLIP {self.path or self.name}",)

    def _towers(self, context: Context) -> Any:
        """The towers, loaded at first use and kept."""
        return self.read_once(context, lambda: instantiate(self.towers))


def is_whole(folder: Path) -> bool:
    """True where a trained CLIP can be loaded; else a warning says why it is trained again."""
    try:
        DualEncoder.load(folder=folder)
    except T2IBenchError as error:
        log.warning("%s The CLIP is trained again.", error)
        return False
    return True


def train_clip(part: TrainedClip, context: Context, run: Run) -> None:
    """Trains the CLIP; an interrupted one continues from its checkpoint.

    Raises:
        Interrupted: a signal ended its training; the same command resumes it.
    """
    source, trainer = context.source, context.spec.trainer
    train = source.split("train")
    recipe = part.training.model_dump()
    batch_size = min(recipe.pop("batch_size"), len(train))
    plan = TrainingPlan(**recipe)
    vocabulary, draw = vocabulary_of(part.network, train), pairs_of(train, batch_size)
    run.set_status("running")
    run.write_manifest(
        data=source.split_fingerprint("train"), device=facts(context.device, "32-true")
    )

    def trained(chosen: TrainingPlan, **more: Any) -> DualEncoder:
        device = str(context.device)
        name = run.path.name
        return train_dual_encoder(
            name, part.network, vocabulary, draw, chosen, device=device, **more
        )

    step_flops = count_flops(lambda: trained(replace(plan, steps=1)))
    encoder, seconds = resumable(
        run, KEPT_STATE, trainer.checkpoint_every_seconds, partial(trained, plan)
    )
    card = {
        "trained_on": {"data": source.split_fingerprint("train"), "split": "train"},
        "training": recipe,
    }
    encoder.save(run.path / KEPT, card | heldout_retrieval(encoder.to(context.device), source))
    clock = Clock(plan.steps * batch_size, step_flops / batch_size, seconds)
    run.set_status("finished", clock=clock.state_dict())
    forget_checkpoints(run)


def pairs_of(
    split: PreparedSplit, batch_size: int
) -> Callable[[np.random.Generator], ContrastiveBatch]:
    """Makes a function that draws distinct images, each with one of its captions."""

    def draw(rng: np.random.Generator) -> ContrastiveBatch:
        picked = rng.choice(len(split), batch_size, replace=False)
        captions = [split.records[i].captions for i in picked]
        chosen = [some[int(rng.integers(len(some)))] for some in captions]
        return ContrastiveBatch(split.pixels(picked), chosen)

    return draw


def heldout_retrieval(encoder: DualEncoder, source: DataSource) -> dict[str, float]:
    """Retrieval scores of the encoder on validation images and their captions."""
    if "val" not in source.splits:
        return {}
    val = source.split("val")
    count = min(CARD_PAIRS, len(val))
    captions = [record.captions[0] for record in val.records[:count]]
    found = acceptance(encoder, val.pixels(range(count)), captions, captions, [None] * count)
    return {name: value for name, value in found.items() if name != "swapped_accuracy"}


def with_statistics(clip: FrozenClip, context: Context) -> FrozenClip:
    """The CLIP with its statistics on the training split, which are cached."""
    train = context.source.split("train")
    cache = ArrayCache(Path(context.spec.paths.cache) / "clip")
    key = f"{train.fingerprint}-{clip.fingerprint}-{STATISTICS_PAIRS}"
    found = cache.get_or_build(key, lambda: embedded(clip, train, context.device))
    images, captions = (
        torch.from_numpy(np.array(found[k])).to(context.device) for k in ("images", "captions")
    )
    return clip.measure(images, captions)


def embedded(clip: FrozenClip, split: PreparedSplit, device: torch.device) -> dict[str, Tensor]:
    """Embeddings of the first pairs of a split, on the CPU."""
    count, images = min(STATISTICS_PAIRS, len(split)), []
    for start in range(0, count, EMBEDDED_AT_ONCE):
        rows = range(start, min(start + EMBEDDED_AT_ONCE, count))
        images.append(clip.embed_images(from_pixels(split.pixels(rows)).to(device)).cpu())
    captions = clip.embed_texts([record.captions[0] for record in split.records[:count]])
    return {"images": torch.cat(images), "captions": captions.cpu()}


def vocabulary_of(network: dict[str, Any], train: PreparedSplit) -> Vocabulary:
    """The words of the training captions."""
    captions = (caption for record in train.records for caption in record.captions)
    return Vocabulary.of(captions, network["text"]["context_length"])
