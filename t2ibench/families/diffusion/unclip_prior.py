"""The diffusion prior of unCLIP: from a caption to the CLIP embedding of an image.

Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP Latents",
section 2.2. Both priors are causal transformers with the text in front of what they predict,
so that the text is processed once for each prompt.

E is the width of the CLIP space, R rows: prompts times candidates, twice with guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import Knob
from t2ibench.core.noise import Noise
from t2ibench.core.types import TextFeatures
from t2ibench.families.frozen_clip import FrozenClip
from t2ibench.nn.attention import KeysValues, TransformerBlock
from t2ibench.nn.embeddings import timestep_embedding
from t2ibench.samplers.guidance import guided


@runtime_checkable
class Process(Protocol):
    """Interface of a diffusion process in unCLIP: schedule, target, loss weights and solver."""

    def knobs(self) -> tuple[Knob, ...]:
        """Sampling knobs of the solver, including ``num_steps``."""
        ...

    def training_loss(
        self, predict: Callable[[Tensor, Tensor], Tensor], x0: Float[Tensor, "B ..."]
    ) -> Float[Tensor, ""]:
        """Weighted error of ``predict``, called with (x_t, timesteps (B,)), at drawn levels."""
        ...

    def sample(
        self,
        predict: Callable[[Tensor, Tensor], Tensor],
        x: Float[Tensor, "B ..."],
        noise: Noise,
        *,
        num_steps: int,
        eta: float = 0.0,
    ) -> Float[Tensor, "B ..."]:
        """Solves from standard normal ``x`` to x_0; further randomness comes from ``noise``."""
        ...


@dataclass(frozen=True)
class Read:
    """Cached state of the positions processed so far.

    Attributes:
        keys_values: keys and values of each layer, each (R, A, M, W).
        mask: (R, M) True where a position is real.
        last: (R, D) output at the last position.
    """

    keys_values: list[KeysValues]
    mask: Bool[Tensor, "R M"]
    last: Float[Tensor, "R D"]


class CausalTransformer(nn.Module):
    """Pre-norm transformer in which a position attends to itself and the real ones before it.

    Source: Radford et al. 2019 (GPT-2), section 2.3.
    Differs: none.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        x: Float[Tensor, "R M D"],
        mask: Bool[Tensor, "R M"] | None = None,
        past: Read | None = None,
    ) -> tuple[Float[Tensor, "R M D"], Read]:
        """Outputs of new positions, and the state extended by them.

        Args:
            x: (R, M, D) new positions.
            mask: (R, M) True where they are real; None: all are.
            past: state of the positions before them; None: there are none.
        """
        new = x.shape[1]
        mask = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        start = 0 if past is None else past.mask.shape[1]
        mask = mask if past is None else torch.cat([past.mask, mask], 1)
        order = torch.ones(new, start + new, dtype=torch.bool, device=x.device).tril(start)
        # A padded query sees itself, so that no row of the mask is empty.
        own = torch.zeros_like(order)
        own.diagonal(start).fill_(True)
        seen = ((mask[:, None, :] & order) | own)[:, None]
        kept: list[KeysValues] = []
        for layer, block in enumerate(self.blocks):
            attention: Any = block.attention
            normed = block.norm_attention(x)
            keys, values = attention.keys_values(normed)
            if past is not None:
                before = past.keys_values[layer]
                keys, values = torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
            kept.append((keys, values))
            q = rearrange(attention.to_q(normed), "r m (a w) -> r a m w", a=attention.heads)
            out = scaled_dot_product_attention(q, keys, values, attn_mask=seen)
            x = x + attention.to_out(rearrange(out, "r a m w -> r m (a w)"))
            x = x + block.mlp(block.norm_mlp(x))
        x = self.norm(x)
        return x, Read(kept, mask, x[:, -1])


