"""Text-to-image diffusion as a family: the training step and guided sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.core.knobs import Knob, resolve_knobs
from t2ibench.core.noise import Noise
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.base import OptimizerFactory, Target, TextToImageModule
from t2ibench.families.diffusion.process import DiffusionProcess
from t2ibench.samplers.guidance import Guidance
from t2ibench.text.base import TextEncoder


class Diffusion(TextToImageModule):
    """Denoises first-stage latents, or pixels, under the guidance of text.

    Args:
        text_encoder: see ``TextToImageModule``.
        network: factory of the denoiser, called with ``latent_channels`` and ``text_width``.
        process: of diffusion.
        optimizer: factory of the optimiser.
        resolution: H = W of the images.
        null_text_probability: see ``TextToImageModule``.
        gradient_clip_norm: see ``TextToImageModule``.
        guidance_scale: default guidance.
        first_stage: frozen, the latents are normalised; None: diffusion of pixels.

    Source: Rombach et al. 2022 (LDM), section 3; Ho et al. 2020 (DDPM) for pixels.
    Differs: latents are normalised by measured statistics.
    """

    family: ClassVar[str] = "diffusion"

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        network: Callable[..., nn.Module],
        process: DiffusionProcess,
        optimizer: OptimizerFactory,
        resolution: int,
        null_text_probability: float,
        gradient_clip_norm: float,
        guidance_scale: float,
        first_stage: FrozenFirstStage | None = None,
    ) -> None:
        super().__init__(
            text_encoder=text_encoder,
            resolution=resolution,
            null_text_probability=null_text_probability,
            gradient_clip_norm=gradient_clip_norm,
        )
        self.first_stage = first_stage
        self.channels = 3 if first_stage is None else first_stage.latent_channels
        # A module with ``prepare``: see ``ldm.UNet``.
        self.network: Any = network(latent_channels=self.channels, text_width=text_encoder.width)
        self.process = process
        self.make_optimizer = optimizer
        self.default_guidance = guidance_scale

    @property
    def trains_on(self) -> Target:  # type: ignore[override]
        """Latents where there is a first stage."""
        return "image" if self.first_stage is None else "latents"

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Guidance and what tempers it, then those of the process."""
        sweep = (1.0, 1.5, 2.0, 3.0, 5.0)
        tempering = [
            Knob("guidance_low", 0.0, 0.0, 1.0),
            Knob("guidance_high", 1.0, 0.0, 1.0),
            Knob("guidance_rescale", 0.0, 0.0, 1.0),
        ]
        if self.first_stage is None:
            tempering.append(Knob("threshold", self.process.threshold, 0.0, 1.0))
        return (
            Knob("guidance_scale", self.default_guidance, 0.0, 30.0, True, sweep),
            *tempering,
            *self.process.knobs(),
        )

    def configure_optimizers(self) -> Any:
        """One optimiser over everything that trains."""
        return self.make_optimizer([p for p in self.parameters() if p.requires_grad])

    def encode_images(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """What is diffused: pixels, or latents from the cache or made now."""
        if self.first_stage is None:
            return batch.image
        return self.first_stage.encode(batch.image) if batch.latents is None else batch.latents

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Noise, predict, regress.

        Source: Ho et al. 2020 (DDPM), algorithm 1.
        Differs: see ``DiffusionProcess``.
        """
        x0 = self.encode_images(batch)
        contexts = self.network.prepare(self.drop_text(self.encode_text(batch)))
        loss = self.process.training_loss(lambda x, t: self.network(x, t, contexts), x0)
        parameters = [p for p in self.parameters() if p.requires_grad]
        self.optimise(self.optimizers(), loss, parameters)  # type: ignore[arg-type]
        return {"loss": loss.detach()}

    def sample(self, text: TextFeatures, noise: Noise, knobs: Mapping[str, float]) -> Images:
        """Guided denoising from pure noise, then the first stage's decoder.

        Raises:
            ConfigError: ``guidance_low`` is not below ``guidance_high``.
        """
        factor = 1 if self.first_stage is None else self.first_stage.spatial_factor
        side = self.resolution // factor
        x = self.process.sample(
            self.denoiser(text),
            noise.normal(self.channels, side, side),
            noise,
            num_steps=int(knobs["num_steps"]),
            eta=knobs.get("eta", 0.0),
            guide=guidance_of(knobs),
            threshold=knobs.get("threshold"),
        )
        return x if self.first_stage is None else self.first_stage.decode(x)

    def nfe(self, knobs: Mapping[str, float] | None = None) -> int:
        """How many rows an image the network is evaluated on, guidance counted.

        Raises:
            ConfigError: as ``generate``.
        """
        values = resolve_knobs(self.knobs, knobs)
        return self.process.nfe(int(values["num_steps"]), guidance_of(values))

    def bucket_losses(self, batch: Batch, buckets: int) -> Float[Tensor, " K"]:
        """Validation errors by range of timesteps, each image with noise of its own index.

        No caption is dropped; the same batch and weights give the same numbers.
        """
        contexts = self.network.prepare(self.encode_text(batch))
        noise = Noise(batch.index.tolist(), self.device)
        return self.process.bucket_losses(
            lambda x, t: self.network(x, t, contexts), self.encode_images(batch), noise, buckets
        )

    def denoiser(self, text: TextFeatures) -> Callable[[Tensor, Tensor], Tensor]:
        """The network under B prompts, for B rows, or for 2B of which half is unconditional.

        What depends on the prompts alone is computed at the first call of each kind.
        """
        prepared: dict[int, Any] = {}

        def predict(x: Tensor, t: Tensor) -> Tensor:
            if len(x) not in prepared:
                given = text
                if len(x) > len(text):
                    null = self.text_encoder.null(len(text)).to(text.tokens.device)
                    given = TextFeatures.cat([text, null])
                prepared[len(x)] = self.network.prepare(given)
            return self.network(x, t, prepared[len(x)])

        return predict


def guidance_of(knobs: Mapping[str, float]) -> Guidance:
    """The guidance that a family's knobs ask for."""
    return Guidance(
        knobs["guidance_scale"],
        knobs["guidance_low"],
        knobs["guidance_high"],
        knobs["guidance_rescale"],
    )
