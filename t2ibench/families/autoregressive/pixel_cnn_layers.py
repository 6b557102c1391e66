"""Layers of the gated PixelCNN: convolutions that look neither ahead nor at later colours.

A vertical stack reads all rows above, a horizontal one the pixels to the left; text enters the
gates. Channels of the horizontal stack stand in three groups: the first knows nothing of its
pixel, the second its red, the third its red and green.

P is the width of a stack, k half a kernel's side (rounded down).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from t2ibench.core.types import TextFeatures
from t2ibench.nn.conditioning import ConditioningKind, SpatialConditioning

COLOURS = 3
"""Channels of a pixel, in the order in which they are drawn."""

GATE_GAIN = 2.0
"""Gain of the initial weights before a gate, which lets half of a small signal through."""


def gate(maps: Float[Tensor, "B P2 ..."]) -> Float[Tensor, "B P ..."]:
    """Gated activation tanh(a) sigmoid(b) of the channels' two halves a and b.

    Source: van den Oord et al. 2016 (Gated PixelCNN), eq. 2.
    Differs: none.
    """
    a, b = maps.chunk(2, 1)
    return a.tanh() * b.sigmoid()


def colour_of(channels: int) -> Int[Tensor, " C"]:
    """The colour whose values each channel helps to predict: 0 red, 1 green, 2 blue, in thirds."""
    return torch.arange(COLOURS).repeat_interleave(channels // COLOURS)


class ColourConv(nn.Conv2d):
    """Convolution along a row, from the pixels to the left, that keeps the order of colours.

    Of its own pixel a channel of colour c reads those of colours before c (mask A) or also of c
    itself (mask B).

    Args:
        inputs: colour of each input channel.
        outputs: colour of each output channel.
        left: pixels to the left that it reads; 0 is a 1x1 convolution.
        strict: True for mask A.
        gain: of the initial weights, 1 keeps the variance of what the mask lets through.

    Source: van den Oord et al. 2016 (PixelRNN), section 3.4 (masks A and B).
    Differs: none.
    """

    mask: Float[Tensor, "C2 C 1 k1"]

    def __init__(
        self,
        inputs: Int[Tensor, " C"],
        outputs: Int[Tensor, " C2"],
        left: int,
        *,
        strict: bool,
        gain: float,
    ) -> None:
        super().__init__(len(inputs), len(outputs), (1, left + 1))
        self.left = left
        mine, theirs = outputs[:, None], inputs[None]
        mask = torch.ones_like(self.weight)
        mask[:, :, 0, -1] = theirs < mine if strict else theirs <= mine
        self.register_buffer("mask", mask, persistent=False)
        read = mask.sum((1, 2, 3), keepdim=True).clamp(min=1)
        with torch.no_grad():
            self.weight.normal_().mul_(gain * read.rsqrt())
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def masked(self) -> Float[Tensor, "C2 C 1 k1"]:
        """Weights, zero where they would look ahead."""
        return self.weight * self.mask

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H W"]:
        """Output of the same size."""
        return conv2d(pad(x, (self.left, 0)), self.masked(), self.bias)


class Bias(NamedTuple):
    """The sentence's part in the maps before a gate: (1 + scale) maps + shift, each (B, 2P).

    Attributes:
        scale: None leaves it out.
        shift: the linear projection of the sentence.
    """

    scale: Float[Tensor, "B P2"] | None
    shift: Float[Tensor, "B P2"]

    def __call__(self, maps: Float[Tensor, "B P2 ..."]) -> Float[Tensor, "B P2 ..."]:
        """The maps with the text."""
        shape = (*self.shift.shape, *[1] * (maps.ndim - 2))
        if self.scale is not None:
            maps = maps * (1 + self.scale.view(shape))
        return maps + self.shift.view(shape)

    def of(self, colour: int) -> Bias:
        """The part for one colour's channels of both halves."""

        def part(maps: Tensor) -> Tensor:
            return maps.unflatten(1, (2, COLOURS, -1))[:, :, colour].flatten(1)

        return Bias(None if self.scale is None else part(self.scale), part(self.shift))


