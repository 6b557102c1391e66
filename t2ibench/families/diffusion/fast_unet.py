"""The FastUNet of latent diffusion.

Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models":
residual blocks with a time embedding, each followed by a transformer block: self-attention at
the lower resolutions, the text through cross-attention (the paper's choice) or another
mechanism, and an MLP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, silu

from t2ibench.core.types import TextFeatures
from t2ibench.nn.attention import Attention
from t2ibench.nn.conditioning import ConditioningKind, SpatialConditioning, zero_init
from t2ibench.nn.embeddings import timestep_embedding

Contexts = list[Any]
"""Text contexts of the conditioning blocks, in the order of the network."""


class ResidualBlock(nn.Module):
    """Residual block: GN, SiLU, conv; + time; GN, SiLU, conv; + skip.

    Source: Ho et al. 2020 (DDPM), appendix B; Dhariwal and Nichol 2021 (ADM), section 3.
    Differs: time is added, not a scale and shift, as in LDM.
    """

    def __init__(self, channels_in: int, channels: int, time_width: int, groups: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(groups, channels_in)
        self.conv_in = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.time = nn.Linear(time_width, channels)
        self.norm_out = nn.GroupNorm(groups, channels)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)
        self.skip = (
            nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1)
        )

    def forward(
        self, x: Float[Tensor, "B C H W"], time: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B C2 H W"]:
        """Feature map of the block for x (B, C, H, W) and time embedding (B, D)."""
        h = self.conv_in(silu(self.norm_in(x))) + self.time(time)[:, :, None, None]
        return self.skip(x) + self.conv_out(silu(self.norm_out(h)))


class SelfAttention2d(nn.Module):
    """Residual self-attention over the pixels of a feature map: x + Attn(GN(x)).

    Source: Ho et al. 2020 (DDPM), appendix B.
    Differs: none.
    """

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.attention = Attention(channels, heads)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Feature map (B, C, H, W) after residual self-attention."""
        b, c, h, w = x.shape
        tokens = self.norm(x).reshape(b, c, h * w).transpose(1, 2)
        return x + self.attention(tokens).transpose(1, 2).reshape(b, c, h, w)


class FeedForward2d(nn.Module):
    """Gated MLP at each pixel: x + W2 (a * gelu(b)) with [a; b] = W1 LN(x).

    After the text block it combines words and position in a product, not a sum.

    Source: Shazeer 2020 (GLU variants), eq. 6; Rombach et al. 2022 (LDM), appendix E.2.1.
    Differs: two channels of hidden width a channel, not four; W2 is zero at the start.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.hidden = nn.Linear(channels, 4 * channels)
        self.out = zero_init(nn.Linear(2 * channels, channels))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Feature map (B, C, H, W) after the residual MLP."""
        value, gate = self.hidden(self.norm(x.permute(0, 2, 3, 1))).chunk(2, dim=-1)
        return x + self.out(value * gelu(gate)).permute(0, 3, 1, 2)


