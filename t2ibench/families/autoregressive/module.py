"""Autoregression over codes as a family: next-code training, guided sampling with a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.core.knobs import Knob
from t2ibench.core.noise import Noise
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.autoregressive.losses import next_code_loss
from t2ibench.families.autoregressive.raster import cached_logits
from t2ibench.families.autoregressive.weight_decay import Decayed, decay_groups
from t2ibench.families.contract import (
    Likelihood,
    OptimizerFactory,
    Target,
    TextToImageModule,
)
from t2ibench.samplers.autoregressive import NextLogits, sample_tokens
from t2ibench.text.contract import TextEncoder


class CodeNetwork(Protocol):
    """A transformer over codes as this family calls it: a module with these methods.

    Attributes:
        decays: which of the weights decay.
    """

    decays: Decayed

    def __call__(self, codes: Int[Tensor, "B N"], text: TextFeatures) -> Float[Tensor, "B N V"]:
        """Logits of every code given those before it and the text (teacher forcing)."""
        ...

    def start_cache(self, text: TextFeatures) -> Any:
        """A cache that holds what depends on the prompts alone."""
        ...

    def step(
        self, token: Int[Tensor, " B"] | None, position: int, cache: Any
    ) -> Float[Tensor, "B V"]:
        """Logits of the code at ``position``, those of ``__call__``; advances the cache.

        Args:
            token: the code before it; None at position 0.
            position: positions come in their order.
            cache: from ``start_cache``.
        """
        ...


class AutoregressiveCodes(TextToImageModule):
    """Autoregressive family: predicts first-stage codes one after the other.

    Args:
        text_encoder: see ``TextToImageModule``.
        first_stage: frozen VQ autoencoder.
        network: factory of a ``CodeNetwork``, called with ``codebook_size``, ``length``,
            ``text_width`` and ``text_length`` (most tokens of a caption).
        optimizer: factory of the optimiser.
        resolution: H = W of the images.
        null_text_probability: see ``TextToImageModule``.
        gradient_clip_norm: see ``TextToImageModule``.
        label_smoothing: share of the target spread evenly over the codebook.
        guidance_scale: default guidance.
        temperature: default temperature.
        top_k: default number of most likely codes that are drawn from; 0 draws from all, as does
            a number above the codebook's size.
        top_p: default probability of the most likely codes that are drawn from.

    Source: Esser et al. 2021 (VQGAN), section 3.2; guidance as in Yu et al. 2022 (Parti).
    Differs: none beyond the network's.
    """

    family: ClassVar[str] = "autoregressive"
    sampling_arguments: ClassVar[frozenset[str]] = frozenset(
        {"guidance_scale", "temperature", "top_k", "top_p"}
    )

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        first_stage: FrozenFirstStage,
        network: Callable[..., CodeNetwork],
        optimizer: OptimizerFactory,
        resolution: int,
        null_text_probability: float,
        gradient_clip_norm: float,
        label_smoothing: float,
        guidance_scale: float,
        temperature: float,
        # Runs from before these were configured load with what was then fixed.
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> None:
        super().__init__(
            text_encoder=text_encoder,
            resolution=resolution,
            null_text_probability=null_text_probability,
            gradient_clip_norm=gradient_clip_norm,
        )
        self.first_stage = first_stage
        self.length = (resolution // first_stage.spatial_factor) ** 2
        self.codebook_size = first_stage.codebook_size
        self.network: Any = network(
            codebook_size=self.codebook_size,
            length=self.length,
            text_width=text_encoder.width,
            text_length=text_encoder.max_length,
        )
        self.make_optimizer = optimizer
        self.label_smoothing = label_smoothing
        self.default_guidance = guidance_scale
        self.default_temperature = temperature
        self.default_top_k, self.default_top_p = min(top_k, self.codebook_size), top_p

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Sampling knobs: guidance, temperature, top-k and top-p."""
        sweep = tuple(sorted({1.0, 1.5, 2.0, 3.0, 5.0, self.default_guidance}))
        return (
            Knob("guidance_scale", self.default_guidance, 0.0, 30.0, True, sweep),
            Knob("temperature", self.default_temperature, 0.0, 2.0),
            Knob("top_k", self.default_top_k, 0, self.codebook_size, integer=True),
            Knob("top_p", self.default_top_p, 0.01, 1.0),
        )

    def configure_optimizers(self) -> Any:
        """Makes one optimiser of all trainable parameters, grouped by what decays."""
        return self.make_optimizer(decay_groups(self, self.network.decays))

    def targets(self) -> dict[str, Target]:
        """Cached targets: code indices (B, N) in raster order."""
        return {"codes": Target(self.first_stage.codes, self.first_stage.fingerprint)}

    def codes_of(self, batch: Batch) -> Int[Tensor, "B N"]:
        """Codes of a batch's images, from the cache or encoded now."""
        kept = batch.targets.get("codes")
        return self.first_stage.codes(batch.image) if kept is None else kept

    def null_like(self, text: TextFeatures) -> TextFeatures:
        """The network's own unconditional input where it has one, else the text encoder's."""
        own = getattr(self.network, "null_like", None)
        return super().null_like(text) if own is None else own(text)

    def likelihood(self, batch: Batch) -> Likelihood:
        """Exact negative log-likelihood of codes: -sum_i log p(code_i | codes before, text)."""
        codes = self.codes_of(batch)
        logits = self.network(codes, self.encode_text(batch))
        nats = cross_entropy(logits.float().transpose(1, 2), codes, reduction="none").sum(1)
        return Likelihood(nats, codes.shape[1], "codes", bound=False)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs one step on the teacher-forced cross-entropy of every code."""
        codes = self.codes_of(batch)
        text = self.drop_text(self.encode_text(batch))
        loss = next_code_loss(self.network(codes, text), codes, self.label_smoothing)
        parameters = [p for p in self.parameters() if p.requires_grad]
        self.optimise(self.optimizers(), loss, parameters)  # type: ignore[arg-type]
        return {"loss": loss.detach()}

    def next_logits(self, text: TextFeatures, knobs: Mapping[str, float]) -> NextLogits:
        """Logits of the next code from a cache, guidance's two halves in one batch."""
        return cached_logits(self.network, text, self.null_like, knobs["guidance_scale"])

    def drawn(self, logits: NextLogits, noise: Noise, knobs: Mapping[str, float]) -> Images:
        """Images of codes that are drawn one after the other."""
        codes = sample_tokens(
            logits,
            self.length,
            noise,
            temperature=knobs["temperature"],
            top_k=int(knobs["top_k"]),
            top_p=knobs["top_p"],
        )
        return self.first_stage.decode_codes(codes)

    def sample(self, text: TextFeatures, noise: Noise, knobs: Mapping[str, float]) -> Images:
        """Samples codes and decodes them."""
        return self.drawn(self.next_logits(text, knobs), noise, knobs)
