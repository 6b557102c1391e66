"""Latent diffusion as a family: the training step and guided sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor, nn

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import Knob
from t2ibench.core.noise import Noise
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.base import OptimizerFactory, Target, TextToImageModule
from t2ibench.families.diffusion.losses import weighted_error
from t2ibench.samplers.diffusion import (
    PredictionType,
    add_noise,
    ddim,
    dpm_solver_pp_2m,
    split_prediction,
    training_target,
)
from t2ibench.samplers.guidance import guided
from t2ibench.samplers.schedules import ScheduleName, make_schedule, trailing_timesteps
from t2ibench.text.base import TextEncoder

Solver = Literal["ddim", "dpm_solver_pp"]


class LatentDiffusion(TextToImageModule):
    """Denoises first-stage latents under the guidance of text.

    Args:
        text_encoder: see ``TextToImageModule``.
        first_stage: frozen; its normalised latents have unit variance.
        network: factory of the denoiser, called with ``latent_channels`` and ``text_width``.
        optimizer: factory of the optimiser.
        resolution: H = W of the images.
        null_text_probability: see ``TextToImageModule``.
        gradient_clip_norm: see ``TextToImageModule``.
        schedule: name of the noise schedule.
        timesteps: T.
        prediction_type: what the network predicts.
        snr_cap: gamma of min-SNR weighting; 0 is the unweighted error.
        timestep_location: mean of the logit of t / T; negative is less noise.
        timestep_spread: standard deviation of that logit; 0 is uniform timesteps.
        solver: of sampling.
        num_steps: default steps of sampling.
        guidance_scale: default guidance.

    Source: Rombach et al. 2022 (LDM), section 3.
    Differs: latents are normalised by measured statistics; low-discrepancy timesteps.
    """

    family: ClassVar[str] = "diffusion"
    trains_on: ClassVar[Target] = "latents"

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        first_stage: FrozenFirstStage,
        network: Callable[..., nn.Module],
        optimizer: OptimizerFactory,
        resolution: int,
        null_text_probability: float,
        gradient_clip_norm: float,
        schedule: ScheduleName,
        timesteps: int,
        prediction_type: PredictionType,
        snr_cap: float,
        timestep_location: float,
        timestep_spread: float,
        solver: str,
        num_steps: int,
        guidance_scale: float,
    ) -> None:
        super().__init__(
            text_encoder=text_encoder,
            resolution=resolution,
            null_text_probability=null_text_probability,
            gradient_clip_norm=gradient_clip_norm,
        )
        if solver not in get_args(Solver):
            raise ConfigError(
                f"model.module.solver={solver} is unknown; choose {', '.join(get_args(Solver))}."
            )
        self.first_stage = first_stage
        # A module with ``prepare``: see ``ldm.UNet``.
        self.network: Any = network(
            latent_channels=first_stage.latent_channels, text_width=text_encoder.width
        )
        self.make_optimizer = optimizer
        self.timesteps = timesteps
        self.prediction_type = prediction_type
        self.snr_cap = snr_cap
        self.timestep_location = timestep_location
        self.timestep_spread = timestep_spread
        self.solver = solver
        self.default_steps = num_steps
        self.default_guidance = guidance_scale
        self.alphas_bar: Tensor
        self.register_buffer(
            "alphas_bar", make_schedule(schedule, timesteps).float(), persistent=False
        )

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Guidance, steps and, where the solver has it, DDIM's eta."""
        sweep = (1.0, 1.5, 2.0, 3.0, 5.0)
        knobs = (
            Knob("guidance_scale", self.default_guidance, 0.0, 30.0, True, sweep),
            Knob("num_steps", self.default_steps, 1, self.timesteps, integer=True),
        )
        if self.solver == "ddim":
            return (*knobs, Knob("eta", 0.0, 0.0, 1.0))
        return knobs

    def configure_optimizers(self) -> Any:
        """One optimiser over everything that trains."""
        return self.make_optimizer([p for p in self.parameters() if p.requires_grad])

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Noise, predict, regress.

        Source: Ho et al. 2020 (DDPM), algorithm 1.
        Differs: see ``draw_timesteps``.
        """
        latents = batch.latents
        if latents is None:
            latents = self.first_stage.encode(batch.image)
        text = self.drop_text(self.encode_text(batch))
        t = self.draw_timesteps(len(latents))
        eps = torch.randn_like(latents)
        noisy = add_noise(latents, eps, self.alphas_bar, t)
        predicted = self.network(noisy, t.float(), self.network.prepare(text))
        target = training_target(latents, eps, self.alphas_bar, t, self.prediction_type)
        loss = weighted_error(
            predicted, target, self.alphas_bar[t], self.prediction_type, self.snr_cap
        )
        parameters = [p for p in self.parameters() if p.requires_grad]
        self.optimise(self.optimizers(), loss, parameters)  # type: ignore[arg-type]
        return {"loss": loss.detach()}

    def draw_timesteps(self, count: int) -> Int[Tensor, " B"]:
        """Timesteps of a batch, evenly spread over the distribution by one random offset.

        Source: Kingma et al. 2021 (VDM), appendix I.1; Esser et al. 2024 (Stable Diffusion 3),
            eq. 19.
        Differs: none.
        """
        place = torch.arange(count, device=self.device) + torch.rand(1, device=self.device)
        u = place / count
        if self.timestep_spread > 0:
            normal = torch.special.ndtri(u)
            u = torch.sigmoid(self.timestep_location + self.timestep_spread * normal)
        return (u * self.timesteps).long().clamp(max=self.timesteps - 1)

    def sample(self, text: TextFeatures, noise: Noise, knobs: Mapping[str, float]) -> Images:
        """Guided denoising from pure noise, then the first stage's decoder."""
        scale = knobs["guidance_scale"]
        if scale != 1:
            null = self.text_encoder.null(len(text)).to(text.tokens.device)
            text = TextFeatures.cat([text, null])
        contexts = self.network.prepare(text)

        def run(rows: Tensor, t: int) -> Tensor:
            times = torch.full((len(rows),), float(t), device=rows.device)
            return self.network(rows, times, contexts)

        predict = guided(run, scale)

        def denoise(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
            bar = float(self.alphas_bar[t])
            return split_prediction(predict(x, t), x, bar, self.prediction_type)

        size = self.resolution // self.first_stage.spatial_factor
        x = noise.normal(self.first_stage.latent_channels, size, size)
        steps = trailing_timesteps(self.timesteps, int(knobs["num_steps"]))
        if self.solver == "ddim":
            x = ddim(denoise, x, self.alphas_bar, steps, knobs["eta"], noise)
        else:
            x = dpm_solver_pp_2m(denoise, x, self.alphas_bar, steps)
        return self.first_stage.decode(x)
