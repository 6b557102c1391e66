"""Super-resolution by diffusion: one stage of a cascade on top of a trained run.

A stage learns to reconstruct an image from its own low-resolution version; to sample, it first
samples a trained run of low resolution, its base. A base is a run of any family, itself possibly
a stage, so a cascade is a chain of runs. All its stages share the base's text encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from t2ibench.core.edits import Edit, Upscaling
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import Knob
from t2ibench.core.noise import Noise
from t2ibench.core.ranks import noise_like, own_rows
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.contract import OptimizerFactory, TextToImageModule
from t2ibench.families.diffusion.process import DiffusionProcess
from t2ibench.families.frozen_base import FrozenBase
from t2ibench.nn.embeddings import timestep_embedding
from t2ibench.samplers.guidance import Guidance
from t2ibench.text.contract import TextEncoder

Enlarging = Literal["bicubic", "bilinear", "nearest"]

LEVEL_WIDTH = 32
"""Width of the embedding of the augmentation level, a number in [0, 1]."""


def shrink(images: Images, factor: int) -> Float[Tensor, "B 3 h w"]:
    """Low-resolution images: the mean of each ``factor`` x ``factor`` square of pixels."""
    return avg_pool2d(images, factor)


def augment(
    low: Float[Tensor, "B 3 h w"], level: Float[Tensor, " B"], eps: Float[Tensor, "B 3 h w"]
) -> Float[Tensor, "B 3 h w"]:
    """Noised low-resolution images: cos(pi a / 2) x + sin(pi a / 2) eps; level a = 1 is pure noise.

    Args:
        low: low-resolution images.
        level: a in [0, 1], one an image.
        eps: standard normal.

    Source: Ho et al. 2022 (Cascaded diffusion models), section 4 (Gaussian conditioning
        augmentation); Saharia et al. 2022 (Imagen), section 2.4.
    Differs: the noise is that of the cosine schedule, and is added before enlarging.
    """
    angle = (math.pi / 2 * level)[:, None, None, None]
    return angle.cos() * low + angle.sin() * eps


class SuperResolution(TextToImageModule):
    """Super-resolution stage: denoises an image given its enlarged low-resolution version.

    Args:
        text_encoder: the base's, frozen (``frozen_base.BaseText``).
        base: the trained module that sampling starts from; frozen here, its weights are not in
            this module's state dict.
        network: factory of the denoiser, called with ``latent_channels``, ``extra_channels``,
            ``vector_width`` and, where text is read, ``text_width``.
        process: noise schedule, training loss and solver.
        optimizer: factory of the optimiser.
        resolution: H = W of the images.
        upscale: factor by which each side grows.
        enlarging: interpolation filter from the low resolution to the high one.
        reads_text: True where the network is conditioned on text.
        time_input: the network's time input: the timestep t, or the noise level sqrt(abar_t) in
            thousandths.
        max_augmentation: greatest level of noise on the low-resolution image in training, drawn
            uniformly from 0; 0: no augmentation.
        augmentation: default augmentation level in sampling.
        null_text_probability: see ``TextToImageModule``.
        gradient_clip_norm: see ``TextToImageModule``.
        guidance_scale: default guidance of this stage, where text is read.

    Raises:
        ConfigError: an impossible choice, or a base of another resolution.

    Source: Saharia et al. 2021 (SR3), section 2; Ho et al. 2022 (Cascaded diffusion models),
        section 3; Saharia et al. 2022 (Imagen), section 2.4.
    Differs: any family may stand below; stages that read no text share the encoder, too.
    """

    family: ClassVar[str] = "diffusion"
    edits: frozenset[str] = frozenset({"upscaling"})
    sampling_arguments: ClassVar[frozenset[str]] = frozenset({"guidance_scale", "augmentation"})

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        base: TextToImageModule,
        network: Callable[..., nn.Module],
        process: DiffusionProcess,
        optimizer: OptimizerFactory,
        resolution: int,
        upscale: int,
        enlarging: str,
        reads_text: bool,
        time_input: str,
        max_augmentation: float,
        augmentation: float,
        null_text_probability: float,
        gradient_clip_norm: float,
        guidance_scale: float,
    ) -> None:
        super().__init__(
            text_encoder=text_encoder,
            resolution=resolution,
            null_text_probability=null_text_probability,
            gradient_clip_norm=gradient_clip_norm,
        )
        _one_of("enlarging", enlarging, get_args(Enlarging))
        _one_of("time_input", time_input, ("timestep", "noise_level"))
        if not 0 <= augmentation <= max_augmentation <= 1:
            raise ConfigError(
                f"model.module.augmentation={augmentation} and max_augmentation="
                f"{max_augmentation} must be 0 <= augmentation <= max_augmentation <= 1."
            )
        if base.resolution * upscale != resolution:
            raise ConfigError(
                f"model.module.upscale={upscale} makes {base.resolution * upscale} px of the "
                f"base's {base.resolution}, and data.resolution={resolution}."
            )
        self.base = FrozenBase(base)
        self.upscale_factor = upscale
        self.enlarging = enlarging
        self.reads_text = reads_text
        self.time_input = time_input
        self.max_augmentation = max_augmentation
        self.default_augmentation = augmentation
        self.default_guidance = guidance_scale
        told = {"text_width": text_encoder.width} if reads_text else {}
        # A module with ``prepare``: see ``imagen.EfficientUNet``.
        self.network: Any = network(
            latent_channels=3,
            extra_channels=3,
            vector_width=LEVEL_WIDTH if max_augmentation > 0 else 0,
            **told,
        )
        self.process = process
        self.make_optimizer = optimizer

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Sampling knobs of this stage, then the base's with the prefix ``base_``.

        The base determines the image's content, so its fidelity-alignment knob is the cascade's.
        """
        own = [*self.process.knobs(), Knob("threshold", self.process.threshold, 0.0, 1.0)]
        if self.reads_text:
            own.append(Knob("guidance_scale", self.default_guidance, 0.0, 30.0))
        if self.max_augmentation > 0:
            most = self.max_augmentation
            own.append(Knob("augmentation", self.default_augmentation, 0.0, most))
        return (*own, *self.base.knobs)

    def parts(self) -> dict[str, nn.Module]:
        """Networks by name, including the base, whose weights are not in the state dict."""
        return super().parts() | {"base": self.base.module}

    def configure_optimizers(self) -> Any:
        """Makes one optimiser of all trainable parameters."""
        return self.make_optimizer([p for p in self.parameters() if p.requires_grad])

    # ---- training ----

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs one step on the denoising error given an augmented low-resolution image.

        Source: Saharia et al. 2021 (SR3), algorithm 1; Saharia et al. 2022 (Imagen), section 2.4
            (random augmentation level, an input of the network).
        Differs: none.
        """
        low, count = shrink(batch.image, self.upscale_factor), len(batch)
        draws = own_rows(lambda n: torch.rand(n, device=low.device), count)
        level = self.max_augmentation * draws
        if self.max_augmentation > 0:
            low = augment(low, level, noise_like(low))
        contexts = []
        if self.reads_text:
            text = replace(self.encode_text(batch), embedding=None)
            contexts = self.network.prepare(self.drop_text(text))
        loss = self.process.training_loss(self._denoiser(low, level, contexts), batch.image)
        parameters = [p for p in self.parameters() if p.requires_grad]
        self.optimise(self.optimizers(), loss, parameters)  # type: ignore[arg-type]
        return {"loss": loss.detach()}

    def _denoiser(
        self, low: Float[Tensor, "B 3 h w"], level: Float[Tensor, " B"], contexts: Any
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """A network call (x (R, 3, H, W), t (R,)) -> output; R is B, or 2B with guidance."""
        size = [self.upscale_factor * side for side in low.shape[-2:]]
        exact = None if self.enlarging == "nearest" else False
        condition = interpolate(low, size=size, mode=self.enlarging, align_corners=exact)
        vector = None
        if self.max_augmentation > 0:
            vector = timestep_embedding(1000 * level, LEVEL_WIDTH).to(low.dtype)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            copies = len(x) // len(condition)
            beside = torch.cat([x, condition.repeat(copies, 1, 1, 1)], 1)
            told = None if vector is None else vector.repeat(copies, 1)
            return self.network(beside, self._told(t), contexts, vector=told)

        return predict

    def _told(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Time input of the network.

        Source: Saharia et al. 2021 (SR3), section 2.2 (conditioning on the noise level).
        Differs: sqrt(abar) is interpolated linearly between timesteps, and training draws it at
            the schedule's own values, not between them.
        """
        if self.time_input == "timestep":
            return t
        levels = self.process.alpha.to(t.dtype)
        low = t.floor().long().clamp(0, len(levels) - 1)
        high = (low + 1).clamp(max=len(levels) - 1)
        return 1000 * torch.lerp(levels[low], levels[high], t - low)

    # ---- sampling ----

    def encode_captions(self, captions: Sequence[str]) -> TextFeatures:
        """Text features of the base, which serve every stage."""
        return self.text_encoder.encode(list(captions))

    def sample(
        self,
        text: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
        *,
        edit: Edit | None = None,
    ) -> Images:
        """Samples the base, or takes a given image, and enlarges it."""
        if isinstance(edit, Upscaling):
            return self._enlarge(edit.image.to(self.device), text, noise, knobs)
        return self._enlarge(self.base.generate(text, noise, knobs), text, noise, knobs)

    def _enlarge(
        self,
        low: Float[Tensor, "B 3 h w"],
        text: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
    ) -> Images:
        """Enlarges by guided denoising given slightly noisy low-resolution images, in one batch.

        Source: Saharia et al. 2022 (Imagen), section 2.4 (a fixed augmentation level).
        Differs: none.
        """
        count, scale = len(low), knobs.get("guidance_scale", 1.0)
        amount = knobs.get("augmentation", 0.0)
        level = torch.full((count,), amount, device=low.device)
        if amount > 0:
            low = augment(low, level, noise.normal(*low.shape[1:]))
        contexts: Any = []
        if self.reads_text:
            text = replace(text, embedding=None)
            if scale != 1:
                null = replace(self.text_encoder.null(count).to(low.device), embedding=None)
                text = TextFeatures.cat([text, null])
            contexts = self.network.prepare(text)
        height, width = (self.upscale_factor * side for side in low.shape[-2:])
        return self.process.sample(
            self._denoiser(low, level, contexts),
            noise.normal(3, height, width),
            noise,
            num_steps=int(knobs["num_steps"]),
            eta=knobs.get("eta", 0.0),
            guide=Guidance(scale),
            threshold=knobs["threshold"],
        )


def _one_of(key: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"model.module.{key}={value} is unknown; choose {', '.join(known)}.")
