"""Masked transformers as a family: training on hidden codes, and guided parallel decoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.core.edits import Edit, ImageToImage, Inpainting, Mixing, PromptMixing
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import Knob
from t2ibench.core.noise import Noise, SeededNoise, TrainingNoise
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.contract import OptimizerFactory, Target, TextToImageModule
from t2ibench.families.masked.editing import (
    fill_in_windows,
    forgotten_codes,
    grid_of,
    painted_codes,
)
from t2ibench.families.masked.losses import masked_code_loss
from t2ibench.samplers.guidance import Guidance
from t2ibench.samplers.masked import (
    MASKED,
    LogitsOfAll,
    MaskSchedule,
    halton_ranks,
    mask_rate,
    random_masks,
    rising_scale,
    sample_masked,
)
from t2ibench.text.contract import TextEncoder

VALIDATION_RATES = (0.25, 0.5, 0.75, 1.0)
"""Mask rates with a validation loss of their own."""


class MaskedCodes(TextToImageModule):
    """Masked family: predicts hidden first-stage codes from the others, and draws them in parallel.

    It has no ``likelihood``: codes that are drawn in one step are drawn as if they did not depend
    on each other, and which are kept depends on what was drawn.

    Args:
        text_encoder: see ``TextToImageModule``.
        first_stage: frozen VQ autoencoder.
        network: factory of the transformer, called with ``codebook_size``, ``length`` and
            ``text_width``; see ``maskgit.MaskGIT``.
        optimizer: factory of the optimiser.
        resolution: H = W of the images.
        null_text_probability: see ``TextToImageModule``; at 0 there is no guidance, and
            ``choice_temperature`` is the fidelity-alignment knob.
        gradient_clip_norm: see ``TextToImageModule``.
        mask_schedule: of the share of codes that a uniform number hides in training.
        least_mask_rate: least such share.
        label_smoothing: share of the target spread evenly over the codes.
        guidance_scale: default guidance.
        guidance_growth: ``rising`` from none to all of it, or ``constant``.
        num_steps: default number of evaluations.
        sampling_schedule: of the share of codes that are still masked after each step.
        order: codes that are kept first: the most likely (``confidence``), or those that come first
            in the Halton sequence (``halton``).
        temperature: default temperature of the codes.
        choice_temperature: default weight of the Gumbel noise that is added to confidences.

    Raises:
        ConfigError: guidance without an unconditional model, or a first stage without codes.

    Source: Chang et al. 2022 (MaskGIT), section 3; Chang et al. 2023 (Muse), sections 2.3 and 2.6
        to 2.8, for text and guidance.
    Differs: none beyond the network's.
    """

    family: ClassVar[str] = "masked"
    edits: frozenset[str] = frozenset({"img2img", "inpainting", "prompt_mixing", "size"})
    mixings: ClassVar[tuple[Mixing, ...]] = ("step",)
    sampling_arguments: ClassVar[frozenset[str]] = frozenset(
        {
            "guidance_scale",
            "guidance_growth",
            "num_steps",
            "sampling_schedule",
            "order",
            "temperature",
            "choice_temperature",
        }
    )

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
        mask_schedule: MaskSchedule,
        least_mask_rate: float,
        label_smoothing: float,
        guidance_scale: float,
        guidance_growth: Literal["rising", "constant"],
        num_steps: int,
        sampling_schedule: MaskSchedule,
        order: Literal["confidence", "halton"],
        temperature: float,
        choice_temperature: float,
    ) -> None:
        super().__init__(
            text_encoder=text_encoder,
            resolution=resolution,
            null_text_probability=null_text_probability,
            gradient_clip_norm=gradient_clip_norm,
        )
        if guidance_scale != 1 and null_text_probability == 0:
            raise ConfigError(
                f"model.module.guidance_scale={guidance_scale} needs a model without text to steer "
                "away from; set model.module.null_text_probability=0.1, or guidance_scale=1."
            )
        self.first_stage = first_stage
        self.side = resolution // first_stage.spatial_factor
        self.codebook_size = first_stage.codebook_size
        # A module with ``prepare``: see ``maskgit.MaskGIT``.
        self.network: Any = network(
            codebook_size=self.codebook_size,
            length=self.side**2,
            text_width=text_encoder.width,
        )
        self.make_optimizer = optimizer
        self.mask_schedule = mask_schedule
        self.least_mask_rate = least_mask_rate
        self.label_smoothing = label_smoothing
        self.guidance_growth = guidance_growth
        self.sampling_schedule = sampling_schedule
        self.order = order
        self.defaults = {
            "guidance_scale": guidance_scale,
            "num_steps": num_steps,
            "temperature": temperature,
            "choice_temperature": choice_temperature,
        }

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Sampling knobs: guidance, where text was dropped in training; steps; temperatures."""
        guided, default = self.null_text_probability > 0, self.defaults
        scale = Knob(
            "guidance_scale", default["guidance_scale"], 0.0, 30.0, True, (1.0, 1.5, 2.0, 3.0, 5.0)
        )
        choice = Knob(
            "choice_temperature",
            default["choice_temperature"],
            0.0,
            100.0,
            not guided,
            () if guided else (0.0, 1.0, 2.0, 4.5, 9.0),
        )
        return (
            *([scale] if guided else []),
            Knob("num_steps", default["num_steps"], 1, 1000, integer=True),
            Knob("temperature", default["temperature"], 0.0, 2.0),
            choice,
        )

    def configure_optimizers(self) -> Any:
        """Makes one optimiser of all trainable parameters."""
        return self.make_optimizer([p for p in self.parameters() if p.requires_grad])

    def targets(self) -> dict[str, Target]:
        """Cached targets: code indices (B, N) in raster order."""
        return {"codes": Target(self.first_stage.codes, self.first_stage.fingerprint)}

    def codes_of(self, batch: Batch) -> Int[Tensor, "B N"]:
        """Codes of a batch's images, from the cache or encoded now."""
        kept = batch.targets.get("codes")
        return self.first_stage.codes(batch.image) if kept is None else kept

    def training_masks(self, codes: Int[Tensor, "B N"]) -> Bool[Tensor, "B N"]:
        """Random masks of a training step: of each image a share of its codes, at least one.

        Source: Chang et al. 2022 (MaskGIT), section 3.1; authors' configuration for the least rate.
        Differs: none.
        """
        noise = TrainingNoise(len(codes), codes.device)
        rates = mask_rate(noise.uniform(), self.mask_schedule, max(2, codes.shape[1]))
        return random_masks(rates.clamp(min=self.least_mask_rate), noise.uniform(codes.shape[1]))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs one step on the cross-entropy of the masked codes."""
        codes = self.codes_of(batch)
        contexts = self.network.prepare(self.drop_text(self.encode_text(batch)))
        masked = self.training_masks(codes)
        logits = self.network(codes.masked_fill(masked, MASKED), contexts)
        loss = masked_code_loss(logits, codes, masked, self.label_smoothing)
        parameters = [p for p in self.parameters() if p.requires_grad]
        self.optimise(self.optimizers(), loss, parameters)  # type: ignore[arg-type]
        return {"loss": loss.detach()}

    def validation_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy in nats a masked code, by mask rate; the masks are seeded by image index.

        No caption is dropped, nothing is smoothed. Names end in the rate: ``val_loss_masked_25``...
        """
        codes = self.codes_of(batch)
        uniform = SeededNoise(batch.index.tolist(), codes.device).uniform(codes.shape[1])
        was_training = self.training
        self.eval()
        try:
            contexts = self.network.prepare(self.encode_text(batch))
            found = {}
            for rate in VALIDATION_RATES:
                masked = random_masks(uniform.new_full((len(codes),), rate), uniform)
                logits = self.network(codes.masked_fill(masked, MASKED), contexts)
                loss = masked_code_loss(logits[..., : self.codebook_size], codes, masked, 0.0)
                found[f"val_loss_masked_{round(100 * rate)}"] = loss
        finally:
            self.train(was_training)
        return found

    def sample(
        self,
        text: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
        *,
        size: tuple[int, int] | None = None,
        edit: Edit | None = None,
    ) -> Images:
        """Draws the codes that are not known, and decodes all.

        Args:
            text: features of B prompts.
            noise: per-sample noise of the B images.
            knobs: complete and checked values.
            size: height and width in pixels; None: those of the edit's image, or the training
                resolution. A larger canvas is filled window by window.
            edit: an edit that ``edits`` names; None: none. What inpainting keeps is kept to the
                bit; img2img keeps codes, whose pixels are those of the first stage.

        Raises:
            ConfigError: a side is no multiple of the first stage's factor, or below the training
                resolution.

        Source: Chang et al. 2022 (MaskGIT), sections 3.2 and 4.3.
        Differs: where a mask covers part of a code, the code is drawn anew and the rest of its
            pixels pasted; the authors' code also draws a border of codes around the mask, and
            blends.
        """
        image = getattr(edit, "image", None)
        size = size or (self.resolution, self.resolution)
        if image is not None:
            size = (image.shape[-2], image.shape[-1])
        grid = grid_of(size, self.first_stage.spatial_factor, self.side)
        codes = self.known_codes(noise, grid, edit)
        ranks = halton_ranks(self.side, self.side) if self.order == "halton" else None
        logits_of = self.guided(text, knobs, edit if isinstance(edit, PromptMixing) else None)

        def fill(window: Int[Tensor, "B M"]) -> Int[Tensor, "B M"]:
            return sample_masked(
                logits_of,
                window,
                noise,
                num_steps=int(knobs["num_steps"]),
                schedule=self.sampling_schedule,
                temperature=knobs["temperature"],
                choice_temperature=knobs["choice_temperature"],
                ranks=ranks,
            )

        if grid == (self.side, self.side):
            codes = fill(codes)
        else:
            codes = fill_in_windows(codes, grid, self.side, fill)
        images = self.decode(codes, grid)
        return edit.paste(images) if isinstance(edit, Inpainting) else images

    # ---- what sampling is made of ----

    def known_codes(
        self, noise: Noise, grid: tuple[int, int], edit: Edit | None
    ) -> Int[Tensor, "B N"]:
        """Codes to begin with, ``MASKED`` where they are drawn."""
        count = grid[0] * grid[1]
        if not isinstance(edit, ImageToImage | Inpainting):
            return torch.full((len(noise), count), MASKED, device=noise.device)
        codes = self.first_stage.codes(edit.image.to(noise.device))
        if isinstance(edit, ImageToImage):
            return codes.masked_fill(forgotten_codes(noise, count, edit.strength), MASKED)
        return codes.masked_fill(painted_codes(edit.mask.to(noise.device), grid), MASKED)

    def guided(
        self, text: TextFeatures, knobs: Mapping[str, float], mixing: PromptMixing | None
    ) -> LogitsOfAll:
        """Guided logits of the codes, both halves of guidance in one batch.

        Args:
            text: features of B prompts.
            knobs: complete and checked values.
            mixing: a second prompt for the later steps.
        """
        scale, num_steps = knobs.get("guidance_scale", 1.0), int(knobs["num_steps"])
        prompts = [text] if mixing is None else [text, mixing.text.to(text.tokens.device)]
        if scale != 1:
            null = self.text_encoder.null(len(text)).to(text.tokens.device)
            prompts = [TextFeatures.cat([prompt, null]) for prompt in prompts]
        contexts = [self.network.prepare(prompt) for prompt in prompts]
        after = num_steps if mixing is None else round(mixing.switch * num_steps)

        def logits_of(codes: Int[Tensor, "B N"], step: int) -> Float[Tensor, "B N V"]:
            context = contexts[int(step >= after)]
            if scale == 1:
                return self.network(codes, context)[..., : self.codebook_size]
            both = self.network(codes.repeat(2, 1), context)[..., : self.codebook_size]
            weight = scale
            if self.guidance_growth == "rising":
                weight = rising_scale(scale, (step + 1) / num_steps)
            return Guidance(weight).combine(*both.chunk(2))

        return logits_of

    def decode(self, codes: Int[Tensor, "B N"], grid: tuple[int, int]) -> Images:
        """Images of codes of a grid that need not be square."""
        stage: Any = self.first_stage.autoencoder
        vectors = stage.lookup(codes).unflatten(1, grid)
        return stage.decode_vectors(vectors.permute(0, 3, 1, 2))
