"""unCLIP as a family: a prior from captions to CLIP image embeddings, and a decoder of those.

Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP Latents". Prior
and decoder are separate networks, trained on the same batches in one run. The published
upsamplers are separate models: super-resolution without text.

E is the width of the CLIP space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.core.edits import Edit, ImageInterpolation, Variation, slerp
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import Knob
from t2ibench.core.noise import Noise
from t2ibench.core.ranks import own_rows
from t2ibench.core.types import Batch, Images, TextFeatures
from t2ibench.families.contract import OptimizerFactory, Target, TextToImageModule
from t2ibench.families.diffusion.module import latents_of
from t2ibench.families.diffusion.unclip_prior import Process
from t2ibench.families.frozen_clip import FrozenClip
from t2ibench.samplers.guidance import guided
from t2ibench.text.contract import TextEncoder

IMAGE_TOKENS = 4
"""Number of tokens that represent an image embedding; Ramesh et al. 2022, section 2.1."""


class ImageConditioning(nn.Module):
    """Adds an image embedding to text features: as tokens in front, and to the sentence vector.

    Source: Ramesh et al. 2022 (unCLIP), section 2.1.
    Differs: the mean of the tokens is added to the sentence vector, so that conditioning by
        concatenation and by modulation read the embedding, too.
    """

    def __init__(self, embedding_width: int, text_width: int) -> None:
        super().__init__()
        self.tokens = nn.Linear(embedding_width, IMAGE_TOKENS * text_width)

    def forward(self, scaled: Float[Tensor, "B E"], text: TextFeatures) -> TextFeatures:
        """Text features of 4 + L tokens."""
        tokens = self.tokens(scaled).unflatten(1, (IMAGE_TOKENS, text.width))
        real = text.mask.new_ones(len(text), IMAGE_TOKENS)
        return TextFeatures(
            torch.cat([tokens, text.tokens], 1),
            torch.cat([real, text.mask], 1),
            text.pooled + tokens.mean(1),
        )


class UnCLIP(TextToImageModule):
    """unCLIP family: caption -> CLIP image embedding (prior) -> image (decoder).

    Args:
        text_encoder: see ``TextToImageModule``; the prior and the decoder share it.
        clip: frozen CLIP with measured statistics.
        prior: factory of the prior, called with ``embedding_width`` and ``text_width``.
        network: factory of the decoder, called with ``latent_channels``, ``text_width`` and
            ``vector_width``.
        process: noise schedule, training loss and solver of the decoder.
        optimizer: factory of the optimiser.
        resolution: H = W of the images.
        null_text_probability: share of captions dropped for the prior in training.
        decoder_null_text_probability: share of captions dropped for the decoder.
        null_embedding_probability: share of image embeddings dropped for the decoder.
        gradient_clip_norm: see ``TextToImageModule``.
        guidance_scale: default guidance of the decoder.
        first_stage: frozen autoencoder whose latents the decoder denoises; None: pixels.

    Source: Ramesh et al. 2022 (unCLIP), section 2.
    Differs: prior and decoder are trained in one run with one text encoder; latents are
        allowed; an embedding that is dropped is zero after scaling.
    """

    family: ClassVar[str] = "diffusion"
    edits: frozenset[str] = frozenset({"variations", "image_interpolation"})
    sampling_arguments: ClassVar[frozenset[str]] = frozenset({"guidance_scale"})

    def __init__(
        self,
        *,
        text_encoder: TextEncoder,
        clip: FrozenClip,
        prior: Callable[..., nn.Module],
        network: Callable[..., nn.Module],
        process: Process,
        optimizer: OptimizerFactory,
        resolution: int,
        null_text_probability: float,
        decoder_null_text_probability: float,
        null_embedding_probability: float,
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
        self.clip = clip
        self.first_stage = first_stage
        self.prior: Any = prior(embedding_width=clip.width, text_width=text_encoder.width)
        self.condition = ImageConditioning(clip.width, text_encoder.width)
        self.channels = 3 if first_stage is None else first_stage.latent_channels
        # A module with ``prepare``: see ``fast_unet.FastUNet``.
        self.network: Any = network(
            latent_channels=self.channels, text_width=text_encoder.width, vector_width=clip.width
        )
        self.process = process
        self.make_optimizer = optimizer
        self.decoder_null_text_probability = decoder_null_text_probability
        self.null_embedding_probability = null_embedding_probability
        self.default_guidance = guidance_scale

    def targets(self) -> dict[str, Target]:
        """Cached targets: latents where there is a first stage; the CLIP reads the images."""
        return latents_of(self.first_stage)

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Sampling knobs: the decoder's guidance and steps, then those of the prior."""
        sweep = (1.0, 1.5, 2.0, 3.0, 5.0)
        front = Knob("guidance_scale", self.default_guidance, 0.0, 30.0, True, sweep)
        return (front, *self.process.knobs(), *self.prior.knobs)

    def parts(self) -> dict[str, nn.Module]:
        """Networks by name, including the CLIP's frozen towers."""
        return super().parts() | {"clip": self.clip.towers}

    def configure_optimizers(self) -> Any:
        """Makes one optimiser of all trainable parameters."""
        return self.make_optimizer([p for p in self.parameters() if p.requires_grad])

    # ---- captions ----

    def encode_captions(self, captions: Sequence[str]) -> TextFeatures:
        """Text features with the captions' CLIP embeddings."""
        text = super().encode_captions(captions)
        return replace(text, embedding=self.clip.embed_texts(captions))

    def encode_text(self, batch: Batch) -> TextFeatures:
        """Text features of a batch with CLIP embeddings, from the cache where there is one."""
        text = super().encode_text(batch)
        if text.embedding is not None:
            return text
        return replace(text, embedding=self.clip.embed_texts(batch.caption))

    def null_text(self, count: int) -> TextFeatures:
        """Unconditional input: the text encoder's, with a CLIP embedding of zeros."""
        null = self.text_encoder.null(count).to(self.device)
        return replace(null, embedding=null.pooled.new_zeros(count, self.clip.width))

    def without(self, text: TextFeatures, probability: float) -> TextFeatures:
        """Replaces each caption by ``null_text`` with a given probability."""
        draws = own_rows(lambda n: torch.rand(n, device=self.device), len(text))
        keep = draws >= probability
        return text.where(keep, self.null_text(len(text)))

    # ---- training ----

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Performs one step on the prior's and the decoder's errors, each with its own dropping."""
        embeddings = self.clip.embed_images(batch.image)
        text = self.encode_text(batch)
        given = self.without(text, self.null_text_probability)
        prior_loss = self.prior.loss(self.clip, embeddings, given)
        decoder_loss = self.decoder_loss(self.target(batch), embeddings, text)
        loss = prior_loss + decoder_loss
        parameters = [p for p in self.parameters() if p.requires_grad]
        self.optimise(self.optimizers(), loss, parameters)  # type: ignore[arg-type]
        logs = {"loss": loss, "prior_loss": prior_loss, "decoder_loss": decoder_loss}
        return {name: value.detach() for name, value in logs.items()}

    def target(self, batch: Batch) -> Float[Tensor, "B C h w"]:
        """Variables that the decoder denoises: pixels, or latents from the cache or encoded now."""
        if self.first_stage is None:
            return batch.image
        kept = batch.targets.get("latents")
        return self.first_stage.encode(batch.image) if kept is None else kept

    def decoder_loss(
        self, target: Float[Tensor, "B C h w"], embeddings: Tensor, text: TextFeatures
    ) -> Float[Tensor, ""]:
        """Denoising error of the decoder given true image embeddings.

        Source: Ramesh et al. 2022 (unCLIP), section 2.1.
        Differs: see the class.
        """
        text = self.without(text, self.decoder_null_text_probability)
        draws = own_rows(lambda n: torch.rand(n, 1, device=self.device), len(text))
        keep = draws >= self.null_embedding_probability
        vector = self.clip.scaled(embeddings) * keep
        contexts = self.network.prepare(self.condition(vector, text))
        return self.process.training_loss(
            lambda x, t: self.network(x, t, contexts, vector=vector), target
        )

    # ---- sampling ----

    def sample(
        self,
        text: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
        *,
        edit: Edit | None = None,
    ) -> Images:
        """Samples an image embedding with the prior, or takes given images', and decodes it.

        Raises:
            ConfigError: the features have no CLIP embedding.
        """
        if edit is not None:
            return self.decode(self.embedding_of(edit), self.null_text(len(text)), noise, knobs)
        if text.embedding is None:
            raise ConfigError(
                "UnCLIP got text features without CLIP embeddings; give it the captions, or what "
                "its own encode_captions makes of them."
            )
        null = self.null_text(len(text))
        embeddings = self.prior.sample(self.clip, text, null, noise, knobs)
        return self.decode(embeddings, text, noise, knobs)

    def decode(
        self,
        embeddings: Float[Tensor, "B E"],
        text: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
    ) -> Images:
        """Images of CLIP image embeddings; guidance drops embedding and caption together.

        Args:
            embeddings: embeddings of B images, in CLIP's own scale.
            text: features of B captions, or ``null_text``.
            noise: per-sample noise of the B images.
            knobs: complete and checked values.
        """
        scale, count = knobs["guidance_scale"], len(text)
        vector = self.clip.scaled(embeddings)
        if scale != 1:
            vector = torch.cat([vector, torch.zeros_like(vector)])
            text = TextFeatures.cat([text, self.null_text(count)])
        contexts = self.network.prepare(self.condition(vector, text))

        def predict(x: Tensor, t: Tensor) -> Tensor:
            # A sampling step has one time, whatever rows guidance adds.
            return self.network(x, t[:1].expand(len(x)), contexts, vector=vector)

        factor = 1 if self.first_stage is None else self.first_stage.spatial_factor
        side = self.resolution // factor
        x = self.process.sample(
            guided(predict, scale),
            noise.normal(self.channels, side, side),
            noise,
            num_steps=int(knobs["num_steps"]),
            eta=knobs.get("eta", 0.0),
        )
        return x if self.first_stage is None else self.first_stage.decode(x)

    def embedding_of(self, edit: Edit) -> Float[Tensor, "B E"]:
        """Image embeddings of an edit; captions and the prior's knobs then have no effect.

        Source: Ramesh et al. 2022 (unCLIP), sections 3.1 (variations) and 3.2 (interpolations).
        Differs: x_T is drawn, where the paper takes the image's own by DDIM inversion.
        """
        if isinstance(edit, ImageInterpolation):
            first = self.clip.embed_images(edit.image.to(self.device))
            return slerp(first, self.clip.embed_images(edit.other.to(self.device)), edit.weight)
        assert isinstance(edit, Variation)
        return self.clip.embed_images(edit.image.to(self.device))