class SentenceBias(nn.Module):
    """Projection of the sentence vector into a gate: V h, or a scale and a shift of the maps.

    Args:
        text_width: D of the text features.
        maps: 2P.
        scaled: True for a scale as well.

    Source: van den Oord et al. 2016 (Gated PixelCNN), eq. 4; the scale of Perez et al. 2018
        (FiLM), eq. 2.
    Differs: h is a sentence vector, where the paper's is a class or a face's embedding.
    """

    def __init__(self, text_width: int, maps: int, scaled: bool) -> None:
        super().__init__()
        self.scale = nn.Linear(text_width, maps, bias=False) if scaled else None
        self.shift = nn.Linear(text_width, maps, bias=False)

    def forward(self, text: TextFeatures) -> Bias:
        """The text's part, computed once a prompt."""
        scale = None if self.scale is None else self.scale(text.pooled)
        return Bias(scale, self.shift(text.pooled))


class Context(NamedTuple):
    """Text of one layer, computed once a prompt; None where the layer does not read it so.

    Attributes:
        words: keys and values for the vertical stack.
        above: bias of the vertical stack's gate.
        beside: bias of the horizontal stack's gate.
    """

    words: Any
    above: Bias | None
    beside: Bias | None


class GatedLayer(nn.Module):
    """One layer of both stacks.

    Vertical: v' = gate(conv(v)) over rows above, and its own row where v already knows rows above
    alone. Horizontal: h' = h + out(gate(conv(h) + link(conv(v)))).

    Words are attended to by the vertical stack: it knows nothing of its own row, so that attention
    may mix its channels, which in the horizontal stack would mix colours.

    Args:
        width: P.
        kernel_size: n, odd.
        text_width: D of the text features.
        heads: of attention to words.
        conditioning: ``concat`` is the paper's projection into the gates.
        first: True for the layer that reads the image, without residual.
        last: True for the layer after which the vertical stack is not read.

    Source: van den Oord et al. 2016 (Gated PixelCNN), figure 2 and eq. 4.
    Differs: ``modulation`` scales the maps as well, ``cross_attention`` attends to words.
    """

    def __init__(
        self,
        width: int,
        kernel_size: int,
        text_width: int,
        heads: int,
        conditioning: ConditioningKind,
        *,
        first: bool,
        last: bool,
    ) -> None:
        super().__init__()
        self.first, self.last, self.reach = first, last, kernel_size // 2
        inputs = COLOURS if first else width
        rows = self.reach if first else self.reach + 1
        self.vertical = nn.Conv2d(inputs, 2 * width, (rows, kernel_size))
        nn.init.normal_(self.vertical.weight, std=GATE_GAIN * (inputs * rows * kernel_size) ** -0.5)
        self.link = nn.Conv2d(2 * width, 2 * width, 1)
        both = colour_of(width).repeat(2)
        self.horizontal = ColourConv(
            colour_of(inputs), both, self.reach, strict=first, gain=GATE_GAIN
        )
        self.out = ColourConv(colour_of(width), colour_of(width), 0, strict=False, gain=1.0)
        self.words = self.above_bias = self.beside_bias = None
        if conditioning == "cross_attention":
            if not first:
                self.words = SpatialConditioning(conditioning, width, text_width, heads)
        else:
            scaled = conditioning == "modulation"
            self.beside_bias = SentenceBias(text_width, 2 * width, scaled)
            if not last:
                self.above_bias = SentenceBias(text_width, 2 * width, scaled)

    def prepare(self, text: TextFeatures) -> Context:
        """Text of the layer, computed once for each prompt."""
        return Context(
            None if self.words is None else self.words.prepare(text),
            None if self.above_bias is None else self.above_bias(text),
            None if self.beside_bias is None else self.beside_bias(text),
        )

    def forward(
        self, v: Float[Tensor, "B C H W"], h: Float[Tensor, "B C H W"], context: Context
    ) -> tuple[Float[Tensor, "B P H W"], Float[Tensor, "B P H W"]]:
        """Both stacks after the layer."""
        v = self.read_words(v, context)
        padded = pad(v, (self.reach, self.reach, self.reach, 0))
        above = self.vertical(padded[:, :, :-1] if self.first else padded)
        beside = self.horizontal(h) + self.link(above)
        new = self.out(gate(beside if context.beside is None else context.beside(beside)))
        # After the last layer nothing reads the vertical stack.
        v = v if self.last else self.rows_after(above, context)
        return v, new if self.first else h + new

    def read_words(self, v: Float[Tensor, "B C H W"], context: Context) -> Tensor:
        """The vertical stack after attention to words, where the layer attends."""
        return v if self.words is None else self.words(v, context.words)

    def rows_after(self, above: Float[Tensor, "B P2 H W"], context: Context) -> Tensor:
        """The vertical stack after the layer."""
        return gate(above if context.above is None else context.above(above))
