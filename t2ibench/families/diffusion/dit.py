"""The diffusion transformer, with text.

Peebles and Xie 2023, "Scalable Diffusion Models with Transformers": a noisy image, or its
latents, as a sequence of patches through transformer blocks whose normalisations are scaled,
shifted and gated by time. Text takes one of three ways into it:

    modulation       the sentence vector is added to the time embedding      DiT's adaLN-Zero
    concat           text tokens stand in front of the patches               in-context
    cross_attention  patches attend to the tokens after one another          PixArt-alpha
"""

from __future__ import annotations

from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures
from t2ibench.families.diffusion.fast_unet import Contexts
from t2ibench.nn.conditioning import ConditioningKind, CrossAttentionConditioning, zero_init
from t2ibench.nn.embeddings import timestep_embedding

TIME_FEATURES = 256
"""Number of sines and cosines of a timestep; Peebles and Xie 2023, section 3.2."""


def grid_positions(
    height: int, width: int, features: int, device: torch.device | None = None
) -> Float[Tensor, "N D"]:
    """Fixed positions [sin(j w), cos(j w), sin(i w), cos(i w)]: row i, column j, w_k below.

    The frequencies are w_k = 10000^(-k / (D / 4)).

    Args:
        height: number of rows of the grid.
        width: number of columns of the grid.
        features: D, a multiple of 4.
        device: device of the result, whose rows are in raster order.

    Source: Vaswani et al. 2017, section 3.5; Peebles and Xie 2023 (DiT), section 3.2.
    Differs: none; columns come first, as in the published weights.
    """
    exponent = torch.arange(features // 4, dtype=torch.float32, device=device) / (features // 4)
    frequencies = 10_000.0**-exponent

    def waves(count: int) -> Tensor:
        angles = torch.arange(count, dtype=torch.float32, device=device)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], 1)

    columns = waves(width)[None].expand(height, -1, -1)
    rows = waves(height)[:, None].expand(-1, width, -1)
    return torch.cat([columns, rows], 2).flatten(0, 1)


def modulate(
    x: Float[Tensor, "B N D"], shift: Float[Tensor, "B D"], scale: Float[Tensor, "B D"]
) -> Float[Tensor, "B N D"]:
    """Modulated layer normalisation: LN(x) (1 + scale) + shift.

    Source: Peebles and Xie 2023 (DiT), section 3.2 (adaLN).
    Differs: none.
    """
    normed = nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6)
    return torch.addcmul(shift[:, None], normed, 1 + scale[:, None])


class SelfAttention(nn.Module):
    """Self-attention softmax(q k^T / sqrt(E)) v with q, k and v from one matrix.

    Source: Vaswani et al. 2017, eq. 1 and section 3.2.2; biases as in ViT.
    Differs: none.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B 1 1 N"] | None
    ) -> Float[Tensor, "B N D"]:
        """Attended sequence for x (B, N, D); mask is True where a token is real, None: all are."""
        q, k, v = rearrange(self.qkv(x), "b n (three a e) -> three b a n e", three=3, a=self.heads)
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(rearrange(out, "b a n e -> b n (a e)"))


class DiTBlock(nn.Module):
    """Transformer block: x + g1 Attn(LN(x) (1 + s1) + b1); + text; + g2 MLP(LN(x) (1 + s2) + b2).

    Shifts b, scales s and gates g are linear in the embedding and zero at the start, so that
    the block then is the identity.

    Source: Peebles and Xie 2023 (DiT), section 3.2 and figure 3 (adaLN-Zero); Bao et al. 2023
        (U-ViT), section 3.1 (long skips: x <- W [x ; skip] before the block).
    Differs: cross-attention, where there is one, has a normalisation of its own and is zero at
        the start (PixArt-alpha: no normalisation); W starts as [identity, 0].
    """

    def __init__(
        self, width: int, heads: int, text_width: int, *, attends_text: bool, skip: bool
    ) -> None:
        super().__init__()
        self.skip = nn.Linear(2 * width, width) if skip else None
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = SelfAttention(width, heads)
        self.text = CrossAttentionConditioning(width, text_width, heads) if attends_text else None
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * width, width),
        )

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        embedding: Float[Tensor, "B D"],
        context: Any,
        mask: Bool[Tensor, "B 1 1 N"] | None,
        skip: Float[Tensor, "B N D"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Tokens after the block for x (B, N, D) and embedding (B, D) after its SiLU."""
        if self.skip is not None and skip is not None:
            x = self.skip(torch.cat([x, skip], -1))
        b1, s1, g1, b2, s2, g2 = self.modulation(embedding).chunk(6, dim=-1)
        x = torch.addcmul(x, g1[:, None], self.attention(modulate(x, b1, s1), mask))
        if self.text is not None:
            x = self.text(x, context)
        return torch.addcmul(x, g2[:, None], self.mlp(modulate(x, b2, s2)))


