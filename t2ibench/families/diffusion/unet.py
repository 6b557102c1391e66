"""The published diffusion UNets: DDPM, ADM, LDM's text-to-image model, Stable Diffusion v1.

One layout with few switches: residual blocks at halving sizes down and up, skips from every block
of the way down, attention or a transformer with text after the blocks of some levels. Parameter
names are those of the files that diffusers writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures
from t2ibench.families.diffusion.unet_blocks import (
    Downsample,
    MapAttention,
    ResidualBlock,
    SpatialTransformer,
    Upsample,
)
from t2ibench.nn.conditioning import zero_init
from t2ibench.nn.embeddings import timestep_embedding

TextInput = Literal["cross_attention", "modulation", "concat", "none"]
"""Text mechanism: transformers, time embedding, channels constant over positions, or none."""

Widen = Callable[..., ResidualBlock]
Attend = Callable[[int], nn.Module]


class TimeEmbedding(nn.Module):
    """Time embedding: linear, SiLU, linear; the blocks apply the last activation."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B C"]) -> Float[Tensor, "B D"]:
        """Embedding (B, D) of sines and cosines (B, C)."""
        return self.linear_2(silu(self.linear_1(x)))


class Level(nn.Module):
    """Residual blocks at one size, each with or without attention, then an optional resize."""

    def __init__(
        self, widths: Sequence[int], width: int, block: Widen, attention: Attend | None
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(block(wide_in, width) for wide_in in widths)
        if attention is not None:
            self.attentions = nn.ModuleList(attention(width) for _ in widths)
        self.attends = attention is not None

    def stages(self) -> list[tuple[nn.Module, nn.Module | None]]:
        """Pairs (residual block, its attention) in order; two blocks in the middle share one."""
        attentions = list(self.attentions) if self.attends else []
        missing = len(self.resnets) - len(attentions)
        return list(zip(self.resnets, attentions + [None] * missing, strict=True))


class PublishedUNet(nn.Module):
    """UNet of the published papers: predicts from noisy images or latents, time and text.

    Args:
        latent_channels: channels of the noisy input and of the output.
        text_width: D of the text features.
        channels: width of each level, from the largest map to the smallest.
        blocks_per_level: residual blocks a level on the way down; one more on the way up.
        attention_levels: levels with attention, 0 the largest map; the middle always has it.
        conditioning: a ``TextInput``.
        heads: number of heads in every attention; 0: determined by ``head_width``.
        head_width: channels a head, where ``heads`` is 0.
        depth: number of transformer blocks in every attention.
        groups: number of groups in every GroupNorm.
        epsilon: epsilon of the residual blocks' GroupNorms.
        scale_shift: see ``ResidualBlock``.
        residual_resize: True where residual blocks, not convolutions, change the size (ADM).
        asymmetric_padding: see ``Downsample``.
        time_order: ``cos_sin``, or DDPM's ``sin_cos``, whose slowest period is reached.
        learned_variance: True for twice the output channels.
        extra_channels: channels of conditions beside x: latents + 1 for an inpainting network.
        vector_width: E of a further condition, added to the time embedding; 0: none.
        checkpointing: True to recompute each block's activations in the backward pass.

    Raises:
        ConfigError: a layout that cannot be built.

    Source: Ho et al. 2020 (DDPM), appendix B; Dhariwal and Nichol 2021 (ADM), section 3; Rombach
        et al. 2022 (LDM), section 3.3 and appendix E.2.1; their released code.
    Differs: text by ``modulation`` is a linear map of the sentence vector beside the time
        embedding, by ``concat`` one to as many channels as the first level has; ADM's table of
        classes is ``vector`` of one-hot rows (its weight transposed);
        no dropout.
    """

    neutral_arguments: ClassVar[frozenset[str]] = frozenset({"checkpointing"})

    def __init__(
        self,
        *,
        latent_channels: int,
        text_width: int = 0,
        channels: Sequence[int],
        blocks_per_level: int,
        attention_levels: Sequence[int],
        conditioning: str,
        heads: int,
        groups: int,
        head_width: int = 0,
        depth: int = 1,
        epsilon: float = 1e-5,
        scale_shift: bool = False,
        residual_resize: bool = False,
        asymmetric_padding: bool = False,
        time_order: str = "cos_sin",
        learned_variance: bool = False,
        extra_channels: int = 0,
        vector_width: int = 0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_layout(channels, attention_levels, groups, conditioning, time_order)
        self.channels, self.extra_channels = channels[0], extra_channels
        self.size_multiple = 2 ** (len(channels) - 1) if residual_resize else 1
        self.conditioning, self.time_order = conditioning, time_order
        self.checkpointing = checkpointing
        time_width = 4 * channels[0]
        last = len(channels) - 1

        def block(wide_in: int, wide_out: int, resize: str = "") -> ResidualBlock:
            return ResidualBlock(
                wide_in,
                wide_out,
                time_width=time_width,
                groups=groups,
                epsilon=epsilon,
                scale_shift=scale_shift,
                resize=resize,
            )

        def attention(width: int) -> nn.Module:
            count = heads or max(1, width // head_width)
            if width % count:
                raise ConfigError(
                    f"network.heads={count} does not divide a level of {width} channels; set heads "
                    "or head_width to a divisor."
                )
            if conditioning != "cross_attention":
                return MapAttention(width, count, groups, epsilon)
            return SpatialTransformer(
                width, heads=count, depth=depth, text_width=text_width, groups=groups
            )

        def down(width: int) -> nn.Module:
            return (
                block(width, width, "down")
                if residual_resize
                else Downsample(width, asymmetric_padding)
            )

        def up(width: int) -> nn.Module:
            return block(width, width, "up") if residual_resize else Upsample(width)

        wide_in = latent_channels + extra_channels
        if conditioning == "concat":
            self.text_channels = nn.Linear(text_width, channels[0])
            wide_in += channels[0]
        self.conv_in = nn.Conv2d(wide_in, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], time_width)
        if vector_width:
            self.class_embedding = nn.Linear(vector_width, time_width, bias=False)
        if conditioning == "modulation":
            self.text_embedding = nn.Linear(text_width, time_width)
        self.down_blocks = nn.ModuleList()
        skips = [channels[0]]
        width = channels[0]
        for i, out in enumerate(channels):
            widths = [width] + [out] * (blocks_per_level - 1)
            level = Level(widths, out, block, attention if i in attention_levels else None)
            skips += [out] * (blocks_per_level + (i < last))
            if i < last:
                level.downsamplers = nn.ModuleList([down(out)])
            self.down_blocks.append(level)
            width = out
        self.mid_block = Level([width, width], width, block, attention)
        del self.mid_block.attentions[1]
        self.up_blocks = nn.ModuleList()
        for i, out in reversed(list(enumerate(channels))):
            widths = []
            for _ in range(blocks_per_level + 1):
                widths.append(width + skips.pop())
                width = out
            level = Level(widths, out, block, attention if i in attention_levels else None)
            if i > 0:
                level.upsamplers = nn.ModuleList([up(out)])
            self.up_blocks.append(level)
        self.conv_norm_out = nn.GroupNorm(groups, channels[0], eps=epsilon)
        out_channels = 2 * latent_channels if learned_variance else latent_channels
        self.conv_out = zero_init(nn.Conv2d(channels[0], out_channels, 3, padding=1))

    def blocks_to_shard(self) -> list[nn.Module]:
        """Modules that FSDP shards and gathers one by one."""
        levels = [*self.down_blocks, self.mid_block, *self.up_blocks]
        stages = [stage for level in levels for stage in level.stages()]  # type: ignore[operator]
        return [part for stage in stages for part in stage if part is not None]

    def transformers(self) -> list[SpatialTransformer]:
        """Transformers with text, in the order of the forward pass."""
        return [part for part in self.blocks_to_shard() if isinstance(part, SpatialTransformer)]

    def prepare(self, text: TextFeatures) -> list[Any]:
        """Text contexts, one for each text layer, computed once for each prompt."""
        if self.conditioning == "modulation":
            return [self.text_embedding(text.pooled)]
        if self.conditioning == "concat":
            return [self.text_channels(text.pooled)[:, :, None, None]]
        return [context for t in self.transformers() for context in t.prepare(text)]

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        timesteps: Float[Tensor, " B"],
        contexts: list[Any],
        vector: Float[Tensor, "B E"] | None = None,
    ) -> Float[Tensor, "B C2 H W"]:
        """Network output for noisy latents.

        Args:
            x: (B, C, h, w) noisy latents, conditions of ``extra_channels`` after them.
            timesteps: (B,) in 0..T-1.
            contexts: output of ``prepare`` for the same B prompts; [] without text.
            vector: (B, E) the further condition, where the network has one.
        """
        time = self.embedded_time(timesteps, x.dtype)
        if vector is not None:
            time = time + self.class_embedding(vector)
        if self.conditioning == "modulation":
            time = time + contexts[0]
        time = silu(time)
        remaining = iter(contexts)

        def stage(x: Tensor, pair: tuple[nn.Module, nn.Module | None]) -> Tensor:
            block, attention = pair
            x = self.run(block, x, time)
            if isinstance(attention, SpatialTransformer):
                given = [next(remaining) for _ in attention.transformer_blocks]
                return self.run(attention, x, given)
            return x if attention is None else self.run(attention, x)

        if self.conditioning == "concat":
            x = torch.cat([x, contexts[0].expand(-1, -1, *x.shape[2:])], 1)
        x = self.conv_in(x)
        skips = [x]
        for level in self.down_blocks:
            for pair in level.stages():  # type: ignore[operator]
                x = stage(x, pair)
                skips.append(x)
            for sampler in getattr(level, "downsamplers", ()):
                x = sampler(x, time) if isinstance(sampler, ResidualBlock) else sampler(x)
                skips.append(x)
        for pair in self.mid_block.stages():
            x = stage(x, pair)
        for level in self.up_blocks:
            for pair in level.stages():  # type: ignore[operator]
                x = stage(torch.cat([x, skips.pop()], 1), pair)
            for sampler in getattr(level, "upsamplers", ()):
                given = time if isinstance(sampler, ResidualBlock) else skips[-1].shape[-2:]
                x = sampler(x, given)
        return self.conv_out(silu(self.conv_norm_out(x)))

    def run(self, module: nn.Module, *given: Any) -> Tensor:
        """Applies a module; with ``checkpointing`` its activations are computed again later."""
        if self.checkpointing and self.training:
            return checkpoint(module, *given, use_reentrant=False)  # type: ignore[no-any-return]
        return module(*given)  # type: ignore[no-any-return]

    def embedded_time(self, timesteps: Float[Tensor, " B"], dtype: Any) -> Float[Tensor, "B D"]:
        """Time embedding before its last activation.

        Source: Ho et al. 2020 (DDPM), released code: sines first, frequencies to 1 / 10000
            inclusive; Rombach et al. 2022 (LDM), released code: cosines first, exclusive.
        Differs: none.
        """
        if self.time_order == "cos_sin":
            return self.time_embedding(timestep_embedding(timesteps, self.channels).to(dtype))
        half = self.channels // 2
        period = 10_000.0 ** (half / max(1, half - 1))
        cos, sin = timestep_embedding(timesteps, self.channels, period).chunk(2, dim=-1)
        return self.time_embedding(torch.cat([sin, cos], -1).to(dtype))


def check_layout(
    channels: Sequence[int],
    attention_levels: Sequence[int],
    groups: int,
    conditioning: str,
    time_order: str,
) -> None:
    """Refuses layouts that cannot be built.

    Raises:
        ConfigError: a name is unknown, a level is not there, or groups do not divide a width.
    """
    if conditioning not in get_args(TextInput):
        raise ConfigError(
            f"conditioning={conditioning} is not one of this UNet's: "
            f"{', '.join(get_args(TextInput))}."
        )
    if time_order not in ("cos_sin", "sin_cos"):
        raise ConfigError(f"network.time_order={time_order} is unknown; choose cos_sin, sin_cos.")
    odd = [width for width in channels if width % groups]
    if not channels or odd:
        raise ConfigError(
            f"network.channels={list(channels)} must be multiples of groups={groups}, one a level."
        )
    absent = [level for level in attention_levels if not 0 <= level < len(channels)]
    if absent:
        raise ConfigError(
            f"network.attention_levels={list(attention_levels)}: there is no level {absent[0]} "
            f"among {len(channels)}, which are counted from 0."
        )