class TextStage(nn.Module):
    """A residual block, then a transformer block: optional self-attention, text, MLP."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        *,
        time_width: int,
        text_width: int,
        conditioning: ConditioningKind,
        heads: int,
        groups: int,
        attend: bool,
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(channels_in, channels, time_width, groups)
        self.attention = SelfAttention2d(channels, heads, groups) if attend else None
        self.text = SpatialConditioning(conditioning, channels, text_width, heads)
        self.feed_forward = FeedForward2d(channels)

    def forward(
        self, x: Float[Tensor, "B C H W"], time: Float[Tensor, "B D"], context: Any
    ) -> Float[Tensor, "B C2 H W"]:
        """Feature map of the stage for x (B, C, H, W), time embedding (B, D) and text context."""
        x = self.residual(x, time)
        if self.attention is not None:
            x = self.attention(x)
        return self.feed_forward(self.text(x, context))


class FastUNet(nn.Module):
    """UNet that predicts from noisy latents, time and text.

    Args:
        latent_channels: channels of input and output.
        text_width: D of the text features.
        channels: width of the first level.
        channel_multipliers: width of each level as a multiple of ``channels``.
        blocks_per_level: stages a level on the way down, and as many on the way up.
        attention_levels: levels with self-attention, 0 the finest.
        conditioning: how text enters each stage.
        heads: number of heads in every attention.
        groups: number of groups in every GroupNorm.
        vector_width: E of a further condition that is added to the time embedding; 0: none.
        extra_channels: channels of conditions beside x: latents + 1 for an inpainting network.

    Source: Rombach et al. 2022 (LDM), section 3.3 and appendix E.1.
    Differs: text at every level, self-attention at chosen ones; no projections around the block; a
        level has as many stages up as down, each with the skip of its twin, and the upsampling
        convolution already has the next level's width (a third of the FLOPs less at 32 px).
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        text_width: int,
        channels: int,
        channel_multipliers: Sequence[int],
        blocks_per_level: int,
        attention_levels: Sequence[int],
        conditioning: ConditioningKind,
        heads: int,
        groups: int,
        vector_width: int = 0,
        extra_channels: int = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.extra_channels = extra_channels
        time_width = 4 * channels
        self.time = nn.Sequential(
            nn.Linear(channels, time_width), nn.SiLU(), nn.Linear(time_width, time_width), nn.SiLU()
        )
        self.vector = nn.Linear(vector_width, time_width) if vector_width else None
        self.conv_in = nn.Conv2d(latent_channels + extra_channels, channels, 3, padding=1)

        def stage(channels_in: int, width: int, level: int) -> TextStage:
            return TextStage(
                channels_in,
                width,
                time_width=time_width,
                text_width=text_width,
                conditioning=conditioning,
                heads=heads,
                groups=groups,
                attend=level in attention_levels,
            )

        widths = [channels * m for m in channel_multipliers]
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        width = channels
        for level, out in enumerate(widths):
            stages = nn.ModuleList()
            for _ in range(blocks_per_level):
                stages.append(stage(width, out, level))
                width = out
            self.down.append(stages)
            if level + 1 < len(widths):
                self.downsample.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
        self.middle = nn.ModuleList([stage(width, width, len(widths) - 1) for _ in range(2)])
        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level, out in reversed(list(enumerate(widths))):
            self.up.append(
                nn.ModuleList(stage(2 * out, out, level) for _ in range(blocks_per_level))
            )
            if level > 0:
                width = widths[level - 1]
                self.upsample.append(nn.Conv2d(out, width, 3, padding=1))
        self.norm_out = nn.GroupNorm(groups, width)
        self.conv_out = nn.Conv2d(width, latent_channels, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def stages(self) -> list[TextStage]:
        """Text stages in the order of the forward pass."""
        groups = [*_lists(self.down), self.middle, *_lists(self.up)]
        return [cast(TextStage, stage) for group in groups for stage in group]

    def blocks_to_shard(self) -> list[nn.Module]:
        """Modules that FSDP shards and gathers one by one, inner ones first."""
        return [unit for stage in self.stages() for unit in (stage.text, stage)]

    def prepare(self, text: TextFeatures) -> Contexts:
        """Text contexts, computed once for each prompt and not once a step."""
        return [stage.text.prepare(text) for stage in self.stages()]

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        timesteps: Float[Tensor, " B"],
        contexts: Contexts,
        vector: Float[Tensor, "B E"] | None = None,
    ) -> Float[Tensor, "B C2 H W"]:
        """Network output for noisy latents.

        Args:
            x: (B, C, h, w) noisy latents, conditions of ``extra_channels`` after them.
            timesteps: (B,) in 0..T-1.
            contexts: output of ``prepare`` for the same B prompts.
            vector: (B, E) the further condition, where the network has one.
        """
        time = self.time(timestep_embedding(timesteps, self.channels).to(x.dtype))
        if self.vector is not None and vector is not None:
            time = time + self.vector(vector)
        remaining = iter(contexts)
        x = self.conv_in(x)
        skips = []
        for level, stages in enumerate(_lists(self.down)):
            for stage in stages:
                x = stage(x, time, next(remaining))
                skips.append(x)
            if level < len(self.downsample):
                x = self.downsample[level](x)
        for stage in self.middle:
            x = stage(x, time, next(remaining))
        for level, stages in enumerate(_lists(self.up)):
            for stage in stages:
                x = stage(torch.cat([x, skips.pop()], 1), time, next(remaining))
            if level < len(self.upsample):
                # To the size of the skip: also right where a side was odd.
                x = self.upsample[level](interpolate(x, size=skips[-1].shape[-2:]))
        return self.conv_out(silu(self.norm_out(x)))


def _lists(levels: nn.ModuleList) -> list[nn.ModuleList]:
    """Stages of each level, typed, as ``nn.ModuleList`` does not keep their type."""
    return [cast(nn.ModuleList, stages) for stages in levels]
