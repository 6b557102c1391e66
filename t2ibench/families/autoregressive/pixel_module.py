"""Autoregression over the 8-bit values of pixels: likelihood, training, sampling, completion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from t2ibench.core.edits import Inpainting
from t2ibench.core.knobs import Knob
from t2ibench.core.noise import Noise
from t2ibench.core.pixels import from_pixels, to_pixels
from t2ibench.core.types import Batch, Images, PixelImages, TextFeatures
from t2ibench.families.autoregressive.pixel_cnn import LEVELS
from t2ibench.families.autoregressive.raster import cached_logits, check_side, completing
from t2ibench.families.contract import Likelihood, OptimizerFactory, TextToImageModule
from t2ibench.samplers.autoregressive import sample_tokens
from t2ibench.text.contract import TextEncoder


class AutoregressivePixels(TextToImageModule):
    r"""Autoregression over pixels: :math:`p(x) = \prod_i p(x_i \mid x_{<i}, \text{text})`.

    The values x_i are the 3 H W bytes of an image, pixels in raster order and in each red, green,
    blue; ``likelihood`` is theirs, exact, in bits a dimension as published for pixel models.

    ``inpainting`` completes an image: known pixels are given and not drawn, the others are drawn
    in raster order. A drawn pixel depends on pixels before it and on no known one after it, so
    only a mask that is the end of the raster order (the lower half) is conditioned on all that is
    known within the network's reach; of any other the known pixels below the mask are kept and
    were not looked at.

    Args:
        text_encoder: see ``TextToImageModule``.
        network: factory of the network, called with ``side`` and ``text_width``.
        optimizer: factory of the optimiser.
        resolution: H = W of the images.
        null_text_probability: see ``TextToImageModule``.
        gradient_clip_norm: see ``TextToImageModule``.
        guidance_scale: default guidance.
        temperature: default temperature.

    Source: van den Oord et al. 2016 (PixelRNN), eq. 1 and 2; guidance as in Yu et al. 2022 (Parti).
    Differs: none beyond the guidance.
    """

    family: ClassVar[str] = "autoregressive"
    edits: frozenset[str] = frozenset({"inpainting"})
    sampling_arguments: ClassVar[frozenset[str]] = frozenset({"guidance_scale", "temperature"})

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        network: Callable[..., nn.Module],
        optimizer: OptimizerFactory,
        resolution: int,
        null_text_probability: float,
        gradient_clip_norm: float,
        guidance_scale: float,
        temperature: float,
    ) -> None:
        super().__init__(
            text_encoder=text_encoder,
            resolution=resolution,
            null_text_probability=null_text_probability,
            gradient_clip_norm=gradient_clip_norm,
        )
        self.network: Any = network(side=resolution, text_width=text_encoder.width)
        self.make_optimizer = optimizer
        self.default_guidance = guidance_scale
        self.default_temperature = temperature

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Sampling knobs: guidance, temperature, top-k and top-p."""
        sweep = (1.0, 1.5, 2.0, 3.0, 5.0)
        return (
            Knob("guidance_scale", self.default_guidance, 0.0, 30.0, True, sweep),
            Knob("temperature", self.default_temperature, 0.0, 2.0),
            Knob("top_k", 0, 0, LEVELS, integer=True),
            Knob("top_p", 1.0, 0.01, 1.0),
        )

    def configure_optimizers(self) -> Any:
        """Makes one optimiser of all trainable parameters."""
        return self.make_optimizer([p for p in self.parameters() if p.requires_grad])

    def nats(self, image: Images, text: TextFeatures) -> Float[Tensor, "B 3 H W"]:
        """Negative log-likelihood of every value given those before it."""
        levels = to_pixels(image)
        logits = self.network(from_pixels(levels, image.dtype), text)
        return cross_entropy(logits.float(), levels.long(), reduction="none")

    def likelihood(self, batch: Batch) -> Likelihood:
        """Exact negative log-likelihood of the images' 8-bit values."""
        nats = self.nats(batch.image, self.encode_text(batch)).flatten(1)
        return Likelihood(nats.sum(1), nats.shape[1], "pixels", bound=False)

    def validation_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of a value, in nats, with the captions and without any."""
        text = self.encode_text(batch)
        both = (text, self.null_like(text))
        given, without = (self.nats(batch.image, features).mean() for features in both)
        return {"loss": given, "loss_without_text": without}

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs one step on the teacher-forced cross-entropy of every value, in nats."""
        loss = self.nats(batch.image, self.drop_text(self.encode_text(batch))).mean()
        parameters = [p for p in self.parameters() if p.requires_grad]
        self.optimise(self.optimizers(), loss, parameters)  # type: ignore[arg-type]
        return {"loss": loss.detach()}

    def sample(
        self,
        text: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
        edit: Inpainting | None = None,
    ) -> Images:
        """Samples value by value with a cache; an edit's known pixels are given."""
        logits = cached_logits(self.network, text, self.null_like, knobs["guidance_scale"])
        if edit is not None:
            check_side(edit.image, self.resolution)
            known = sequence(to_pixels(edit.image.to(text.tokens.device))).long()
            drawn = sequence(edit.mask.to(known.device).expand_as(edit.image))
            logits = completing(logits, known, drawn)
        levels = sample_tokens(
            logits,
            3 * self.resolution**2,
            noise,
            temperature=knobs["temperature"],
            top_k=int(knobs["top_k"]),
            top_p=knobs["top_p"],
        )
        side = self.resolution
        pixels: PixelImages = levels.view(-1, side, side, 3).permute(0, 3, 1, 2).byte()
        images = from_pixels(pixels)
        return images if edit is None else edit.paste(images)


def sequence(images: Tensor) -> Tensor:
    """Values (B, 3, H, W) in the order in which they are drawn, (B, 3 H W)."""
    return images.permute(0, 2, 3, 1).flatten(1)
