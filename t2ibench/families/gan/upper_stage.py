"""A GAN that redraws the images of a frozen trained run at a higher resolution."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.core.edits import Edit, Upscaling
from t2ibench.core.knobs import Knob
from t2ibench.core.noise import Noise
from t2ibench.core.types import Images, TextFeatures
from t2ibench.families.contract import TextToImageModule
from t2ibench.families.frozen_base import FrozenBase
from t2ibench.families.gan.inversion import Paint, inversion_knob
from t2ibench.families.gan.players import TwoPlayers


class UpperStage(TwoPlayers):
    """Two players above a run of any family; a paper's module adds ``redrawn``.

    Above a GAN, edits descend through both stages, in the latents of both. A base of another
    family has no latents to descend in, and then a given small image is the only edit.

    Args:
        base: the trained module whose images are redrawn; frozen here, its weights are not in this
            module's state dict.
        players: see ``TwoPlayers``.
    """

    def __init__(self, *, base: TextToImageModule, **players: Any) -> None:
        super().__init__(**players)
        self.base = FrozenBase(base)
        own = TwoPlayers.edits & base.edits if isinstance(base, TwoPlayers) else frozenset()
        self.edits = own | {"upscaling"}

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Sampling knobs: this stage's truncation, the base's with ``base_``, an edit's steps.

        The base determines the image's content, so its fidelity-alignment knob is the cascade's.
        """
        own = Knob("truncation_psi", self.default_psi, 0.0, 1.5)
        of_edits = (inversion_knob(),) if self.edits & TwoPlayers.edits else ()
        return (own, *self.base.knobs, *of_edits)

    @property
    @abstractmethod
    def noise_width(self) -> int:
        """Z, width of this stage's own noise."""

    @abstractmethod
    def redrawn(
        self,
        small: Float[Tensor, "B 3 h w"],
        text: TextFeatures,
        latents: Float[Tensor, "B Z"],
        knobs: Mapping[str, float],
    ) -> Images:
        """Larger images of small ones.

        Args:
            small: images of the base, or given ones.
            text: features of B captions.
            latents: standard normal.
            knobs: complete and checked.
        """

    def parts(self) -> dict[str, nn.Module]:
        """Networks by name, including the base, whose weights are not in the state dict."""
        return super().parts() | {"base": self.base.module}

    def encode_captions(self, captions: Sequence[str]) -> TextFeatures:
        """Text features of the base, which serve every stage."""
        return self.text_encoder.encode(list(captions))

    def invertible(self, noise: Noise, knobs: Mapping[str, float]) -> tuple[Paint, list[Tensor]]:
        """Both stages as a function of text, the base's latents and this stage's, the last."""
        base: Any = self.base.module
        below, start = base.invertible(noise, self.base.own_knobs(knobs))

        def paint(text: TextFeatures, latents: Sequence[Tensor]) -> Images:
            small = below(text, latents[:-1]).clamp(-1, 1)
            return self.redrawn(small, text, latents[-1], knobs)

        return paint, [*start, noise.normal(self.noise_width)]

    def sample(
        self,
        text: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
        edit: Edit | None = None,
    ) -> Images:
        """Samples the base, or takes a given small image, and redraws it; edits as of all GANs."""
        if edit is not None and not isinstance(edit, Upscaling):
            return super().sample(text, noise, knobs, edit)
        if edit is not None:
            small = edit.image.to(self.device)
        else:
            small = self.base.generate(text, noise, knobs)
        return self.redrawn(small, text, noise.normal(self.noise_width), knobs)