class TextPrefix(nn.Module):
    """Prefix of a prior: the caption's tokens, then its CLIP embedding, as tokens of width D.

    Source: Ramesh et al. 2022 (unCLIP), section 2.2.
    Differs: the tokens come from the shared text encoder, in place of one of the prior's own.
    """

    def __init__(self, embedding_width: int, text_width: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Linear(text_width, width)
        self.embedding = nn.Linear(embedding_width, width)
        self.scale = embedding_width**0.5

    def forward(self, text: TextFeatures) -> tuple[Float[Tensor, "R M D"], Bool[Tensor, "R M"]]:
        """Tokens and mask of L + 1 positions; a unit embedding is scaled to unit variance."""
        assert text.embedding is not None, "the prior reads captions with their CLIP embedding"
        whole = self.embedding(text.embedding * self.scale).unsqueeze(1)
        tokens = torch.cat([self.tokens(text.tokens), whole], 1)
        return tokens, torch.cat([text.mask, text.mask.new_ones(len(text), 1)], 1)


def repeated(text: TextFeatures, count: int) -> TextFeatures:
    """Text features with each caption ``count`` times in a row."""
    rows = torch.arange(len(text), device=text.tokens.device)
    return text[rows.repeat_interleave(count)]


def closest(
    candidates: Float[Tensor, "B S E"], embedding: Float[Tensor, "B E"]
) -> Float[Tensor, "B E"]:
    """The one of each caption's S image embeddings with the greatest dot product z_i . z_t.

    Args:
        candidates: S image embeddings for each caption, in CLIP's own scale.
        embedding: CLIP embeddings of the captions.

    Source: Ramesh et al. 2022 (unCLIP), section 2.2.
    Differs: none.
    """
    best = torch.einsum("bse,be->bs", candidates, embedding).argmax(1)
    return candidates[torch.arange(len(best), device=best.device), best]


class DiffusionPrior(nn.Module):
    """Diffusion prior: predicts z_i from text tokens, z_t, time, the noised z_i and a query token.

    Args:
        embedding_width: E.
        text_width: D of the text features.
        width: D of the transformer.
        depth: layers.
        heads: A.
        process: diffusion process over (B, S, E); the paper's predicts x_0 with an unweighted
            loss.
        candidates: S, embeddings drawn for each image, of which the closest to z_t is taken.
        guidance_scale: default guidance.

    Source: Ramesh et al. 2022 (unCLIP), section 2.2 and appendix C.
    Differs: text tokens get no positions in the prior; they keep those of the text encoder.
    """

    sampling_arguments: ClassVar[frozenset[str]] = frozenset({"candidates", "guidance_scale"})

    def __init__(
        self,
        *,
        embedding_width: int,
        text_width: int,
        width: int,
        depth: int,
        heads: int,
        process: Process,
        candidates: int,
        guidance_scale: float,
    ) -> None:
        super().__init__()
        if candidates < 1:
            raise ConfigError(
                f"model.module.prior.candidates={candidates} must be at least 1; the paper has 2."
            )
        self.process = process
        self.candidates = candidates
        self.default_guidance = guidance_scale
        self.width = width
        self.prefix = TextPrefix(embedding_width, text_width, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.noised = nn.Linear(embedding_width, width)
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.transformer = CausalTransformer(width, depth, heads)
        self.head = nn.Linear(width, embedding_width)

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Sampling knobs of the prior: guidance and steps."""
        steps = next(knob for knob in self.process.knobs() if knob.name == "num_steps")
        return (
            Knob("prior_guidance_scale", self.default_guidance, 0.0, 30.0),
            Knob("prior_num_steps", steps.default, steps.low, steps.high, integer=True),
        )

    def read(self, text: TextFeatures) -> Read:
        """State of the text prefix, computed once for each prompt and not once a step."""
        return self.transformer(*self.prefix(text))[1]

    def forward(
        self, x: Float[Tensor, "R E"], timesteps: Float[Tensor, " R"], read: Read
    ) -> Float[Tensor, "R E"]:
        """Network output for noised embeddings.

        Args:
            x: (R, E) noised, scaled embeddings.
            timesteps: (R,) one for each row.
            read: output of ``read`` for the same R prompts.
        """
        time = self.time(timestep_embedding(timesteps, self.width).to(x.dtype))
        tokens = torch.stack([time, self.noised(x), self.query.expand(len(x), -1)], 1)
        return self.head(self.transformer(tokens, past=read)[1].last)

    def loss(
        self, clip: FrozenClip, embeddings: Float[Tensor, "B E"], text: TextFeatures
    ) -> Float[Tensor, ""]:
        """Training loss of the process at drawn noise levels.

        Args:
            clip: scales the embeddings.
            embeddings: CLIP embeddings of images.
            text: features of their captions, some of them dropped.
        """
        read = self.read(text)
        return self.process.training_loss(lambda x, t: self(x, t, read), clip.scaled(embeddings))

    def sample(
        self,
        clip: FrozenClip,
        text: TextFeatures,
        null: TextFeatures,
        noise: Noise,
        knobs: Mapping[str, float],
    ) -> Float[Tensor, "B E"]:
        """Samples image embeddings; candidates and guidance's two halves form one batch.

        Args:
            clip: scales the embeddings.
            text: features of B prompts.
            null: the unconditional input, B times.
            noise: per-sample noise of the B images.
            knobs: values that include those of ``knobs``.
        """
        scale = knobs["prior_guidance_scale"]
        rows = text if scale == 1 else TextFeatures.cat([text, null])
        read = self.read(repeated(rows, self.candidates))

        def predict(x: Tensor, t: Tensor) -> Tensor:
            # A sampling step has one time, whatever rows guidance and candidates add.
            times = t[:1].expand(x.shape[0] * x.shape[1])
            return self(x.flatten(0, 1), times, read).unflatten(0, x.shape[:2])

        drawn = self.process.sample(
            guided(predict, scale),
            noise.normal(self.candidates, clip.width),
            noise,
            num_steps=int(knobs["prior_num_steps"]),
        )
        assert text.embedding is not None, "the prior reads captions with their CLIP embedding"
        return closest(clip.unscaled(drawn), text.embedding)
