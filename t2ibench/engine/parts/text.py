"""Text encoders as parts: configured, of a cascade's base, or of another run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from t2ibench.core.errors import ConfigError
from t2ibench.core.files import read_json, write_json
from t2ibench.core.hashing import derive_seed
from t2ibench.core.ranks import rank
from t2ibench.data.records import PreparedSplit
from t2ibench.engine.assemble import folder_of_part
from t2ibench.engine.build import instantiate
from t2ibench.engine.components import Component
from t2ibench.engine.context import Context
from t2ibench.engine.parts.part import Part, Prepared
from t2ibench.engine.references import check_trained, located, module_of, run_below
from t2ibench.engine.spec import ComponentField, Content, Trained
from t2ibench.families.frozen_base import BaseText
from t2ibench.runs.folder import Run
from t2ibench.text.word import build_vocabulary

VOCABULARY = "vocabulary.json"
"""File in a run: the words of its encoder in order, or null."""

CARRIED = "text_encoder"
"""Folder in a run's parts: the weights or word pieces of an encoder that travels with it."""

OF_RUN = "text_of_run"
"""Folder in a run's parts: an exported run's copy of the run whose encoder it uses."""

KEY = "text.run"
"""Where a user names the run whose encoder is used."""


class TextPart(Part):
    """A part whose module is a text encoder."""

    def content(self, module: Any) -> str | None:
        """Weights and tokeniser of a frozen encoder; one that is trained is in the state dict."""
        return None if module.trainable else module.fingerprint


class ConfiguredTextEncoder(TextPart):
    """The text encoder that a file of conf/text describes.

    Attributes:
        path: where its files lie; enters the encoder. What counts is what they hold.
        encoder: its class and arguments.
    """

    path: Annotated[str | None, Content] = None
    encoder: Annotated[ComponentField, Trained]

    def identity(self, context: Context) -> dict[str, Any]:
        """Layout of an encoder that is trained along; weights and tokeniser of a frozen one.

        A vocabulary is a function of the training captions, which count by themselves.
        """
        if self.encoder.cls.needs_vocabulary:
            return {"layout": self.encoder.values(Trained)}
        return {"fingerprint": self._encoder(context).fingerprint}

    def check(self, context: Context) -> None:
        """Loads a pretrained encoder, so that missing files are told before any work."""
        if not self.encoder.cls.needs_vocabulary:
            self._encoder(context)

    def prepare(self, context: Context, run: Run) -> Prepared:
        """The encoder on the device; its vocabulary is written into the run."""
        if context.start is not None:
            encoder = self.restore(context, context.start)
        else:
            encoder = self._encoder(context)
        if rank() == 0:
            words = getattr(getattr(encoder, "tokenizer", None), "vocabulary", None)
            write_json(run.path / VOCABULARY, words if self.encoder.cls.needs_vocabulary else None)
        return Prepared(encoder.to(context.device), facts={"fingerprint": encoder.fingerprint})

    def restore(self, context: Context, run: Run | None) -> nn.Module:
        """With the words that the run was trained with, or from the files that it carries."""
        if run is None:
            return self._encoder(context)
        carried = folder_of_part(run, CARRIED)
        component = at_path(self.encoder, carried) if carried.is_dir() else self.encoder
        words = read_json(run.path / VOCABULARY) if self.encoder.cls.needs_vocabulary else None
        return built_encoder(component, words, context.spec.seed).to(context.device)

    def given(self, module: nn.Module) -> tuple[str, ...]:
        """A pretrained encoder."""
        return () if self.encoder.cls.trainable else (f"pretrained text encoder {self.name}",)

    def _encoder(self, context: Context) -> Any:
        """The encoder, made at first use and kept."""

        def make() -> Any:
            words = None
            if self.encoder.cls.needs_vocabulary:
                words = training_vocabulary(context.source.split("train"))
            return built_encoder(self.encoder, words, context.spec.seed)

        return self.read_once(context, make)


class TextEncoderOfBase(TextPart):
    """The text encoder of a cascade's base, shared by every stage above it (``text=base``)."""

    def identity(self, context: Context) -> dict[str, Any]:
        """The base counts by itself."""
        return {"of": "base"}

    def check(self, context: Context) -> None:
        """Refuses a model without a base."""
        if "base" not in context.spec.parts:
            raise ConfigError(
                f"text=base is for a stage of a cascade, and model={context.spec.model.name} "
                "stands on no run; choose another text encoder."
            )

    def prepare(self, context: Context, run: Run) -> Prepared:
        """The base's, frozen."""
        encoder = self.restore(context, run)
        if rank() == 0:
            write_json(run.path / VOCABULARY, None)
        return Prepared(encoder, facts={"fingerprint": encoder.fingerprint})

    def restore(self, context: Context, run: Run | None) -> Any:
        """The base's, frozen."""
        return BaseText(context.modules["base"].to(context.device))  # type: ignore[arg-type]


class TextEncoderOfRun(TextPart):
    """The text encoder that another run trained, frozen (``text=run text.run=RUN``).

    Attributes:
        run: its folder, name or hash in paths.runs; kept as its hash.
    """

    run: Annotated[str, Content]

    def identity(self, context: Context) -> dict[str, Any]:
        """The run's hash."""
        return {"run": located(KEY, self.run, context.spec).identity}

    def resolved(self, context: Context) -> TextEncoderOfRun:
        """With the run's hash in place of what was typed."""
        return self.model_copy(update={"run": self.identity(context)["run"]})

    def check(self, context: Context) -> None:
        """Whether the run is there and trained."""
        run = located(KEY, self.run, context.spec)
        check_trained(KEY, run, context.spec.budget.budget())

    def prepare(self, context: Context, run: Run) -> Prepared:
        """The encoder of the run's module."""
        encoder = self.restore(context, run)
        if rank() == 0:
            write_json(run.path / VOCABULARY, None)
        return Prepared(encoder, facts={"fingerprint": encoder.fingerprint, "run": self.run})

    def restore(self, context: Context, run: Run | None) -> Any:
        """The encoder of the run's module, which an exported run carries."""
        below = run_below(KEY, OF_RUN, self.run, context, run)
        return BaseText(module_of(below, context))

    def runs_below(self, context: Context, run: Run) -> dict[str, Run]:
        """The run whose encoder it is."""
        return {OF_RUN: run_below(KEY, OF_RUN, self.run, context, run)}


def training_vocabulary(train: PreparedSplit) -> list[str]:
    """The words of the training captions."""
    return list(build_vocabulary(c for record in train.records for c in record.captions))


def built_encoder(component: Component, vocabulary: Sequence[str] | None, seed: int) -> Any:
    """The encoder of a component; word-level ones get their words."""
    torch.manual_seed(derive_seed("init text", seed))
    given = {} if vocabulary is None else {"vocabulary": list(vocabulary)}
    return instantiate(component, **given)


def at_path(component: Component, path: Path) -> Component:
    """The component with its files at another place."""
    return replace(component, arguments={**component.arguments, "path": str(path)})
