"""The run below a stage of a cascade: a frozen module of any family, and its text encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from t2ibench.core.frozen import FrozenHolder
from t2ibench.core.hashing import hash_tensors
from t2ibench.core.knobs import Knob
from t2ibench.core.noise import Noise
from t2ibench.core.types import Images, TextFeatures
from t2ibench.families.contract import TextToImageModule
from t2ibench.text.contract import TextEncoder, TokenReport

PREFIX = "base_"


class FrozenBase(FrozenHolder):
    """A trained module that another stands on, with its knobs under names of their own.

    Its weights are those of its own run and not of the state dict (``FrozenHolder``).

    Args:
        module: of any family; frozen and put in eval mode; the caller's object, not a copy.
    """

    def __init__(self, module: TextToImageModule) -> None:
        super().__init__()
        self.hold("module", module)

    @property
    def module(self) -> TextToImageModule:
        """The frozen module, for cost accounts."""
        return self._frozen["module"]

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The module's, ``base_`` before their names."""
        return tuple(replace(knob, name=PREFIX + knob.name) for knob in self.module.knobs)

    def generate(self, text: TextFeatures, noise: Noise, knobs: Mapping[str, float]) -> Images:
        """The module's images; of ``knobs``, those with the prefix are its own."""
        own = {n.removeprefix(PREFIX): v for n, v in knobs.items() if n.startswith(PREFIX)}
        return self.module.generate(text, noise, own)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenBase:
        super()._apply(fn, recurse)
        # A Lightning module also keeps its device by name.
        self.module.to(next(self.module.parameters()).device)
        return self


class BaseText(FrozenHolder, TextEncoder):
    """The text encoder of a frozen run: features that serve every stage above it.

    Args:
        base: of any family; frozen and put in eval mode.

    Source: Saharia et al. 2022 (Imagen), section 2.1: one frozen text encoder for all stages.
    Differs: where the base was trained with its encoder, it is frozen afterwards.
    """

    trainable = False

    def __init__(self, base: TextToImageModule) -> None:
        super().__init__()
        self.hold("module", base)
        self.width = base.text_encoder.width
        self.max_length = base.text_encoder.max_length

    @property
    def _encoder(self) -> TextEncoder:
        return self._frozen["module"].text_encoder

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """See ``TextEncoder``; with whatever else the base needs of a caption."""
        return self._frozen["module"].encode_captions(captions)

    @torch.no_grad()
    def null(self, count: int) -> TextFeatures:
        """See ``TextEncoder``."""
        return self._encoder.null(count)

    @property
    def fingerprint(self) -> str:
        """The encoder's own; of one that was trained with the base, of its weights."""
        if not self._encoder.trainable:
            return self._encoder.fingerprint
        return hash_tensors(self._encoder.state_dict().items())

    def token_report(self, captions: Sequence[str]) -> TokenReport:
        """See ``TextEncoder``."""
        return self._encoder.token_report(captions)
