"""Text-to-image diffusion as a family: the training step and guided sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.core.edits import (
    Edit,
    ImageToImage,
    Inpainting,
    Interpolation,
    PromptMixing,
    lerp_text,
    slerp,
)
from t2ibench.core.knobs import Knob, resolve_knobs
from t2ibench.core.noise import Noise, SeededNoise
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.contract import OptimizerFactory, Target, TextToImageModule
from t2ibench.families.diffusion.editing import (
    beside,
    check_size,
    keep_known,
    latent_mask,
    random_masks,
    switching,
    without_region,
)
from t2ibench.families.diffusion.process import DiffusionProcess
from t2ibench.samplers.deterministic import Between, unchanged
from t2ibench.samplers.guidance import Guidance
from t2ibench.text.contract import TextEncoder

VALIDATION_BUCKETS = 8
"""Number of timestep ranges with a validation error of their own."""


class Diffusion(TextToImageModule):
    """Diffusion family: denoises first-stage latents, or pixels, with text guidance.

    Args:
        text_encoder: see ``TextToImageModule``.
        network: factory of the denoiser, called with ``latent_channels`` and ``text_width``.
        process: noise schedule, training loss and solver.
        optimizer: factory of the optimiser.
        resolution: H = W of the images.
        null_text_probability: see ``TextToImageModule``.
        gradient_clip_norm: see ``TextToImageModule``.
        guidance_scale: default guidance.
        first_stage: frozen autoencoder whose normalised latents are diffused; None: pixels are.

    Source: Rombach et al. 2022 (LDM), section 3; Ho et al. 2020 (DDPM) for pixels.
    Differs: latents are normalised by measured statistics.
    """

    family: ClassVar[str] = "diffusion"
    edits: frozenset[str] = frozenset(
        {"img2img", "inpainting", "prompt_mixing", "interpolation", "size"}
    )
    sampling_arguments: ClassVar[frozenset[str]] = frozenset({"guidance_scale"})

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
        # A module with ``prepare``: see ``fast_unet.FastUNet``.
        self.network: Any = network(latent_channels=self.channels, text_width=text_encoder.width)
        self.process = process
        self.make_optimizer = optimizer
        self.default_guidance = guidance_scale

    @property
    def inpaints(self) -> bool:
        """True where the network also reads a mask and the masked image (``extra_channels``)."""
        return getattr(self.network, "extra_channels", 0) == self.channels + 1

    @property
    def size_multiple(self) -> int:
        """Number of pixels of which both sides of an image must be multiples."""
        factor = 1 if self.first_stage is None else self.first_stage.spatial_factor
        return factor * getattr(self.network, "size_multiple", 1)

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Sampling knobs: guidance and its limits, then those of the process."""
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
        """Makes one optimiser of all trainable parameters."""
        return self.make_optimizer([p for p in self.parameters() if p.requires_grad])

    def encode_images(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Diffused variables of a batch: pixels, or latents from the cache or encoded now."""
        if self.first_stage is None:
            return batch.image
        kept = batch.targets.get("latents")
        return self.first_stage.encode(batch.image) if kept is None else kept

    def targets(self) -> dict[str, Target]:
        """Cached targets: normalised latents (B, C, h, w) where there is a first stage."""
        return latents_of(self.first_stage)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs one step: add noise, predict, regress.

        Source: Ho et al. 2020 (DDPM), algorithm 1.
        Differs: see ``DiffusionProcess``.
        """
        x0 = self.encode_images(batch)
        condition = None
        if self.inpaints:
            condition = self.inpainting_condition(batch.image, random_masks(batch.image))
        contexts = self.network.prepare(self.drop_text(self.encode_text(batch)))
        loss = self.process.training_loss(self.beside(condition, contexts), x0)
        parameters = [p for p in self.parameters() if p.requires_grad]
        self.optimise(self.optimizers(), loss, parameters)  # type: ignore[arg-type]
        return {"loss": loss.detach()}

    def sample(
        self,
        text: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
        *,
        size: tuple[int, int] | None = None,
        edit: Edit | None = None,
    ) -> Images:
        """Samples by guided denoising from noise or from a given image, then decodes.

        Args:
            text: features of B prompts.
            noise: per-sample noise of the B images.
            knobs: complete and checked values.
            size: height and width in pixels; None: those of the edit's image, or the
                training resolution. Other sizes than the training's are sampled convolutionally.
            edit: an edit that ``edits`` names; None: none.

        Raises:
            ConfigError: ``guidance_low`` is not below ``guidance_high``, or a side is not a
                multiple of ``size_multiple``.

        Source: Rombach et al. 2022 (LDM), section 4.3.2 (convolutional sampling).
        Differs: none.
        """
        image = getattr(edit, "image", None)
        size = size or (self.resolution, self.resolution)
        if image is not None:
            size = (image.shape[-2], image.shape[-1])
        check_size(size, self.size_multiple)
        plan = self.plan(text, noise, size, int(knobs["num_steps"]), edit)
        x = self.process.sample(
            plan.predict,
            plan.x,
            noise,
            num_steps=int(knobs["num_steps"]),
            eta=knobs.get("eta", 0.0),
            start=plan.start,
            between=plan.between,
            guide=guidance_of(knobs),
            threshold=knobs.get("threshold"),
        )
        images = x if self.first_stage is None else self.first_stage.decode(x)
        return edit.paste(images) if isinstance(edit, Inpainting) else images

    def plan(
        self,
        text: TextFeatures,
        noise: Noise,
        size: tuple[int, int],
        num_steps: int,
        edit: Edit | None,
    ) -> Plan:
        """Arguments of ``DiffusionProcess.sample`` for an edit, or for plain sampling."""
        factor = 1 if self.first_stage is None else self.first_stage.spatial_factor
        sides = (size[0] // factor, size[1] // factor)
        x = noise.normal(self.channels, *sides)
        condition = None
        if self.inpaints:
            # Without an edit everything is painted.
            image = x.new_zeros(len(x), 3, *size)
            mask = torch.ones_like(image[:, :1], dtype=torch.bool)
            if isinstance(edit, Inpainting):
                image, mask = edit.image.to(x), edit.mask.to(x.device)
            condition = self.inpainting_condition(image, mask)
        match edit:
            case ImageToImage():
                start = (self.encode_pixels(edit.image.to(x)), edit.strength)
                return Plan(self.denoiser(text, condition), x, start=start)
            case Inpainting() if not self.inpaints:
                known = self.encode_pixels(edit.image.to(x))
                region = latent_mask(edit.mask.to(x.device), sides)
                between = keep_known(known, x, region, self.process.levels(num_steps))
                return Plan(self.denoiser(text), x, between=between)
            case PromptMixing(by="layer"):
                return Plan(self.denoiser(text, condition, edit), x)
            case PromptMixing():
                second = self.denoiser(edit.text.to(x.device), condition)
                first, after = self.denoiser(text, condition), round(edit.switch * num_steps)
                predict, between = switching(first, second, after)
                return Plan(predict, x, between=between)
            case Interpolation():
                x = slerp(x, edit.noise.normal(self.channels, *sides).to(x), edit.weight)
                text = lerp_text(text, edit.text.to(x.device), edit.weight)
                return Plan(self.denoiser(text, condition), x)
        return Plan(self.denoiser(text, condition), x)

    def nfe(self, knobs: Mapping[str, float] | None = None) -> int:
        """Number of network evaluations for one image, unconditional ones included.

        Raises:
            ConfigError: a knob that the family does not have, or a value out of range.
        """
        values = resolve_knobs(self.knobs, knobs)
        return self.process.nfe(int(values["num_steps"]), guidance_of(values))

    def validation_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Validation errors by eighth of the timesteps; each image's noise is seeded by its index.

        No caption is dropped. Names end in the range's first timestep: ``val_loss_t0``,
        ``val_loss_t125``...
        """
        contexts = self.network.prepare(self.encode_text(batch))
        condition = None
        if self.inpaints:
            everything = torch.ones_like(batch.image[:, :1], dtype=torch.bool)
            condition = self.inpainting_condition(batch.image, everything)
        losses = self.process.bucket_losses(
            self.beside(condition, contexts),
            self.encode_images(batch),
            SeededNoise(batch.index.tolist(), self.device),
            min(VALIDATION_BUCKETS, self.process.timesteps),
        )
        width = self.process.timesteps / len(losses)
        return {f"val_loss_t{round(i * width)}": loss for i, loss in enumerate(losses)}

    # ---- what the process calls ----

    def encode_pixels(self, images: Images) -> Float[Tensor, "B C h w"]:
        """Diffused variables of given images: the images themselves, or their latents."""
        return images if self.first_stage is None else self.first_stage.encode(images)

    def inpainting_condition(self, images: Images, mask: Tensor) -> Float[Tensor, "B C1 h w"]:
        """Condition of the inpainting network: mask and masked image at the network's size."""
        masked = self.encode_pixels(without_region(images, mask))
        return beside(latent_mask(mask, (masked.shape[-2], masked.shape[-1])), masked)

    def beside(self, condition: Tensor | None, contexts: Any) -> Callable[[Tensor, Tensor], Tensor]:
        """A network call with a condition (B, C, h, w) concatenated to x of B or 2B rows."""

        def predict(x: Tensor, t: Tensor) -> Tensor:
            if condition is not None:
                copies = len(x) // len(condition)
                x = torch.cat([x, condition.repeat(copies, 1, 1, 1)], 1)
            return self.network(x, t, contexts)

        return predict

    def denoiser(
        self,
        text: TextFeatures,
        condition: Tensor | None = None,
        mixing: PromptMixing | None = None,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """A network call under B prompts, for B rows, or 2B rows of which half are unconditional.

        Text contexts are computed at the first call of each kind.

        Args:
            text: features of B prompts.
            condition: see ``beside``.
            mixing: a second prompt for the deeper of the network's text layers.
        """
        prepared: dict[int, Any] = {}

        def prepare(rows: int, given: TextFeatures) -> Any:
            if rows > len(given):
                null = self.text_encoder.null(len(given)).to(given.tokens.device)
                given = TextFeatures.cat([given, null])
            return self.network.prepare(given)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            if len(x) not in prepared:
                contexts = prepare(len(x), text)
                if mixing is not None:
                    after = round(mixing.switch * len(contexts))
                    second = prepare(len(x), mixing.text.to(x.device))
                    contexts = [*contexts[:after], *second[after:]]
                prepared[len(x)] = self.beside(condition, contexts)
            return prepared[len(x)](x, t)

        return predict


def latents_of(first_stage: FrozenFirstStage | None) -> dict[str, Target]:
    """Cached targets of latent diffusion; none where pixels are diffused."""
    if first_stage is None:
        return {}
    return {"latents": Target(first_stage.encode, first_stage.fingerprint)}


@dataclass(frozen=True)
class Plan:
    """Arguments of ``DiffusionProcess.sample``.

    Attributes:
        predict: the network call.
        x: (B, ...) initial noise.
        start: x_0 to begin from and the edit's strength, or None.
        between: hook that changes x between steps.
    """

    predict: Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    start: tuple[Tensor, float] | None = None
    between: Between = unchanged


def guidance_of(knobs: Mapping[str, float]) -> Guidance:
    """Classifier-free guidance with the values of a family's knobs."""
    return Guidance(
        knobs["guidance_scale"],
        knobs["guidance_low"],
        knobs["guidance_high"],
        knobs["guidance_rescale"],
    )