class DiT(nn.Module):
    """Diffusion transformer: predicts from noisy images or latents, time and text.

    Args:
        latent_channels: channels of the noisy input and of the output.
        text_width: D of the text features.
        width: width of a token, a multiple of 4 and of ``heads``.
        depth: number of blocks.
        heads: number of heads in every attention.
        patch: side of the square of pixels or latents that is one token.
        conditioning: mechanism by which text enters, see the module.
        long_skips: whether block depth - 1 - i also sees the output of block i.
        learned_variance: whether the output has as many channels again for the variance.
        extra_channels: channels of conditions concatenated to the noisy input.
        vector_width: E of a further condition that is added to the time embedding; 0: none.

    Raises:
        ConfigError: ``width`` is no multiple of 4 or of ``heads``.

    Source: Peebles and Xie 2023 (DiT), section 3.2; Chen et al. 2024 (PixArt-alpha), section 2.3
        (cross-attention).
    Differs: a caption in the label's place; in-context text has time in adaLN, not as a token;
        with cross-attention each block has its own modulation (PixArt-alpha shares one).
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        text_width: int,
        width: int,
        depth: int,
        heads: int,
        patch: int,
        conditioning: ConditioningKind,
        long_skips: bool = False,
        learned_variance: bool = False,
        extra_channels: int = 0,
        vector_width: int = 0,
    ) -> None:
        super().__init__()
        if width % 4 or width % heads:
            raise ConfigError(
                f"size.dit.width={width} must be a multiple of 4, for waves of rows and "
                f"columns, and of size.dit.heads={heads}; choose such a width."
            )
        self.width, self.patch, self.conditioning = width, patch, conditioning
        self.out_channels = latent_channels * (2 if learned_variance else 1)
        self.embed = nn.Conv2d(latent_channels + extra_channels, width, patch, stride=patch)
        sines, hidden = nn.Linear(TIME_FEATURES, width), nn.Linear(width, width)
        self.time = nn.Sequential(sines, nn.SiLU(), hidden)
        attends_text = conditioning == "cross_attention"
        self.text = nn.Identity() if attends_text else nn.Linear(text_width, width)
        self.vector = nn.Linear(vector_width, width) if vector_width else None
        # Block i < depth // 2 keeps its output for block depth - 1 - i.
        self.skips = depth // 2 if long_skips else 0
        self.blocks = nn.ModuleList(
            DiTBlock(
                width,
                heads,
                text_width,
                attends_text=attends_text,
                skip=i >= depth - self.skips,
            )
            for i in range(depth)
        )
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, patch * patch * self.out_channels)
        self._initialise()
        for layer in (sines, hidden):
            nn.init.normal_(layer.weight, std=0.02)

    def stack(self) -> list[DiTBlock]:
        """Blocks in order, typed, as ``nn.ModuleList`` does not keep their type."""
        return [cast(DiTBlock, block) for block in self.blocks]

    def blocks_to_shard(self) -> list[nn.Module]:
        """Modules that FSDP shards and gathers one by one, inner ones first."""
        return [unit for block in self.stack() for unit in (block.text, block) if unit is not None]

    @torch.no_grad()
    def _initialise(self) -> None:
        """Initialises: Xavier everywhere, then zeros where a residual branch or the output begins.

        Source: Peebles and Xie 2023 (DiT), section 3.2; the published code for the rest.
        Differs: none.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.stack():
            zero_init(block.modulation)
            if block.text is not None:
                zero_init(block.text.attention.to_out)
            if block.skip is not None:
                nn.init.eye_(block.skip.weight)
        zero_init(self.modulation)
        zero_init(self.out)

    def prepare(self, text: TextFeatures) -> Contexts:
        """Text contexts, computed once for each prompt and not once a step.

        Returns:
            The network's own context (None, the sentence vector, or tokens and mask), then one
            for each block (None, or keys, values and mask).
        """
        own: Any = None
        if self.conditioning == "modulation":
            own = self.text(text.pooled)
        elif self.conditioning == "concat":
            own = self.text(text.tokens), text.mask
        return [own, *(None if b.text is None else b.text.prepare(text) for b in self.stack())]

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        timesteps: Float[Tensor, " B"],
        contexts: Contexts,
        vector: Float[Tensor, "B E"] | None = None,
    ) -> Float[Tensor, "B C2 H W"]:
        """Network output for noisy images or latents.

        Args:
            x: (B, C, H, W), conditions of ``extra_channels`` after the noisy channels.
            timesteps: (B,) in 0..T-1.
            contexts: output of ``prepare`` for the same B prompts.
            vector: (B, E) the further condition, where the network has one.

        Raises:
            ConfigError: H or W is no multiple of ``patch``.
        """
        high, wide = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        if x.shape[-2:] != (high * self.patch, wide * self.patch):
            raise ConfigError(
                f"a transformer with size.dit.patch={self.patch} cannot read {x.shape[-2]} x "
                f"{x.shape[-1]} values; choose a size of which both are multiples of it."
            )
        own, *rest = contexts
        embedding = self.time(timestep_embedding(timesteps, TIME_FEATURES).to(x.dtype))
        if self.conditioning == "modulation":
            embedding = embedding + own
        if self.vector is not None:
            embedding = embedding + self.vector(vector)
        embedding = silu(embedding)
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        tokens = tokens + grid_positions(high, wide, self.width, x.device).to(tokens.dtype)
        mask = None
        if self.conditioning == "concat":
            words, real = own
            mask = nn.functional.pad(real, (0, tokens.shape[1]), value=True)[:, None, None]
            tokens = torch.cat([words.to(tokens.dtype), tokens], 1)
        tokens = self._run(tokens, embedding, rest, mask)[:, -high * wide :]
        shift, scale = self.modulation(embedding).chunk(2, dim=-1)
        patches = self.out(modulate(tokens, shift, scale))
        return rearrange(
            patches, "b (h w) (p q c) -> b c (h p) (w q)", h=high, p=self.patch, q=self.patch
        )

    def _run(
        self, x: Float[Tensor, "B N D"], embedding: Tensor, contexts: Contexts, mask: Tensor | None
    ) -> Float[Tensor, "B N D"]:
        """Applies the blocks, with long skips where there are any."""
        kept: list[Tensor] = []
        for i, (block, context) in enumerate(zip(self.stack(), contexts, strict=True)):
            skip = kept.pop() if block.skip is not None else None
            x = block(x, embedding, context, mask, skip)
            if i < self.skips:
                kept.append(x)
        return x
