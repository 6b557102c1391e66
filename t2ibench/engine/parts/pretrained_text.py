"""A text encoder that is trained with images before the model, and found by content."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from t2ibench.core.errors import CheckpointError
from t2ibench.core.files import write_json
from t2ibench.core.hashing import derive_seed
from t2ibench.core.ranks import barrier, from_first, rank
from t2ibench.core.tensors import read_safetensors
from t2ibench.data.stream import BatchStream
from t2ibench.engine.assemble import folder_of_part
from t2ibench.engine.build import instantiate
from t2ibench.engine.context import Context
from t2ibench.engine.device import facts
from t2ibench.engine.fitting import options_of
from t2ibench.engine.interrupt import Interrupted, outcome
from t2ibench.engine.parts.first_stage import FirstStageRecipe
from t2ibench.engine.parts.part import Prepared
from t2ibench.engine.parts.text import CARRIED, VOCABULARY, TextPart
from t2ibench.engine.progress import wait_reporter
from t2ibench.engine.spec import ComponentField, Trained
from t2ibench.runs.clock import Budget, Clock
from t2ibench.runs.folder import Run
from t2ibench.training.checkpoint import load_weights, save_weights
from t2ibench.training.fit import fit

log = logging.getLogger(__name__)

WEIGHTS = "encoder.safetensors"
"""File of a trained encoder, in its own run and in those that use it."""


class PretrainedTextEncoder(TextPart):
    """A text encoder trained on the run's own training split, then frozen (``text=char_cnn_rnn``).

    Generators of all seeds and families that name it share one.

    Attributes:
        seed: seed of its training.
        training: training recipe.
        encoder: class and arguments of the frozen encoder (``text.frozen.FrozenTextEncoder``).
        module: what trains the encoder's network, called with ``encoder``.
    """

    seed: Annotated[int, Field(ge=0), Trained]
    training: FirstStageRecipe
    encoder: Annotated[ComponentField, Trained]
    module: Annotated[ComponentField, Trained]

    def identity(self, context: Context) -> dict[str, Any]:
        """Configuration, data and precision of the encoder; nothing of the generator's."""
        return self.values(Trained) | {
            "data": context.source.split_fingerprint("train"),
            "resolution": context.spec.data.resolution,
            "precision": context.spec.trainer.precision,
        }

    def check(self, context: Context) -> None:
        """Makes the encoder and its trainer, so that impossible sizes are told before any work."""
        self._trainer(self.stand_in(context))

    def stand_in(self, context: Context) -> Any:
        """The encoder with initial weights."""
        torch.manual_seed(derive_seed("init text", self.seed))
        return instantiate(self.encoder)

    def prepare(self, context: Context, run: Run) -> Prepared:
        """Trains the encoder, or finds it trained, and copies it into the run."""
        kept = folder_of_part(run, CARRIED)
        if rank() == 0:
            write_json(run.path / VOCABULARY, None)
        if context.start is not None:
            encoder = self.restore(context, context.start)
            return Prepared(encoder, facts={"fingerprint": encoder.fingerprint})
        own, clock = self.run(context), Clock()
        weights = own.path / "checkpoints" / WEIGHTS
        with own.locked(wait_reporter(own)), outcome(own):
            own.begin(self.recorded(context))
            if from_first(lambda: own.state == "finished" and is_whole(weights)):
                clock.load_state_dict(own.status()["clock"])
            else:
                self._train(context, own, clock)
        if rank() == 0:
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(weights, kept / WEIGHTS)
        barrier()
        encoder = self._with_weights(context, kept / WEIGHTS)
        found = {"run": own.path.name, "fingerprint": encoder.fingerprint}
        return Prepared(encoder, clock.flops, clock.seconds, found)

    def restore(self, context: Context, run: Run | None) -> nn.Module:
        """Loads the run's copy, or makes an untrained encoder."""
        if run is None:
            return self.stand_in(context)
        return self._with_weights(context, folder_of_part(run, CARRIED) / WEIGHTS)

    def given(self, module: nn.Module) -> tuple[str, ...]:
        """Phrase for the leaderboard: an encoder trained with the same images before."""
        return (f"text encoder {self.name} trained on the same images and captions",)

    def run(self, context: Context) -> Run:
        """Run folder of the encoder."""
        root, label = context.spec.paths.runs, f"text-{self.name}"
        return Run.named(root, label, self.identity(context))

    def _with_weights(self, context: Context, weights: Path) -> Any:
        encoder = self.stand_in(context)
        load_weights(encoder.backbone, weights)
        return encoder.to(context.device)

    def _trainer(self, encoder: Any) -> Any:
        torch.manual_seed(derive_seed("init text trainer", self.seed))
        return instantiate(self.module, encoder=encoder)

    def _train(self, context: Context, own: Run, clock: Clock) -> None:
        """Trains the encoder's network on the training split.

        Raises:
            Interrupted: a signal ended its training; the same command resumes it.
        """
        spec, train = context.spec, context.source.split("train")
        module = self._trainer(self.stand_in(context)).to(memory_format=torch.channels_last)

        def stream(images_seen: int, number: int, world_size: int) -> BatchStream:
            return BatchStream(
                train,
                batch_size=self.training.batch_size,
                seed=derive_seed("text", self.seed),
                images_seen=images_seen,
                rank=number,
                world_size=world_size,
            )

        own.set_status("running")
        own.write_manifest(
            data=context.source.split_fingerprint("train"),
            device=facts(context.device, spec.trainer.precision),
        )
        # Small enough to be replicated, whatever the generator's strategy.
        options = replace(options_of(context, self.training), strategy="auto")
        budget = Budget("images", self.training.images)
        fitted = fit(module, stream, own, budget, options, self.seed, clock)
        if fitted.signal is not None:
            raise Interrupted(fitted.signal)
        load_weights(module, own.weights)
        save_weights(module.text, own.path / "checkpoints" / WEIGHTS)
        if rank() == 0:
            own.set_status("finished", clock=clock.state_dict())
        barrier()


def is_whole(weights: Path) -> bool:
    """True where a trained encoder can be read; else a warning says why it is made again."""
    try:
        read_safetensors(weights)
    except CheckpointError as error:
        log.warning("%s It is made again, from its checkpoint where there is one.", error)
        return False
    return True
