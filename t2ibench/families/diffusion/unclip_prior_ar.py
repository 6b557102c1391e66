"""The autoregressive prior of unCLIP: a CLIP embedding as a sequence of buckets.

Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP Latents",
section 2.2. In the published table the diffusion prior is the better and cheaper one.

E is the width of the CLIP space, K the principal axes that are predicted, V buckets an axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import Knob
from t2ibench.core.noise import Noise
from t2ibench.core.types import TextFeatures
from t2ibench.families.diffusion.unclip_prior import CausalTransformer, Read, TextPrefix
from t2ibench.families.frozen_clip import QUANTILES, FrozenClip
from t2ibench.samplers.autoregressive import guided_logits, sample_tokens


class AutoregressivePrior(nn.Module):
    """Autoregressive prior: predicts an image embedding axis by axis, in one of V buckets each.

    The prefix is the text, z_t and a token for the dot product of z_i and z_t; in sampling
    that product is drawn from the upper half of the true pairs' distribution.

    Args:
        embedding_width: E.
        text_width: D of the text features.
        width: D of the transformer.
        depth: layers.
        heads: A.
        dimensions: K, the widest principal axes.
        buckets: V, of equal width over ``reach`` standard deviations each way.
        reach: see ``buckets``; coordinates beyond are in the outermost buckets.
        dot_buckets: number of buckets of the dot product, equally full.
        guidance_scale: default guidance.
        temperature: default temperature.

    Source: Ramesh et al. 2022 (unCLIP), section 2.2 and appendix C.
    Differs: the paper does not say where its buckets end; a caption that is dropped has no dot
        product, but a token of its own.
    """

    sampling_arguments: ClassVar[frozenset[str]] = frozenset({"guidance_scale", "temperature"})

    def __init__(
        self,
        *,
        embedding_width: int,
        text_width: int,
        width: int,
        depth: int,
        heads: int,
        dimensions: int,
        buckets: int,
        reach: float,
        dot_buckets: int,
        guidance_scale: float,
        temperature: float,
    ) -> None:
        super().__init__()
        if not 1 <= dimensions <= embedding_width:
            raise ConfigError(
                f"model.module.prior.dimensions={dimensions} must be between 1 and the CLIP's "
                f"width {embedding_width}."
            )
        self.dimensions, self.buckets, self.reach = dimensions, buckets, reach
        self.dot_buckets = dot_buckets
        self.default_guidance, self.default_temperature = guidance_scale, temperature
        self.prefix = TextPrefix(embedding_width, text_width, width)
        self.dot = nn.Embedding(dot_buckets + 1, width)
        self.value = nn.Embedding(buckets, width)
        self.axis = nn.Parameter(torch.randn(dimensions - 1, width) * 0.02)
        self.transformer = CausalTransformer(width, depth, heads)
        self.head = nn.Linear(width, buckets)

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Sampling knobs of the prior: guidance and temperature."""
        return (
            Knob("prior_guidance_scale", self.default_guidance, 0.0, 30.0),
            Knob("prior_temperature", self.default_temperature, 0.0, 2.0),
        )

    def quantise(self, clip: FrozenClip, embeddings: Float[Tensor, "B E"]) -> Int[Tensor, "B K"]:
        """Buckets of the coordinates on the widest principal axes."""
        axes, spread = clip.axes[: self.dimensions], clip.spread[: self.dimensions]
        coordinates = clip.scaled(embeddings) @ axes.T / spread
        places = (coordinates / self.reach + 1) / 2 * self.buckets
        return places.floor().long().clamp(0, self.buckets - 1)

    def dequantise(self, clip: FrozenClip, codes: Int[Tensor, "B K"]) -> Float[Tensor, "B E"]:
        """Embeddings at the centres of the buckets; axes that are left out are zero."""
        axes, spread = clip.axes[: self.dimensions], clip.spread[: self.dimensions]
        coordinates = ((codes + 0.5) / self.buckets * 2 - 1) * self.reach
        return clip.unscaled((coordinates * spread) @ axes)

    def dot_token(
        self, clip: FrozenClip, embeddings: Float[Tensor, "B E"], text: TextFeatures
    ) -> Int[Tensor, " B"]:
        """Bucket of z_i . z_t among true pairs; the last token where the caption is dropped."""
        assert text.embedding is not None, "the prior reads captions with their CLIP embedding"
        places = torch.arange(1, self.dot_buckets) * QUANTILES // self.dot_buckets
        dots = (embeddings * text.embedding).sum(1)
        found = torch.bucketize(dots, clip.dot_quantiles[places.to(dots.device)])
        return found.masked_fill((text.embedding == 0).all(1), self.dot_buckets)

    def read(self, text: TextFeatures, dots: Int[Tensor, " B"]) -> Read:
        """State of the prefix (text, z_t, dot product); its last output predicts the first axis."""
        tokens, mask = self.prefix(text)
        tokens = torch.cat([tokens, self.dot(dots).unsqueeze(1)], 1)
        return self.transformer(tokens, torch.cat([mask, mask[:, -1:]], 1))[1]

    def forward(self, codes: Int[Tensor, "B K"], read: Read) -> Float[Tensor, "B K V"]:
        """Logits of every axis given those before it (teacher forcing)."""
        x = self.value(codes[:, :-1]) + self.axis
        out, _ = self.transformer(x, past=read)
        return self.head(torch.cat([read.last.unsqueeze(1), out], 1))

    def loss(
        self, clip: FrozenClip, embeddings: Float[Tensor, "B E"], text: TextFeatures
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the buckets: -mean log p(bucket), in nats an axis.

        Args:
            clip: gives the principal axes.
            embeddings: CLIP embeddings of images.
            text: features of their captions, some of them dropped.
        """
        codes = self.quantise(clip, embeddings)
        logits = self(codes, self.read(text, self.dot_token(clip, embeddings, text)))
        return cross_entropy(logits.flatten(0, 1).float(), codes.flatten())

    def sample(
        self,
        clip: FrozenClip,
        text: TextFeatures,
        null: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
    ) -> Float[Tensor, "B E"]:
        """Samples image embeddings axis by axis; guidance's two halves form one batch.

        Args:
            clip: gives the principal axes.
            text: features of B prompts.
            null: the unconditional input, B times.
            noise: per-sample noise of the B images.
            knobs: values that include those of ``knobs``.
        """
        scale, lower = knobs["prior_guidance_scale"], self.dot_buckets // 2
        upper = self.dot_buckets - lower
        dots = lower + (noise.uniform() * upper).long().clamp(max=upper - 1)
        if scale != 1:
            text = TextFeatures.cat([text, null])
            dots = torch.cat([dots, torch.full_like(dots, self.dot_buckets)])
        read = self.read(text, dots)

        def next_logits(token: Tensor | None, position: int) -> Tensor:
            nonlocal read
            if token is not None:
                rows = token if scale == 1 else token.repeat(2)
                x = self.value(rows) + self.axis[position - 1]
                _, read = self.transformer(x.unsqueeze(1), past=read)
            logits = self.head(read.last)
            if scale == 1:
                return logits
            conditional, unconditional = logits.chunk(2)
            return guided_logits(conditional, unconditional, scale)

        codes = sample_tokens(
            next_logits,
            self.dimensions,
            noise,
            temperature=knobs["prior_temperature"],
            top_k=0,
            top_p=1.0,
        )
        return self.dequantise(clip, codes)
