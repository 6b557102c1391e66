"""Two players that train in turns, truncation and edits: the part that every GAN here shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from t2ibench.core.edits import Edit, Interpolation
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import Knob
from t2ibench.core.noise import Noise
from t2ibench.core.types import Images, TextFeatures
from t2ibench.families.contract import OptimizerFactory, TextToImageModule
from t2ibench.families.gan.balance import balance_alarms
from t2ibench.families.gan.inversion import INVERSIONS, Paint, between, edited, inversion_knob
from t2ibench.families.gan.steps import check_accumulation
from t2ibench.nn.batch_norm import BatchNorm
from t2ibench.text.contract import TextEncoder

SWEEP = (0.25, 0.5, 0.75, 1.0)
"""Truncations at which the front is drawn."""

RATE = "model.module.discriminator_optimizer.lr"
"""Configuration key of the discriminators' learning rate."""


class TwoPlayers(TextToImageModule):
    """A ``generator`` and the networks that judge it; a paper's module adds networks and losses.

    A trained text encoder learns in the step of one of the two. A paper's module says by
    ``invertible`` what its generator paints of which latents; from that it has samples and edits.

    Args:
        text_encoder: see ``TextToImageModule``.
        generator_optimizer: factory of the generator's optimiser.
        discriminator_optimizer: factory of the judging networks'.
        resolution: H = W of the images.
        null_text_probability: 0 for a GAN: it is not guided.
        gradient_clip_norm: see ``TextToImageModule``.
        accumulation: parts of a batch whose gradients are summed, at least 1.
        truncation_psi: default truncation.

    Attributes:
        judges: names of the judging networks, which sampling does not use.
        judges_teach_text: whether a trained text encoder learns in their step, else in the
            generator's.
        held_back_by: configuration key that holds the judging networks back, for the alarms.

    Raises:
        ConfigError: ``accumulation`` is below 1.
    """

    family: ClassVar[str] = "gan"
    edits: frozenset[str] = INVERSIONS | {"interpolation"}
    sampling_arguments: ClassVar[frozenset[str]] = frozenset({"truncation_psi"})
    judges: ClassVar[tuple[str, ...]] = ("discriminator",)
    judges_teach_text: ClassVar[bool] = True
    held_back_by: ClassVar[str] = (
        "model.module.relativistic_gamma (of adversarial_loss=relativistic)"
    )

    generator: Any

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        resolution: int,
        null_text_probability: float,
        gradient_clip_norm: float,
        accumulation: int,
        truncation_psi: float,
    ) -> None:
        super().__init__(
            text_encoder=text_encoder,
            resolution=resolution,
            null_text_probability=null_text_probability,
            gradient_clip_norm=gradient_clip_norm,
        )
        if accumulation < 1:
            raise ConfigError(f"model.module.accumulation={accumulation} must be at least 1.")
        self.make_generator_optimizer = generator_optimizer
        self.make_discriminator_optimizer = discriminator_optimizer
        self.accumulation = accumulation
        self.default_psi = truncation_psi

    def check_batch(self, size: int) -> None:
        """Refuses parts of one image, of which batch normalisation has no statistics.

        Raises:
            ConfigError: see ``steps.check_accumulation``.
        """
        normalises = any(isinstance(part, BatchNorm) for part in self.modules())
        check_accumulation(size, self.accumulation, 2 if normalises or self.accumulation > 1 else 1)

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Sampling knobs: truncation, and the steps of an edit's descent."""
        return (Knob("truncation_psi", self.default_psi, 0.0, 1.5, True, SWEEP), inversion_knob())

    @property
    def trains_in_turns(self) -> bool:
        """True: the two players train in turns."""
        return True

    @property
    def second_derivatives(self) -> str:
        """Key of the relativistic loss's penalties, where they are on."""
        adversary = getattr(self, "adversary", None)
        return "model.module.relativistic_gamma" if adversary and adversary.penalised else ""

    def sampling_parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters of sampling: all but those of the judging networks."""
        own = tuple(f"{name}." for name in self.judges)
        found = super().sampling_parameters()
        return {name: p for name, p in found.items() if not name.startswith(own)}

    def drawing_parameters(self) -> list[nn.Parameter]:
        """Parameters that the generator's step changes."""
        text = [] if self.judges_teach_text else self._text_parameters()
        return [*self.generator.parameters(), *text]

    def judging_parameters(self) -> list[nn.Parameter]:
        """Parameters that the step of the judging networks changes."""
        found = [p for network in self._judging() for p in network.parameters()]
        return found + (self._text_parameters() if self.judges_teach_text else [])

    def configure_optimizers(self) -> Any:
        """Makes the generator's optimiser, then that of the judging networks.

        Raises:
            ConfigError: there are none, as in a published generator.
        """
        if not self._judging():
            raise ConfigError(
                "model.module.discriminator=null: a generator without discriminators only samples; "
                "name one to train it."
            )
        return [
            self.make_generator_optimizer(self.drawing_parameters()),
            self.make_discriminator_optimizer(self.judging_parameters()),
        ]

    @contextmanager
    def judges_held(self) -> Iterator[None]:
        """Context of the generator's step, in which the judging networks get no gradients."""
        for network in self._judging():
            network.requires_grad_(False)
        try:
            yield
        finally:
            for network in self._judging():
                network.requires_grad_(True)

    @abstractmethod
    def invertible(self, noise: Noise, knobs: Mapping[str, float]) -> tuple[Paint, list[Tensor]]:
        """The generator as a function of text and latents, and the latents of a batch.

        Args:
            noise: gives the latents, in the order of a sample's draws.
            knobs: complete and checked.

        Returns:
            A function of which each image depends on its own text and latents alone, and
            standard normal latents (B, ...).
        """

    def sample(
        self,
        text: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
        edit: Edit | None = None,
    ) -> Images:
        """Generates images in one forward pass; edits by descent in the latents (``inversion``).

        Source: Goodfellow et al. 2014, section 3, without an edit.
        Differs: see ``edited`` for those.
        """
        paint, start = self.invertible(noise, knobs)
        if edit is None:
            return paint(text, start)
        if isinstance(edit, Interpolation):
            return paint(*between(text, start, self.invertible(edit.noise, knobs)[1], edit))
        steps = int(knobs["inversion_steps"])
        return edited(paint, text, start, cast(Any, edit), steps, self.resolution)

    def alarms(self, logged: Mapping[str, float]) -> dict[str, str]:
        """Warnings of players out of balance, see ``balance_alarms``."""
        return balance_alarms(logged, RATE, self.held_back_by)

    def _judging(self) -> list[nn.Module]:
        found: list[nn.Module | None] = [getattr(self, name) for name in self.judges]
        return [network for network in found if network is not None]

    def _text_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.text_encoder.parameters() if p.requires_grad]
