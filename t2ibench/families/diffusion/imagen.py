"""The efficient UNet of Imagen, for its base model and for its super-resolution models.

Saharia et al. 2022, "Photorealistic Text-to-Image Diffusion Models with Deep Language
Understanding", appendix B. A level halves the image before its convolutions and doubles it
after them, most blocks stand at the lowest resolutions, and skips are scaled by 1 / sqrt(2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures
from t2ibench.families.diffusion.fast_unet import Contexts, FeedForward2d, SelfAttention2d
from t2ibench.nn.conditioning import ConditioningKind, SpatialConditioning
from t2ibench.nn.embeddings import timestep_embedding

SKIP_SCALE = 2**-0.5
"""Factor of every skip connection; Saharia et al. 2022, appendix B.1."""


class ModulatedBlock(nn.Module):
    """Residual block: GN, SiLU, conv; GN (1 + s) + b, SiLU, conv; + x; [s, b] linear in embedding.

    Source: Dhariwal and Nichol 2021 (ADM), section 3 (adaptive group normalisation); Saharia et
        al. 2022 (Imagen), figure A.27.
    Differs: none.
    """

    def __init__(self, channels_in: int, channels: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(groups, channels_in)
        self.conv_in = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.scale_shift = nn.Linear(embedding, 2 * channels)
        self.norm_out = nn.GroupNorm(groups, channels)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)
        same = channels_in == channels
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1)

    def forward(
        self, x: Float[Tensor, "B C H W"], embedding: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B C2 H W"]:
        """Feature map for x (B, C, H, W) and embedding (B, D) of time and pooled conditions."""
        h = self.conv_in(silu(self.norm_in(x)))
        scale, shift = self.scale_shift(embedding)[:, :, None, None].chunk(2, dim=1)
        h = silu(self.norm_out(h) * (1 + scale) + shift)
        return self.skip(x) + self.conv_out(h)


class LevelAttention(nn.Module):
    """Transformer block after a level's blocks: optional self-attention and text, then an MLP."""

    def __init__(
        self,
        channels: int,
        *,
        text_width: int,
        conditioning: ConditioningKind | None,
        attend: bool,
        heads: int,
        groups: int,
    ) -> None:
        super().__init__()
        self.attention = SelfAttention2d(channels, heads, groups) if attend else None
        self.text = None
        if conditioning is not None:
            self.text = SpatialConditioning(conditioning, channels, text_width, heads)
        self.feed_forward = FeedForward2d(channels)

    def prepare(self, text: TextFeatures) -> Any:
        """Text context, computed once for each prompt; None without text."""
        return None if self.text is None else self.text.prepare(text)

    def forward(self, x: Float[Tensor, "B C H W"], context: Any) -> Float[Tensor, "B C H W"]:
        """Feature map (B, C, H, W) after self-attention, text and MLP."""
        if self.attention is not None:
            x = self.attention(x)
        if self.text is not None:
            x = self.text(x, context)
        return self.feed_forward(x)


