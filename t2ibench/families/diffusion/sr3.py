"""The UNet of SR3, super-resolution by iterated refinement.

Saharia et al. 2021, "Image Super-Resolution via Iterative Refinement", section 2.4: DDPM's UNet
with BigGAN's residual blocks. It reads the enlarged low-resolution image beside the noisy one
and the noise level itself, not a timestep, so that it can be sampled on any schedule; it reads
no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, silu

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures
from t2ibench.families.diffusion.fast_unet import Contexts, SelfAttention2d
from t2ibench.nn.embeddings import timestep_embedding

SKIP_SCALE = 2**-0.5
"""Factor of a residual block's sum; Saharia et al. 2021, section 2.4."""

Resample = Literal["same", "down", "up"]


class BigGANBlock(nn.Module):
    """Residual block, R resampling: (R(x) + conv(SiLU(GN(conv(R(SiLU(GN(x)))) + time)))) / sqrt(2).

    Source: Brock et al. 2019 (BigGAN), figure 15; Saharia et al. 2021 (SR3), section 2.4.
    Differs: group for batch normalisation, and the noise level in the class vector's place.
    """

    def __init__(
        self, channels_in: int, channels: int, time: int, groups: int, resample: Resample = "same"
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm_in = nn.GroupNorm(groups, channels_in)
        self.conv_in = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.time = nn.Linear(time, channels)
        self.norm_out = nn.GroupNorm(groups, channels)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)
        same = channels_in == channels
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "same":
            return x
        return avg_pool2d(x, 2) if self.resample == "down" else interpolate(x, scale_factor=2)

    def forward(
        self, x: Float[Tensor, "B C H W"], time: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B C2 H2 W2"]:
        """Feature map for x (B, C, H, W) and time (B, D), the embedded noise level."""
        h = self.conv_in(self._resampled(silu(self.norm_in(x))))
        h = silu(self.norm_out(h + self.time(time)[:, :, None, None]))
        return SKIP_SCALE * (self.skip(self._resampled(x)) + self.conv_out(h))


class SR3UNet(nn.Module):
    """UNet that predicts from a noisy image, a low-resolution image and the noise level.

    Args:
        latent_channels: channels of the noisy image and of the output.
        extra_channels: channels of the low-resolution image.
        channels: width of the first level.
        channel_multipliers: width of each level as a multiple of ``channels``.
        blocks_per_level: residual blocks a level on the way down; one more on the way up.
        attention_levels: levels with self-attention, 0 the finest.
        heads: number of heads in every attention.
        groups: number of groups in every GroupNorm.
        vector_width: width of a further condition that is added to the time embedding; 0: none.

    Source: Saharia et al. 2021 (SR3), section 2.4 and its table of architectures; Ho et al. 2020
        (DDPM), appendix B.
    Differs: the paper does not say which levels have self-attention; here those of DDPM.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        extra_channels: int,
        channels: int,
        channel_multipliers: Sequence[int],
        blocks_per_level: int,
        attention_levels: Sequence[int],
        heads: int,
        groups: int,
        vector_width: int = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        time = 4 * channels
        self.time = nn.Sequential(nn.Linear(channels, time), nn.SiLU(), nn.Linear(time, time))
        self.vector = nn.Linear(vector_width, time) if vector_width else None
        self.conv_in = nn.Conv2d(latent_channels + extra_channels, channels, 3, padding=1)
        widths = [channels * m for m in channel_multipliers]
        self.factor = 2 ** (len(widths) - 1)

        def stage(channels_in: int, level: int) -> list[nn.Module]:
            made: list[nn.Module] = [BigGANBlock(channels_in, widths[level], time, groups)]
            if level in attention_levels:
                made.append(SelfAttention2d(widths[level], heads, groups))
            return made

        self.down, skips, width = nn.ModuleList(), [channels], channels
        for level, out in enumerate(widths):
            for _ in range(blocks_per_level):
                self.down.append(nn.ModuleList(stage(width, level)))
                width = out
                skips.append(width)
            if level + 1 < len(widths):
                self.down.append(nn.ModuleList([BigGANBlock(width, width, time, groups, "down")]))
                skips.append(width)
        self.middle = nn.ModuleList(
            [
                BigGANBlock(width, width, time, groups),
                SelfAttention2d(width, heads, groups),
                BigGANBlock(width, width, time, groups),
            ]
        )
        self.up = nn.ModuleList()
        for level, out in reversed(list(enumerate(widths))):
            for last in [False] * blocks_per_level + [level > 0]:
                made = stage(width + skips.pop(), level)
                width = out
                if last:
                    made.append(BigGANBlock(width, width, time, groups, "up"))
                self.up.append(nn.ModuleList(made))
        self.norm_out = nn.GroupNorm(groups, width)
        self.conv_out = nn.Conv2d(width, latent_channels, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def prepare(self, text: TextFeatures | None) -> Contexts:
        """An empty list: the network reads no text."""
        return []

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        timesteps: Float[Tensor, " B"],
        contexts: Contexts,
        vector: Float[Tensor, "B D"] | None = None,
    ) -> Float[Tensor, "B C2 H W"]:
        """Network output for a noisy image.

        Args:
            x: (B, C, H, W) noisy image, then the enlarged low-resolution one.
            timesteps: (B,) noise levels, scaled as timesteps are.
            contexts: output of ``prepare``.
            vector: (B, D) the further condition, where the network has one.

        Raises:
            ConfigError: a side that cannot be halved at every level.
        """
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ConfigError(
                f"images of {x.shape[-2]} x {x.shape[-1]} px do not fit {type(self).__name__}; "
                f"both sides must be multiples of {self.factor}."
            )
        embedding = self.time(timestep_embedding(timesteps, self.channels).to(x.dtype))
        if self.vector is not None:
            embedding = embedding + self.vector(vector)
        embedding = silu(embedding)
        x = self.conv_in(x)
        skips = [x]
        for stage in self.down:
            x = _through(stage, x, embedding)
            skips.append(x)
        x = _through(self.middle, x, embedding)
        for stage in self.up:
            x = _through(stage, torch.cat([x, skips.pop()], 1), embedding)
        return self.conv_out(silu(self.norm_out(x)))


def _through(stage: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
    """Applies a residual block and the modules after it."""
    assert isinstance(stage, nn.ModuleList)
    for part in stage:
        x = part(x, embedding) if isinstance(part, BigGANBlock) else part(x)
    return x
