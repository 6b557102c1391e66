"""Text encoders as parts: configured, of a cascade's base, or of another run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from t2ibench.core.errors import ConfigError, ContentError, RunError, T2IBenchError
from t2ibench.core.files import read_json, write_json
from t2ibench.core.hashing import derive_seed
from t2ibench.core.ranks import rank
from t2ibench.data.records import PreparedSplit
from t2ibench.engine.assemble import folder_of_part
from t2ibench.engine.build import instantiate
from t2ibench.engine.components import Component
from t2ibench.engine.context import Context
from t2ibench.engine.parts.part import Part, Prepared
from t2ibench.engine.references import check_trained, locate_run, module_of, run_below
from t2ibench.engine.spec import ComponentField, Content, Trained
from t2ibench.families.frozen_base import BaseText
from t2ibench.runs.folder import Run
from t2ibench.runs.status import ANEW
from t2ibench.text.word import build_vocabulary

log = logging.getLogger(__name__)

VOCABULARY = "vocabulary.json"
"""File in a run: the words of its encoder in order, or null."""

CARRIED = "text_encoder"
"""Folder in a run's parts: the weights or word pieces of an encoder that travels with it."""

OF_RUN = "text_of_run"
"""Folder in a run's parts: an exported run's copy of the run whose encoder it uses."""

KEY = "text.run"
"""Configuration key under which a user names the run whose encoder is used."""


class TextPart(Part):
    """A part whose module is a text encoder."""

    def content(self, module: Any) -> str | None:
        """Fingerprint of a frozen encoder; None for a trained one, which is in the state dict."""
        return None if module.trainable else module.fingerprint


class ConfiguredTextEncoder(TextPart):
    """The text encoder that a file of conf/text describes.

    Attributes:
        path: folder of its files, passed to the encoder; identified by their content.
        encoder: class and arguments of the encoder.
    """

    path: Annotated[str | None, Content] = None
    encoder: Annotated[ComponentField, Trained]

    def identity(self, context: Context) -> dict[str, Any]:
        """Layout of an encoder that is trained along; weights and tokeniser of a frozen one.

        A vocabulary is a function of the training captions, which are part of the identity.
        """
        if self.encoder.cls.needs_vocabulary:
            return {"layout": self.encoder.values(Trained)}
        return {"fingerprint": self._encoder(context).fingerprint}

    def check(self, context: Context) -> None:
        """Makes the encoder, so that missing files and impossible sizes are told before any work.

        Raises:
            T2IBenchError: the encoder refuses its arguments, or its files are missing.
        """
        self.stand_in(context)

    def stand_in(self, context: Context) -> Any:
        """The encoder; one that is made with a vocabulary gets a word of its own for it."""
        if self.encoder.cls.needs_vocabulary:
            return built_encoder(self.encoder, ["a"], context.spec.seed)
        return self._encoder(context)

    def prepare(self, context: Context, run: Run) -> Prepared:
        """Loads the encoder onto the device and writes its vocabulary into the run."""
        if context.start is not None:
            encoder = self.restore(context, context.start)
        else:
            encoder = self._encoder(context)
        if rank() == 0:
            words = getattr(getattr(encoder, "tokenizer", None), "vocabulary", None)
            write_json(run.path / VOCABULARY, words if self.encoder.cls.needs_vocabulary else None)
        return Prepared(encoder.to(context.device), facts={"fingerprint": encoder.fingerprint})

    def restore(self, context: Context, run: Run | None) -> nn.Module:
        """Restores the encoder with the run's vocabulary, or from the files that it carries."""
        if run is None:
            return self._encoder(context)
        carried = folder_of_part(run, CARRIED)
        component = at_path(self.encoder, carried) if carried.is_dir() else self.encoder
        if self.encoder.cls.needs_vocabulary:
            return self._with_words(component, context, run).to(context.device)
        return built_encoder(component, None, context.spec.seed).to(context.device)

    def _with_words(self, component: Component, context: Context, run: Run) -> Any:
        """The encoder with the run's vocabulary, or with that of the same training captions.

        Raises:
            ContentError: the vocabulary is not that of the training, and the captions neither.
        """
        path, manifest = run.path / VOCABULARY, run.manifest()
        expected = run.fingerprint(CARRIED)
        try:
            encoder = built_encoder(component, read_vocabulary(path), context.spec.seed)
            if expected in (None, encoder.fingerprint):
                return encoder
            reason = f"{path} has changed since the training; restore it."
        except ContentError as error:
            reason = str(error)
        try:
            train = context.source.split("train")
        except T2IBenchError as error:
            raise ContentError(f"{reason} Nor is the data there: {error}") from error
        if context.source.split_fingerprint("train") != manifest.get("data"):
            raise ContentError(f"{reason} Its words are not those of the data that is here now.")
        words = training_vocabulary(train)
        encoder = built_encoder(component, words, context.spec.seed)
        if expected not in (None, encoder.fingerprint):
            raise ContentError(reason)
        log.warning("%s Its words are taken from the training captions.", reason)
        if rank() == 0:
            with suppress(RunError):  # somebody else's folder, which may not be written
                write_json(path, words)
        return encoder

    def given(self, module: nn.Module) -> tuple[str, ...]:
        """Phrase for the leaderboard: a pretrained encoder; none for one that is trained."""
        return () if self.encoder.cls.trainable else (f"pretrained text encoder {self.name}",)

    def _encoder(self, context: Context) -> Any:
        """The encoder, made at first use and kept."""

        def make() -> Any:
            words = None
            if self.encoder.cls.needs_vocabulary and context.device.type == "meta":
                # Of a vocabulary only the number of words has a shape.
                words = build_vocabulary(context.source.captions_with_every_word("train"))
            elif self.encoder.cls.needs_vocabulary:
                words = training_vocabulary(context.source.split("train"))
            return built_encoder(self.encoder, words, context.spec.seed)

        return self.read_once(context, make)


