"""DAMSM as a part: trained once on the training split, found by content, shared by runs.

AttnGAN's generator is trained against it, and reads its captions by it (``text=damsm``).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from t2ibench.core.errors import ConfigError, MissingWeightsError, T2IBenchError
from t2ibench.core.files import atomic_path, read_json_object, write_json
from t2ibench.core.hashing import derive_seed, hash_file
from t2ibench.core.ranks import barrier, rank
from t2ibench.core.tensors import read_safetensors, write_safetensors
from t2ibench.engine.assemble import folder_of_part
from t2ibench.engine.build import instantiate
from t2ibench.engine.context import Context
from t2ibench.engine.device import facts
from t2ibench.engine.interrupt import outcome
from t2ibench.engine.parts.clip import pairs_of
from t2ibench.engine.parts.part import Part, Prepared
from t2ibench.engine.parts.resumable import forget_checkpoints, resumable
from t2ibench.engine.parts.text import TextPart, read_vocabulary
from t2ibench.engine.progress import wait_reporter
from t2ibench.engine.spec import ComponentField, Content, Settings, Trained
from t2ibench.evaluation.flops import count_flops
from t2ibench.families.damsm import DAMSM, DAMSMFeatures, FrozenDAMSM
from t2ibench.families.damsm_training import DAMSMPlan, retrieval_in, train_damsm
from t2ibench.interop.files import read_tensors
from t2ibench.runs.clock import Clock
from t2ibench.runs.folder import Run
from t2ibench.text.contract import check_word_tokens
from t2ibench.text.word import build_vocabulary

KEPT = "damsm"
"""Folder in a run's parts with a copy of its DAMSM, and in a DAMSM's own run."""

WEIGHTS, VOCABULARY, CARD = "model.safetensors", "vocabulary.json", "card.json"
"""Files in that folder."""

CARD_PAIRS = 100
"""Validation pairs of the card's retrieval score."""

KEPT_STATE = ("steps", "encoder", "optimizer", "schedule", "batches", "seconds")
"""Names in a checkpoint of a DAMSM's training."""

log = logging.getLogger(__name__)


class DAMSMRecipe(Settings):
    """Recipe of training a DAMSM (``families.damsm_training.DAMSMPlan``)."""

    batch_size: Annotated[int, Field(ge=2), Trained]
    steps: Annotated[int, Field(ge=1), Trained]
    learning_rate: Annotated[float, Field(gt=0), Trained]
    betas: Annotated[list[float], Field(min_length=2, max_length=2), Trained]
    decay: Annotated[float, Field(gt=0, le=1), Trained]
    least_rate: Annotated[float, Field(gt=0, le=1), Trained]
    text_clip_norm: Annotated[float, Field(gt=0), Trained]
    seed: Annotated[int, Field(ge=0), Trained]


