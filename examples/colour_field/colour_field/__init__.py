"""A family in one class: the colour of the whole image from the text, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from t2ibench import Batch, Knob, Noise, TextFeatures, TextToImageModule


class ColourField(TextToImageModule):
    """Regresses each image's mean colour; noise is added in proportion to the knob."""

    family: ClassVar[str] = "colour_field"

    def __init__(self, *, optimizer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.make_optimizer = optimizer
        self.colour = nn.Linear(self.text_encoder.width, 3)

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """How far colours wander from their mean."""
        return (Knob("wander", 0.1, 0.0, 1.0, fidelity_alignment=True, sweep=(0.0, 0.1, 0.3)),)

    def configure_optimizers(self) -> Any:
        """One optimiser."""
        return self.make_optimizer(self.parameters())

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Squared error of the mean colour."""
        wanted = batch.image.mean((2, 3))
        loss = (self.colour(self.encode_text(batch).pooled) - wanted).square().mean()
        self.optimise(self.optimizers(), loss, list(self.parameters()))
        return {"loss": loss.detach()}

    def sample(self, text: TextFeatures, noise: Noise, knobs: Mapping[str, float]) -> Tensor:
        """One colour an image."""
        colour = self.colour(text.pooled) + knobs["wander"] * noise.normal(3)
        size = self.resolution
        return torch.tanh(colour)[:, :, None, None].expand(-1, -1, size, size)