class TextEncoderOfBase(TextPart):
    """The text encoder of a cascade's base, shared by every stage above it (``text=base``)."""

    def identity(self, context: Context) -> dict[str, Any]:
        """A constant: the base is part of the identity by itself."""
        return {"of": "base"}

    def check(self, context: Context) -> None:
        """Refuses a model without a base."""
        if "base" not in context.spec.parts:
            raise ConfigError(
                f"text=base is for a stage of a cascade, and model={context.spec.model.name} "
                "stands on no run; choose another text encoder."
            )

    def prepare(self, context: Context, run: Run) -> Prepared:
        """Takes the base's encoder, frozen."""
        encoder = self.restore(context, run)
        if rank() == 0:
            write_json(run.path / VOCABULARY, None)
        return Prepared(encoder, facts={"fingerprint": encoder.fingerprint})

    def restore(self, context: Context, run: Run | None) -> Any:
        """Takes the base's encoder, frozen."""
        return BaseText(context.modules["base"].to(context.device))  # type: ignore[arg-type]


class TextEncoderOfRun(TextPart):
    """The text encoder that another run trained, frozen (``text=run text.run=RUN``).

    Attributes:
        run: folder, name or hash of that run in paths.runs; kept as its hash.
    """

    run: Annotated[str, Content]

    def identity(self, context: Context) -> dict[str, Any]:
        """Hash of the run."""
        return {"run": locate_run(KEY, self.run, context.spec).identity}

    def resolved(self, context: Context) -> TextEncoderOfRun:
        """The part with the run's hash in place of what the user typed."""
        return self.model_copy(update={"run": self.identity(context)["run"]})

    def check(self, context: Context) -> None:
        """Checks that the run exists and is trained."""
        run = locate_run(KEY, self.run, context.spec)
        check_trained(KEY, run, context.spec.budget.budget())

    def prepare(self, context: Context, run: Run) -> Prepared:
        """Loads the encoder of the run's module."""
        encoder = self.restore(context, run)
        if rank() == 0:
            write_json(run.path / VOCABULARY, None)
        return Prepared(encoder, facts={"fingerprint": encoder.fingerprint, "run": self.run})

    def restore(self, context: Context, run: Run | None) -> Any:
        """Loads the encoder of the run's module, which an exported run carries."""
        below = run_below(KEY, OF_RUN, self.run, context, run)
        return BaseText(module_of(below, context))

    def runs_below(self, context: Context, run: Run) -> dict[str, Run]:
        """The run whose encoder is used, by its name."""
        return {OF_RUN: run_below(KEY, OF_RUN, self.run, context, run)}


def training_vocabulary(train: PreparedSplit) -> list[str]:
    """Words of the training captions."""
    return list(build_vocabulary(c for record in train.records for c in record.captions))


def read_vocabulary(path: Path) -> list[str]:
    """A run's words in order.

    Raises:
        ContentError: the file holds no list of words.
    """
    words = read_json(path, ANEW)
    listed = isinstance(words, list) and all(isinstance(word, str) for word in words)
    if not (listed and words and len(set(words)) == len(words)):
        raise ContentError(f"{path} must hold a list of distinct words; {ANEW}.")
    return words


def built_encoder(component: Component, vocabulary: Sequence[str] | None, seed: int) -> Any:
    """Instantiates a text encoder; word-level ones get their vocabulary."""
    torch.manual_seed(derive_seed("init text", seed))
    given = {} if vocabulary is None else {"vocabulary": list(vocabulary)}
    return instantiate(component, **given)


def at_path(component: Component, path: Path) -> Component:
    """The component with another path to its files."""
    return replace(component, arguments={**component.arguments, "path": str(path)})
