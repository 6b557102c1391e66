"""A published text-to-image model between two formats: tensors under our names, and its facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from t2ibench.interop.check import check_fit
from t2ibench.interop.layouts import FirstStageLayout, UNetLayout
from t2ibench.interop.tensor_names import Part, split_known, to_published

TextKind = Literal["clip", "ldm_bert"]


@dataclass(frozen=True)
class Schedule:
    """The noise schedule that the UNet was trained with.

    Attributes:
        name: ``scaled_linear`` (linear in sqrt(beta)) or ``linear``.
        beta_start: the first beta.
        beta_end: the last.
        timesteps: T.
        prediction_type: ``epsilon``, ``v`` or ``x0``.
    """

    name: str
    beta_start: float
    beta_end: float
    timesteps: int
    prediction_type: str


@dataclass(frozen=True)
class Component:
    """The tensors of one network.

    Attributes:
        prefix: before every name in the file.
        parts: the names' mapping; None where the file has our names.
        tensors: those that have a place in the mapping, under our names.
        found: name in the file -> shape, of all tensors.
    """

    prefix: str
    parts: Sequence[Part] | None
    tensors: Mapping[str, Tensor]
    found: Mapping[str, tuple[int, ...]]

    @staticmethod
    def of(prefix: str, tensors: Mapping[str, Tensor], parts: Sequence[Part] | None) -> Component:
        """Renames what has a place; ``found`` lists the rest too, and ``check`` refuses it."""
        found = {prefix + name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if parts is None:
            return Component(prefix, None, dict(tensors), found)
        renamed, _ = split_known(tensors, parts)
        return Component(prefix, parts, renamed, found)

    def expected(self, own: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Our network's tensors as this file would name and shape them."""
        named = own if self.parts is None else to_published(own, self.parts)
        return {self.prefix + name: tuple(tensor.shape) for name, tensor in named.items()}


@dataclass(frozen=True)
class TextTower:
    """The text encoder.

    Attributes:
        kind: CLIP (frozen) or LDM's own transformer (trained with the UNet).
        config: CLIP's as transformers writes it; of LDM's: width, depth, heads, head_width,
            max_length.
        weights: its tensors.
        tokenizer: the folder or file of its tokeniser, or None: then CLIP's own vocabulary.
    """

    kind: TextKind
    config: Mapping[str, Any]
    weights: Component
    tokenizer: Path | None


@dataclass(frozen=True)
class Published:
    """Everything that a run needs.

    Attributes:
        source: the file or folder.
        unet_layout: see ``UNetLayout``.
        unet: the denoiser.
        first_stage_layout: see ``FirstStageLayout``.
        first_stage: the autoencoder.
        text: the text encoder.
        latent_scale: what latents are multiplied by.
        schedule: of noise.
        facts: the manifest's entry on the source: format, hashes, which weights were taken.
        surplus: tensors that belong to no network: name in the file -> shape.
    """

    source: Path
    unet_layout: UNetLayout
    unet: Component
    first_stage_layout: FirstStageLayout
    first_stage: Component
    text: TextTower
    latent_scale: float
    schedule: Schedule
    facts: dict[str, Any] = field(default_factory=dict)
    surplus: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def check(self, own: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Compares every network with ours.

        Args:
            own: ``unet``, ``first_stage`` and ``text``: our tensors by name (meta tensors will do).

        Raises:
            CheckpointError: a tensor is missing, surplus or of another shape; all are listed.
        """
        components = {"unet": self.unet, "first_stage": self.first_stage, "text": self.text.weights}
        expected: dict[str, tuple[int, ...]] = {}
        found = dict(self.surplus)
        for name, component in components.items():
            expected |= component.expected(own[name])
            found |= component.found
        check_fit(expected, found, str(self.source))
