"""Layers that the StyleGANs share: equalised linear, modulated convolution, FIR resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, linear

TAPS = (1.0, 3.0, 3.0, 1.0)
"""Low-pass filter of the StyleGANs' resampling, separable (Karras et al. 2020, StyleGAN2)."""


class EqualisedLinear(nn.Module):
    r"""Linear layer y = c W x + r b whose weights have unit variance at any width.

    :math:`c = r / \sqrt{D}`; weights and bias are stored divided by the rate r, so that an
    optimiser that normalises gradients moves them r times as far.

    Args:
        width: D of the input.
        out: of the output.
        rate: r, multiplier of the learning rate.
        scale: standard deviation of c W's entries times the root of D; 0 begins at zero.
        bias: initial bias, one number or one an output.

    Source: Karras et al. 2018 (progressive growing), section 4.1; Karras et al. 2019 (StyleGAN),
        appendix C (rate).
    Differs: none.
    """

    def __init__(
        self,
        width: int,
        out: int,
        *,
        rate: float = 1.0,
        scale: float = 1.0,
        bias: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        self.gain, self.rate = rate / math.sqrt(width), rate
        self.weight = nn.Parameter(torch.randn(out, width) * (scale / rate))
        self.bias = nn.Parameter(torch.as_tensor(bias).float().expand(out).clone() / rate)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D2"]:
        """Computes the layer, see the class."""
        return linear(x, self.weight * self.gain, self.bias * self.rate)


def modulated_convolution(
    x: Float[Tensor, "B C H W"],
    weight: Float[Tensor, "C2 C k k"],
    style: Float[Tensor, "B C"],
    *,
    demodulate: bool = True,
    upsample: bool = False,
) -> Float[Tensor, "B C2 H2 W2"]:
    r"""Convolution with weights scaled per sample and input channel, of unit norm per output.

    :math:`w'_{bijk} = s_{bj} w_{ijk}`, demodulated
    :math:`w''_{bijk} = w'_{bijk} / \sqrt{\sum_{jk} w'^2_{bijk} + 10^{-8}}`. Computed by scaling
    the activations before and after one convolution of the whole batch, which is the same.

    Args:
        x: feature map.
        weight: odd k; the map keeps its size.
        style: scales of the input channels.
        demodulate: False leaves out the norm.
        upsample: True for twice the side: zeros between the pixels, convolved, low-pass filtered.

    Source: Karras et al. 2020 (StyleGAN2), eq. 1-3.
    Differs: none.
    """
    x = x * style[:, :, None, None].to(x.dtype)
    pad = weight.shape[-1] // 2
    if upsample:
        x = conv_transpose2d(x, weight.transpose(0, 1).to(x.dtype), stride=2)
        x = filtered(x, TAPS, gain=4.0, before=len(TAPS) // 2 - pad, after=len(TAPS) // 2 - pad)
    else:
        x = conv2d(x, weight.to(x.dtype), padding=pad)
    if demodulate:
        energy = style.float().square() @ weight.float().square().sum((2, 3)).T
        x = x * (energy + 1e-8).rsqrt()[:, :, None, None].to(x.dtype)
    return x


def upsampled(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H2 W2"]:
    """Images of twice the side: zeros between the pixels, low-pass filtered.

    Source: Karras et al. 2020 (StyleGAN2), section 4.1 (skip connections).
    Differs: none.
    """
    taps = torch.tensor(TAPS, device=images.device, dtype=images.dtype)
    kernel = taps.outer(taps) * (4 / taps.sum() ** 2)
    channels = images.shape[1]
    kernel = kernel.expand(channels, 1, -1, -1)
    return conv_transpose2d(images, kernel, stride=2, padding=len(TAPS) // 2 - 1, groups=channels)


def filtered(
    x: Float[Tensor, "B C H W"],
    taps: Sequence[float],
    *,
    before: int,
    after: int,
    gain: float = 1.0,
) -> Float[Tensor, "B C H2 W2"]:
    """A separable symmetric filter of sum ``gain``, with zeros around the map.

    Args:
        x: feature map or images.
        taps: one axis's filter, of any scale.
        before: zeros above and on the left.
        after: zeros below and on the right.
        gain: sum of the filter over both axes.
    """
    line = torch.tensor(taps, device=x.device, dtype=torch.float64)
    line = (line * (math.sqrt(gain) / line.sum())).to(x.dtype)
    channels = x.shape[1]
    x = nn.functional.pad(x, (before, after, before, after))
    x = conv2d(x, line.expand(channels, 1, 1, -1), groups=channels)
    return conv2d(x, line[:, None].expand(channels, 1, -1, 1), groups=channels)


def fading_blur(images: Float[Tensor, "B C H W"], sigma: float) -> Float[Tensor, "B C H W"]:
    r"""Images blurred by taps :math:`2^{-(i / \sigma)^2}` of at most 3 sigma; sigma in pixels.

    Below a third of a pixel they stay as they are.

    Source: Karras et al. 2021 (StyleGAN3), section 5 and its training code.
    Differs: none.
    """
    reach = math.floor(sigma * 3)
    if reach < 1:
        return images
    taps = [2.0 ** -((i / sigma) ** 2) for i in range(-reach, reach + 1)]
    return filtered(images, taps, before=reach, after=reach)


def in_float32(x: Tensor) -> torch.autocast:
    """Context in which nothing is cast below float32, whatever the trainer's precision."""
    # Meta tensors, which have shapes alone, know no autocast.
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)
