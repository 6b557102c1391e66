"""A trained run as the base of a cascade's stage: its frozen module and its text encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from t2ibench.core.frozen import FrozenHolder
from t2ibench.core.hashing import hash_tensors
from t2ibench.core.knobs import Knob, resolve_knobs
from t2ibench.core.noise import Noise
from t2ibench.core.types import Images, TextFeatures
from t2ibench.families.contract import TextToImageModule
from t2ibench.text.contract import TextEncoder, TokenReport

PREFIX = "base_"


class FrozenBase(FrozenHolder):
    """A frozen trained module that another module samples from; its knobs get a prefix.

    Its weights belong to its own run and are not in this module's state dict (``FrozenHolder``).

    Args:
        module: a module of any family; frozen and put in eval mode; the caller's object, not a
            copy.
    """

    def __init__(self, module: TextToImageModule) -> None:
        super().__init__()
        self.hold("module", module)

    @property
    def module(self) -> TextToImageModule:
        """The frozen module; its parameters and FLOPs are counted with the cascade's."""
        return self._frozen["module"]

    @property
    def resolution(self) -> int:
        """H = W of the frozen module's images, in pixels."""
        return self.module.resolution

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Knobs of the frozen module, each name with the prefix ``base_``."""
        return tuple(
            replace(knob, name=PREFIX + knob.name)
            for knob in self.module.knobs
            if not knob.of_edits
        )

    def own_knobs(self, knobs: Mapping[str, float]) -> dict[str, float]:
        """Knobs of the frozen module: those of ``knobs`` that have the prefix."""
        return {n.removeprefix(PREFIX): v for n, v in knobs.items() if n.startswith(PREFIX)}

    def generate(self, text: TextFeatures, noise: Noise, knobs: Mapping[str, float]) -> Images:
        """Images of the frozen module, which takes those of ``knobs`` that have the prefix."""
        return self.module.generate(text, noise, self.own_knobs(knobs))

    @torch.no_grad()
    def draw(self, text: TextFeatures, noise: Noise) -> Images:
        """Images for a training step, with the default knobs; nothing waits for a device."""
        return self.module.sample(text, noise, resolve_knobs(self.module.knobs)).clamp(-1, 1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenBase:
        super()._apply(fn, recurse)
        # A Lightning module also keeps its device by name.
        self.module.to(next(self.module.parameters()).device)
        return self


class BaseText(FrozenHolder, TextEncoder):
    """Text encoder of a frozen run: its features serve every stage above it.

    Args:
        base: a module of any family; frozen and put in eval mode.

    Source: Saharia et al. 2022 (Imagen), section 2.1: one frozen text encoder for all stages.
    Differs: where the base was trained with its encoder, it is frozen afterwards.
    """

    trainable = False

    def __init__(self, base: TextToImageModule) -> None:
        super().__init__()
        self.hold("module", base)
        self.width = base.text_encoder.width
        self.max_length = base.text_encoder.max_length
        self.word_tokens = base.text_encoder.word_tokens

    @property
    def _encoder(self) -> TextEncoder:
        return self._frozen["module"].text_encoder

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Text features of captions, with anything else that the base computes from a caption."""
        return self._frozen["module"].encode_captions(captions)

    @torch.no_grad()
    def null(self, count: int) -> TextFeatures:
        """Unconditional input of the base's text encoder, ``count`` times."""
        return self._encoder.null(count)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the encoder; its weights' hash where it was trained with the base."""
        if not self._encoder.trainable:
            return self._encoder.fingerprint
        return hash_tensors(self._encoder.state_dict().items())

    def token_report(self, captions: Sequence[str]) -> TokenReport:
        """Report of what the base's text encoder truncates or does not know in captions."""
        return self._encoder.token_report(captions)

    def token_words(self, caption: str) -> list[str]:
        """Names of a caption's tokens by the base's text encoder."""
        return self._encoder.token_words(caption)