class TrainedDAMSM(Part):
    """A DAMSM trained on the run's own training split (``damsm=conv``, ``damsm=inception``).

    Attributes:
        path: file of ImageNet weights of an image encoder that has such; identified by content.
        network: class and arguments of the DAMSM.
        training: training recipe, with a seed of its own.
    """

    weights_in_model: ClassVar[bool] = True

    path: Annotated[str | None, Content]
    network: Annotated[ComponentField, Trained]
    training: DAMSMRecipe

    def identity(self, context: Context) -> dict[str, Any]:
        """Configuration, data and given weights of the DAMSM; nothing of the generator's."""
        found = self.values(Trained) | {"data": context.source.split_fingerprint("train")}
        found["flip"] = context.spec.data.flip
        return found if self.path is None else found | {"weights": hash_file(Path(self.path))}

    def check(self, context: Context) -> None:
        """Makes the networks, so that impossible sizes and missing files are told at once.

        Raises:
            ConfigError: a size is impossible, weights are given to a network that takes none, or
                the text encoder has no vector a word.
            MissingWeightsError: the image encoder's published weights are not there.
        """
        encoder = getattr(context.spec.text, "encoder", None)
        if encoder is not None and context.spec.conditioning == "cross_attention":
            check_word_tokens(encoder.cls, context.spec.model.name)
        network = self._untrained(["a"])
        if not hasattr(network.image, "load_published"):
            if self.path is not None:
                raise ConfigError(
                    f"parts.damsm.path={self.path} and damsm={self.name} begins with random "
                    "weights; leave it out, or choose damsm=inception."
                )
        elif self.path is None or not Path(self.path).is_file():
            raise MissingWeightsError(
                f"damsm={self.name} needs Inception-v3's ImageNet weights: give torchvision's "
                "inception_v3_google-0cc3c7bd.pth as parts.damsm.path=FILE, or choose damsm=conv."
            )

    def prepare(self, context: Context, run: Run) -> Prepared:
        """Trains the DAMSM, or finds it trained."""
        own, clock, kept = self.run(context), Clock(), folder_of_part(run, KEPT)
        with own.locked(wait_reporter(own)), outcome(own):
            own.begin(self.recorded(context))
            if rank() == 0 and not (own.state == "finished" and self._is_whole(own.path / KEPT)):
                self._train(context, own)
            barrier()
            clock.load_state_dict(own.status()["clock"])
        if rank() == 0:
            shutil.copytree(own.path / KEPT, kept, dirs_exist_ok=True)
        barrier()
        damsm = FrozenDAMSM(self._load(kept)).to(context.device)
        found = {"run": own.path.name, "fingerprint": damsm.fingerprint}
        return Prepared(damsm, clock.flops, clock.seconds, found)

    def restore(self, context: Context, run: Run | None) -> nn.Module:
        """Loads the run's copy."""
        if run is not None:
            return FrozenDAMSM(self._load(folder_of_part(run, KEPT))).to(context.device)
        captions = context.source.captions_with_every_word("train")
        return FrozenDAMSM(self._untrained(build_vocabulary(captions)))

    def given(self, module: nn.Module) -> tuple[str, ...]:
        """Phrases for the leaderboard: a DAMSM of the same pairs, and what it began with."""
        said = ("DAMSM trained on the same images and captions",)
        return said if self.path is None else (*said, "Inception-v3 of ImageNet in DAMSM")

    def run(self, context: Context) -> Run:
        """Run folder of the DAMSM."""
        root, label = context.spec.paths.runs, f"damsm-{self.name}"
        return Run.named(root, label, self.identity(context))

    def _untrained(self, vocabulary: Sequence[str]) -> DAMSM:
        """The networks with initial weights, a function of the recipe's seed."""
        torch.manual_seed(derive_seed("init damsm", self.training.seed))
        return instantiate(self.network, vocabulary=list(vocabulary))

    def _load(self, folder: Path) -> DAMSM:
        return load_damsm(self._untrained, folder)

    def _is_whole(self, folder: Path) -> bool:
        try:
            self._load(folder)
        except T2IBenchError as error:
            log.warning("%s The DAMSM is trained again.", error)
            return False
        return True

    def _train(self, context: Context, run: Run) -> None:
        """Trains the DAMSM; an interrupted one continues from its checkpoint.

        Raises:
            Interrupted: a signal ended its training; the same command resumes it.
        """
        source, trainer = context.source, context.spec.trainer
        train = source.split("train")
        recipe = self.training.model_dump()
        batch_size = min(recipe.pop("batch_size"), len(train))
        plan = DAMSMPlan(
            **recipe, epoch_steps=max(1, len(train) // batch_size), flip=context.spec.data.flip
        )
        words = build_vocabulary(c for record in train.records for c in record.captions)
        draw = pairs_of(train, batch_size)
        run.set_status("running")
        run.write_manifest(
            data=source.split_fingerprint("train"), device=facts(context.device, "32-true")
        )

        def trained(steps: int, **more: Any) -> DAMSM:
            network = self._untrained(words)
            if self.path is not None:
                image: Any = network.image
                image.load_published(read_tensors(self.path), self.path)
            chosen = DAMSMPlan(**(vars(plan) | {"steps": steps}))
            return train_damsm(network, draw, chosen, device=context.device, **more)

        step_flops = count_flops(lambda: trained(1))
        network, seconds = resumable(
            run, KEPT_STATE, trainer.checkpoint_every_seconds, partial(trained, plan.steps)
        )
        card: dict[str, Any] = {
            "trained_on": {"data": source.split_fingerprint("train"), "split": "train"},
            "training": self.training.model_dump(mode="json"),
            "network": self.network.config(),
        }
        if "val" in source.splits and source.count("val"):
            val = source.split("val")
            held_out = pairs_of(val, min(CARD_PAIRS, len(val)))(np.random.default_rng(0))
            card[f"r@1-of-{len(set(held_out.captions))}"] = retrieval_in(network, held_out)
        save_damsm(network.state_dict(), words, run.path / KEPT, card)
        clock = Clock(plan.steps * batch_size, step_flops / batch_size, seconds)
        run.set_status("finished", clock=clock.state_dict())
        forget_checkpoints(run)


class PublishedDAMSM(Part):
    """A DAMSM whose weights are in a folder (``damsm=published parts.damsm.path=FOLDER``).

    Attributes:
        path: folder that ``save_damsm`` wrote; identified by its content.
        network: class and arguments of the DAMSM.
    """

    weights_in_model: ClassVar[bool] = True

    path: Annotated[str | None, Content]
    network: Annotated[ComponentField, Trained]

    def identity(self, context: Context) -> dict[str, Any]:
        """Layout and fingerprint of its weights."""
        return self.values(Trained) | {"fingerprint": self._given(context).fingerprint}

    def check(self, context: Context) -> None:
        """Loads the DAMSM, so that missing weights are told before any work.

        Raises:
            MissingWeightsError: there is no folder, or its weights are not those of its card.
        """
        self._given(context)

    def prepare(self, context: Context, run: Run) -> Prepared:
        """Loads the DAMSM; the run gets a copy."""
        damsm = self._given(context).to(context.device)
        if rank() == 0:
            shutil.copytree(str(self.path), folder_of_part(run, KEPT), dirs_exist_ok=True)
        barrier()
        return Prepared(damsm, facts={"fingerprint": damsm.fingerprint})

    def restore(self, context: Context, run: Run | None) -> nn.Module:
        """Loads the run's copy."""
        if run is None:
            return self._given(context)
        kept = folder_of_part(run, KEPT)
        return FrozenDAMSM(load_damsm(self._made, kept)).to(context.device)

    def given(self, module: nn.Module) -> tuple[str, ...]:
        """Phrase for the leaderboard: a pretrained DAMSM."""
        return ("pretrained DAMSM",)

    def _given(self, context: Context) -> Any:
        if self.path is None:
            raise MissingWeightsError(
                "damsm=published needs its folder: give parts.damsm.path=RUN/parts/damsm of a run "
                "that `t2ibench import` wrote."
            )
        folder = Path(self.path)
        return self.read_once(context, lambda: FrozenDAMSM(load_damsm(self._made, folder)))

    def _made(self, vocabulary: Sequence[str]) -> DAMSM:
        return instantiate(self.network, vocabulary=list(vocabulary))


class TextEncoderOfDAMSM(TextPart):
    """The text tower of the model's own DAMSM, frozen (``text=damsm``)."""

    def identity(self, context: Context) -> dict[str, Any]:
        """A constant: the DAMSM is part of the identity by itself."""
        return {"of": "damsm"}

    def check(self, context: Context) -> None:
        """Refuses a model without a DAMSM.

        Raises:
            ConfigError: the model has none.
        """
        if "damsm" not in context.spec.parts:
            raise ConfigError(
                f"text=damsm is the text tower of a model's DAMSM, and model="
                f"{context.spec.model.name} has none; choose another text encoder, or "
                "model=gan/attn_gan."
            )

    def prepare(self, context: Context, run: Run) -> Prepared:
        """Takes the DAMSM's tower."""
        encoder = self.restore(context, run)
        if rank() == 0:
            write_json(run.path / VOCABULARY, None)
        return Prepared(encoder, facts={"fingerprint": encoder.fingerprint})

    def restore(self, context: Context, run: Run | None) -> Any:
        """Takes the DAMSM's tower."""
        return DAMSMFeatures(context.modules["damsm"])  # type: ignore[arg-type]


def save_damsm(
    tensors: Mapping[str, Tensor], words: Sequence[str], folder: Path, card: dict[str, Any]
) -> None:
    """Writes weights, vocabulary and card."""
    with atomic_path(folder / WEIGHTS) as aside:
        write_safetensors(tensors, aside)
    write_json(folder / VOCABULARY, list(words))
    sha256 = {"sha256": hash_file(folder / WEIGHTS)}
    write_json(folder / CARD, sha256 | card)


def load_damsm(make: Callable[[Sequence[str]], DAMSM], folder: Path) -> DAMSM:
    """A DAMSM that ``save_damsm`` wrote.

    Args:
        make: the networks for a vocabulary.
        folder: with its files.

    Raises:
        MissingWeightsError: they are not there.
        MissingWeightsError: the weights are not those of the card.
    """
    if not (folder / WEIGHTS).is_file():
        raise MissingWeightsError(f"{folder} has no DAMSM; restore it, or train the model again.")
    card, sha256 = read_json_object(folder / CARD, "sha256"), hash_file(folder / WEIGHTS)
    if sha256 != card["sha256"]:
        raise MissingWeightsError(
            f"{folder / WEIGHTS} has SHA-256 {sha256[:12]}, its card says {card['sha256'][:12]}; "
            "restore the file or train the model again."
        )
    network = make(read_vocabulary(folder / VOCABULARY))
    network.load_state_dict(read_safetensors(folder / WEIGHTS), strict=True)
    return network.eval().requires_grad_(False)
