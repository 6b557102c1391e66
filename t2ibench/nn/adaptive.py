"""Convolutions whose kernel is each sample's own mixture of a bank, and equalised layers.

With one kernel in the bank they are StyleGAN2's modulated convolutions.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from t2ibench.nn.stylegan import EqualisedLinear, modulated_convolution


class EqualisedConv(nn.Conv2d):
    r"""Convolution with weights of unit variance, multiplied by :math:`1 / \sqrt{C k^2}` in use.

    Source: Karras et al. 2018 (progressive growing), section 4.1.
    Differs: none.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(channels, out, kernel, stride, padding)
        self.gain = 1 / math.sqrt(channels * kernel**2)
        nn.init.normal_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        """Computes the layer, see the class."""
        return conv2d(x, self.weight * self.gain, self.bias, self.stride, self.padding)


class RescaledLinear(nn.Linear):
    r"""Linear layer whose weights are stored times :math:`\sqrt{D}` (``equalise``)."""

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D2"]:
        """Computes the layer, see the class."""
        return linear(x, self.weight / math.sqrt(self.in_features), self.bias)


def equalise(network: nn.Module) -> nn.Module:
    r"""Makes every linear layer of a network equalised; the function that it computes stays.

    An optimiser that normalises gradients then moves all layers equally far in relation to their
    weights, as it does in StyleGAN's.

    Args:
        network: changed in place and returned; itself no linear layer.

    Source: Karras et al. 2018 (progressive growing), section 4.1.
    Differs: initial weights are kept, in place of those of unit variance.
    """
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                made = RescaledLinear(layer.in_features, layer.out_features, layer.bias is not None)
                with torch.no_grad():
                    made.weight.copy_(layer.weight * math.sqrt(layer.in_features))
                    if layer.bias is not None:
                        made.bias.copy_(layer.bias)
                setattr(parent, name, made)
    return network


def unbiased(width: int, out: int) -> RescaledLinear:
    """Equalised linear layer without bias, of unit normal weights."""
    layer = RescaledLinear(width, out, bias=False)
    nn.init.normal_(layer.weight)
    return layer


class AdaptiveConv(nn.Module):
    r"""Modulated convolution with a kernel that each sample selects from a bank, softly.

    With style w, kernels :math:`K_1 \dots K_N` and scales :math:`s = A w + 1`,

    .. math::
        K &= \sum_n \mathrm{softmax}(F w + f)_n K_n \\
        y_i &= d_i \sum_j (s_j x_j) * K_{ij} \\
        d_i &= (\sum_{jk} s_j^2 K_{ijk}^2 + 10^{-8})^{-1/2}

    Scaling x before and y after is the same as scaling a kernel of each sample's own; where N is
    1, one convolution then serves the whole batch.

    Args:
        channels: C of x.
        out: C of y.
        kernel: side k, odd; the map keeps its size.
        style_width: width of w.
        candidates: N.
        demodulate: False leaves d out.

    Source: Kang et al. 2023 (GigaGAN), eq. 1; Karras et al. 2020 (StyleGAN2), eq. 1-3.
    Differs: none.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        *,
        kernel: int,
        style_width: int,
        candidates: int = 1,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        # The kernels below each other: memory formats know four dimensions.
        self.weight = nn.Parameter(torch.randn(candidates * out, channels, kernel, kernel))
        self.candidates = candidates
        self.gain = 1 / math.sqrt(channels * kernel**2)
        self.demodulate = demodulate
        self.scale = EqualisedLinear(style_width, channels, bias=1.0)
        self.selection = EqualisedLinear(style_width, candidates) if candidates > 1 else None

    def kernels(self, style: Float[Tensor, "B D"]) -> Float[Tensor, "B C2 C k k"]:
        """Each sample's convex combination of the bank."""
        bank = (self.weight * self.gain).unflatten(0, (self.candidates, -1))
        if self.selection is None:
            return bank.expand(len(style), *bank.shape[1:])
        shares = self.selection(style).softmax(1)
        return (shares @ bank.flatten(1)).unflatten(1, bank.shape[1:])

    def forward(
        self, x: Float[Tensor, "B C H W"], style: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B C2 H W"]:
        """Convolution of x by the style's kernel."""
        scale = self.scale(style)
        if self.selection is None:
            return modulated_convolution(
                x, self.weight * self.gain, scale, demodulate=self.demodulate
            )
        count, _, *side = x.shape
        kernels = self.kernels(style)
        x = (x * scale[:, :, None, None].to(x.dtype)).reshape(1, -1, *side)
        pad = kernels.shape[-1] // 2
        y = conv2d(x, kernels.flatten(0, 1).to(x.dtype), padding=pad, groups=count)
        y = y.view(count, -1, *side)
        if self.demodulate:
            energy = kernels.float().square().sum((3, 4)) @ scale.float().square()[:, :, None]
            y = y * (energy + 1e-8).rsqrt()[..., None].to(y.dtype)
        return y