class EfficientUNet(nn.Module):
    """UNet that predicts from a noisy image, time and text.

    Args:
        latent_channels: channels of the noisy image and of the output.
        text_width: D of the text features.
        channels: width of the first level.
        channel_multipliers: width of each level as a multiple of ``channels``.
        blocks_per_level: residual blocks of each level on the way down, and as many up.
        strides: 2 where a level halves its input, 1 where it does not; a super-resolution
            network halves the full image at once.
        attention_levels: levels with self-attention, 0 the finest.
        text_levels: levels with text; its sentence vector is in the time embedding everywhere.
        conditioning: mechanism by which text enters there.
        heads: number of heads in every attention.
        groups: number of groups in every GroupNorm.
        extra_channels: channels of conditions concatenated to the noisy image: 3 for a
            low-resolution one.
        vector_width: width of a further condition that is added to the time embedding; 0: none.

    Raises:
        ConfigError: lists of levels of different lengths.

    Source: Saharia et al. 2022 (Imagen), section 2.4 and appendix B.1.
    Differs: attention and text once a level, after its blocks, with the MLP of a transformer
        block; text by any mechanism, the published one is cross-attention; each block up has
        the skip of its twin.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        text_width: int,
        channels: int,
        channel_multipliers: Sequence[int],
        blocks_per_level: Sequence[int],
        strides: Sequence[int],
        attention_levels: Sequence[int],
        text_levels: Sequence[int],
        conditioning: ConditioningKind,
        heads: int,
        groups: int,
        extra_channels: int = 0,
        vector_width: int = 0,
    ) -> None:
        super().__init__()
        if not len(channel_multipliers) == len(blocks_per_level) == len(strides):
            raise ConfigError(
                f"channel_multipliers {list(channel_multipliers)}, blocks_per_level "
                f"{list(blocks_per_level)} and strides {list(strides)} must have one entry a level."
            )
        self.channels = channels
        self.strides = list(strides)
        width = self.embedding_width = 4 * channels
        self.time = nn.Sequential(nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width))
        self.text_norm = nn.LayerNorm(text_width)
        self.pooled = nn.Linear(text_width, width)
        self.vector = nn.Linear(vector_width, width) if vector_width else None
        self.conv_in = nn.Conv2d(latent_channels + extra_channels, channels, 3, padding=1)

        def attention(level: int) -> nn.Module:
            return LevelAttention(
                widths[level],
                text_width=text_width,
                conditioning=conditioning if level in text_levels else None,
                attend=level in attention_levels,
                heads=heads,
                groups=groups,
            )

        widths = [channels * m for m in channel_multipliers]
        levels = range(len(widths))
        attended = [n in text_levels or n in attention_levels for n in levels]

        def blocks(level: int, skips: int) -> nn.ModuleList:
            """Residual blocks of a level on the way down or up, then its attention, if any."""
            size = widths[level]
            made = [
                ModulatedBlock(size + skips * size, size, width, groups)
                for _ in range(blocks_per_level[level])
            ]
            return nn.ModuleList(made + [attention(level)] * attended[level])

        before = [channels, *widths[:-1]]
        self.down_in = nn.ModuleList(
            nn.Conv2d(before[n], widths[n], 3, stride=strides[n], padding=1) for n in levels
        )
        self.down = nn.ModuleList(blocks(n, 0) for n in levels)
        self.middle = ModulatedBlock(widths[-1], widths[-1], width, groups)
        self.up = nn.ModuleList(blocks(n, 1) for n in reversed(levels))
        self.up_out = nn.ModuleList(
            nn.Conv2d(widths[n], before[n], 3, padding=1) for n in reversed(levels)
        )
        self.norm_out = nn.GroupNorm(groups, channels)
        self.conv_out = nn.Conv2d(channels, latent_channels, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def blocks_to_shard(self) -> list[nn.Module]:
        """Blocks that FSDP shards and gathers one by one."""
        return [stage for level in (*self.down, *self.up) for stage in cast(nn.ModuleList, level)]

    def prepare(self, text: TextFeatures) -> Contexts:
        """Text contexts, computed once for each prompt and not once a step.

        Source: Saharia et al. 2022 (Imagen), section 2.4 (pooled vector in the time embedding,
            layer normalisation of the text embeddings).
        Differs: none.
        """
        tokens, pooled = self.text_norm(text.tokens), self.text_norm(text.pooled)
        normed = TextFeatures(tokens, text.mask, pooled)
        stages = self.blocks_to_shard()
        contexts = [s.prepare(normed) for s in stages if isinstance(s, LevelAttention)]
        return [self.pooled(pooled), *contexts]

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        timesteps: Float[Tensor, " B"],
        contexts: Contexts,
        vector: Float[Tensor, "B D"] | None = None,
    ) -> Float[Tensor, "B C2 H W"]:
        """Network output for a noisy image.

        Args:
            x: (B, C, H, W) noisy image, conditions of ``extra_channels`` after it.
            timesteps: (B,) in 0..T-1.
            contexts: output of ``prepare`` for the same B prompts.
            vector: (B, D) the further condition, where the network has one.
        """
        pooled, *rest = contexts
        embedding = self.time(timestep_embedding(timesteps, self.channels).to(x.dtype)) + pooled
        if self.vector is not None:
            embedding = embedding + self.vector(vector)
        embedding, remaining = silu(embedding), iter(rest)
        x = self.conv_in(x)
        skips: list[Tensor] = []
        sizes: list[torch.Size] = []
        for enter, level in zip(self.down_in, self.down, strict=True):
            sizes.append(x.shape[-2:])
            x = enter(x)
            for stage in cast(nn.ModuleList, level):
                if isinstance(stage, LevelAttention):
                    # The twin on the way up gets what attention has seen.
                    x = skips[-1] = stage(x, next(remaining))
                else:
                    x = stage(x, embedding)
                    skips.append(x)
        x = self.middle(x, embedding)
        for level, leave in zip(self.up, self.up_out, strict=True):
            for stage in cast(nn.ModuleList, level):
                if isinstance(stage, LevelAttention):
                    x = stage(x, next(remaining))
                else:
                    x = stage(torch.cat([x, SKIP_SCALE * skips.pop()], 1), embedding)
            size = sizes.pop()
            x = leave(x if size == x.shape[-2:] else interpolate(x, size=size))
        return self.conv_out(silu(self.norm_out(x)))
