"""Two players whose generator draws in stages that read text one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from t2ibench.core.edits import Edit, Mixing, PromptMixing
from t2ibench.core.noise import Noise
from t2ibench.core.types import Images, TextFeatures
from t2ibench.families.gan.attn_gan_networks import STAGES
from t2ibench.families.gan.inversion import Paint
from t2ibench.families.gan.players import TwoPlayers


class StagedPlayers(TwoPlayers):
    """Players of AttnGAN and StackGAN-v2: a paper's module adds networks and losses.

    A second prompt takes over from a stage on, with the same noise.
    """

    edits: frozenset[str] = TwoPlayers.edits | {"prompt_mixing"}
    mixings: ClassVar[tuple[Mixing, ...]] = ("layer",)

    def invertible(self, noise: Noise, knobs: Mapping[str, float]) -> tuple[Paint, list[Tensor]]:
        """The generator as a function of text, z and the augmentation's noise."""

        def paint(text: TextFeatures, latents: Sequence[Tensor]) -> Images:
            draws = knobs["truncation_psi"] * torch.cat(list(latents), dim=1)
            return self.generator(text, draws).images[-1]

        draws = noise.normal(self.generator.randomness)
        widths = [self.generator.noise_width, self.generator.condition_width]
        return paint, list(draws.split(widths, dim=1))

    def sample(
        self,
        text: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
        edit: Edit | None = None,
    ) -> Images:
        """Generates images in one forward pass; the last stage's are the output.

        Source: Xu et al. 2018 (AttnGAN), section 3.1; Zhang et al. 2018 (StackGAN-v2), section 4.1.
        Differs: psi is of truncation; 1 is the papers'; edits are not the papers'.
        """
        if not isinstance(edit, PromptMixing):
            return super().sample(text, noise, knobs, edit)
        draws = knobs["truncation_psi"] * noise.normal(self.generator.randomness)
        later = (edit.text.to(draws.device), round(edit.switch * STAGES))
        return self.generator(text, draws, later).images[-1]
