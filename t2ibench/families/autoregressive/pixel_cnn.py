"""The gated conditional PixelCNN: a convolution that predicts each value from those before it.

van den Oord et al. 2016, "Conditional Image Generation with PixelCNN Decoders": pixels in raster
order, in each red before green before blue, each value one of 256 by a softmax.

A value is drawn from what the network has computed already: a row of the vertical stack once, and
of the horizontal stack the third of the channels that predict the value, so that an image costs
about one pass of the network and not one a value.

P is the width of a stack, k half a kernel's side (rounded down).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import Images, TextFeatures
from t2ibench.families.autoregressive.pixel_cnn_layers import (
    COLOURS,
    Bias,
    ColourConv,
    Context,
    GatedLayer,
    colour_of,
    gate,
)
from t2ibench.nn.conditioning import ConditioningKind, zero_init

LEVELS = 256
"""Values of a channel."""


class Kernel(NamedTuple):
    """The part of a convolution that makes one colour's channels at one pixel.

    Attributes:
        weight: (outputs, inputs), zero columns of later colours left out.
        bias: (outputs).
    """

    weight: Float[Tensor, "O I"]
    bias: Float[Tensor, " O"]


class Cache(NamedTuple):
    """State of the images drawn so far: all that the network has computed of them.

    Attributes:
        contexts: each layer's text.
        biases: each layer's text in the horizontal gate, by colour.
        kernels: each layer's horizontal convolution and its ``out``, by colour.
        head: its two layers, by colour.
        planes: each layer's input of the vertical stack, (B, C, k + H, W + 2 k), zero outside.
        links: what each layer's vertical stack says of the current row, (B, 2, 3, P / 3, W).
        row: each layer's input of the horizontal stack, (B, C, k + W), the last its output.
        gated: each layer's horizontal stack after the gate at the current pixel, (B, P).
        hidden: head's hidden layer at the current pixel, (B, P).
    """

    contexts: list[Context]
    biases: list[list[Bias | None]]
    kernels: list[tuple[list[Kernel], list[Kernel]]]
    head: tuple[list[Kernel], list[Kernel]]
    planes: list[Tensor]
    links: list[Tensor]
    row: list[Tensor]
    gated: list[Tensor]
    hidden: Tensor


class GatedPixelCNN(nn.Module):
    """Convolutional network that predicts each value of an image from those before it and text.

    Args:
        side: H = W of the images that are sampled.
        text_width: D of the text features.
        width: P of both stacks, a multiple of 3.
        depth: number of layers, at least 2.
        kernel_size: n, odd and at least 3.
        heads: of attention to words; must divide ``width``.
        conditioning: ``concat`` is the paper's projection of the sentence into the gates.

    Raises:
        ConfigError: a width, depth or kernel that it cannot have.

    Source: van den Oord et al. 2016 (Gated PixelCNN), section 2; head of PixelRNN, table 1.
    Differs: initial weights are our own (not published); the head is as wide as the stacks.
    """

    def __init__(
        self,
        *,
        side: int,
        text_width: int,
        width: int,
        depth: int,
        kernel_size: int,
        heads: int,
        conditioning: ConditioningKind,
    ) -> None:
        super().__init__()
        check_shape(width, depth, kernel_size, heads)
        self.side, self.width, self.reach = side, width, kernel_size // 2
        self.layers = nn.ModuleList(
            GatedLayer(
                *(width, kernel_size, text_width, heads, conditioning),
                first=i == 0,
                last=i == depth - 1,
            )
            for i in range(depth)
        )
        groups, levels = colour_of(width), colour_of(COLOURS * LEVELS)
        self.hidden = ColourConv(groups, groups, 0, strict=False, gain=2**0.5)
        self.head = ColourConv(groups, levels, 0, strict=False, gain=1.0)
        zero_init(self.head)
        self.next_value = NextValue(width, self.reach)

    @property
    def stack(self) -> list[GatedLayer]:
        """The layers in their order."""
        return cast(list[GatedLayer], list(self.layers))

    def blocks_to_shard(self) -> list[nn.Module]:
        """Blocks that FSDP shards and gathers one by one."""
        return list(self.layers)

    def prepare(self, text: TextFeatures) -> list[Context]:
        """Text of every layer, computed once for each prompt."""
        return [layer.prepare(text) for layer in self.stack]

    def forward(self, images: Images, text: TextFeatures) -> Float[Tensor, "B V C H W"]:
        """Logits of every value given those before it (teacher forcing), V = 256."""
        v = h = images
        for layer, context in zip(self.layers, self.prepare(text), strict=True):
            v, h = layer(v, h, context)
        logits = self.head(self.hidden(h.relu()).relu())
        return logits.unflatten(1, (COLOURS, LEVELS)).transpose(1, 2)

    def start_cache(self, text: TextFeatures) -> Cache:
        """Allocates a cache of B images of which nothing is drawn yet."""
        count, side, k = len(text), self.side, self.reach
        new, contexts = self.hidden.weight.new_zeros, self.prepare(text)
        widths = [COLOURS, *[self.width] * len(self.layers)]
        return Cache(
            contexts,
            [by_colour(context.beside) for context in contexts],
            [(kernels(layer.horizontal, halves=2), kernels(layer.out)) for layer in self.stack],
            (kernels(self.hidden), kernels(self.head)),
            [new(count, width, k + side, side + 2 * k) for width in widths[:-1]],
            [new(count, 2, COLOURS, self.width // COLOURS, side) for _ in self.layers],
            [new(count, width, k + side) for width in widths],
            [new(count, self.width) for _ in self.layers],
            new(count, self.width),
        )

    def step(
        self, token: Int[Tensor, " B"] | None, position: int, cache: Cache
    ) -> Float[Tensor, "B V"]:
        """Logits of the value at ``position`` given the one before it; advances the cache.

        Args:
            token: level 0..255 of the value before; None at the start.
            position: place among the 3 H W values, colours innermost.
            cache: what ``start_cache`` allocated, after all earlier steps.
        """
        if token is not None:
            pixel, colour = divmod(position - 1, COLOURS)
            i, j = divmod(pixel, self.side)
            value = token.to(cache.hidden.dtype) / 127.5 - 1
            cache.planes[0][:, colour, i + self.reach, j + self.reach] = value
            cache.row[0][:, colour, j + self.reach] = value
        pixel, colour = divmod(position, COLOURS)
        i, j = divmod(pixel, self.side)
        if j == colour == 0:
            self._begin_row(i, cache)
        return self.next_value(j, colour, cache)

    def _begin_row(self, i: int, cache: Cache) -> None:
        """Computes row i of the vertical stack, of which all rows above are known."""
        k, v = self.reach, torch.empty(0)
        for n, (layer, context) in enumerate(zip(self.stack, cache.contexts, strict=True)):
            plane = cache.planes[n]
            if not layer.first:
                v = layer.read_words(v, context)
                plane[:, :, i + k, k : k + self.side] = v[:, :, 0]
            window = plane[:, :, i : i + layer.vertical.kernel_size[0]]
            above = conv2d(window, layer.vertical.weight, layer.vertical.bias)
            cache.links[n] = layer.link(above)[:, :, 0].unflatten(1, (2, COLOURS, -1))
            if not layer.last:
                v = layer.rows_after(above, context)
        for columns in cache.row:
            columns.zero_()


class NextValue(nn.Module):
    """Logits of one value from what the cache holds of its row.

    A module without weights, so that ``t2ibench info`` counts equal calls of it once.

    Args:
        width: P.
        reach: k.
    """

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.width, self.reach = width, reach

    def forward(self, j: int, colour: int, cache: Cache) -> Float[Tensor, "B V"]:
        """Logits of one colour at column j of the row that was begun."""
        k, third = self.reach, self.width // COLOURS
        mine, upto = slice(colour * third, (colour + 1) * third), slice(0, (colour + 1) * third)
        for n, (horizontal, out) in enumerate(cache.kernels):
            read, made = cache.row[n], cache.row[n + 1]
            maps = linear(read[:, :, j : j + k + 1].flatten(1), *horizontal[colour])
            maps = maps + cache.links[n][:, :, colour, :, j].flatten(1)
            bias = cache.biases[n][colour]
            cache.gated[n][:, mine] = gate(maps if bias is None else bias(maps))
            new = linear(cache.gated[n][:, upto], *out[colour])
            # The first layer, which reads the image, has no residual.
            made[:, mine, j + k] = new if n == 0 else new + read[:, mine, j + k]
        hidden, head = cache.head
        known = cache.row[-1][:, upto, j + k].relu()
        cache.hidden[:, mine] = linear(known, *hidden[colour]).relu()
        return linear(cache.hidden[:, upto], *head[colour])


def by_colour(bias: Bias | None) -> list[Bias | None]:
    """The text's part in a gate for each colour's channels."""
    return [None if bias is None else bias.of(colour) for colour in range(COLOURS)]


def kernels(layer: ColourConv, halves: int = 1) -> list[Kernel]:
    """The parts of a layer that make each colour's channels at one pixel, without gradients.

    Args:
        layer: a layer over the pixels to the left or, where it has none, over the pixel alone.
        halves: 2 where the colours' thirds come twice, before a gate.
    """
    assert layer.bias is not None
    weights = layer.masked().unflatten(0, (halves, COLOURS, -1)).unbind(1)
    biases = layer.bias.unflatten(0, (halves, COLOURS, -1)).unbind(1)
    found = []
    for colour, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        weight = weight.flatten(0, 1)
        if not layer.left:  # of its pixel, channels of later colours count nothing
            weight = weight[:, : weight.shape[1] // COLOURS * (colour + 1)]
        found.append(Kernel(weight.flatten(1).detach(), bias.flatten().detach()))
    return found


def check_shape(width: int, depth: int, kernel_size: int, heads: int) -> None:
    """Refuses widths, depths and kernels that the network cannot have.

    Raises:
        ConfigError: names the key, its value and the remedy.
    """
    key = "model.module.network"
    if width % COLOURS or width % heads:
        raise ConfigError(
            f"{key}.width={width} is not a multiple of 3 colours and of {key}.heads={heads}; "
            "choose such a width."
        )
    if depth < 2:
        raise ConfigError(f"{key}.depth={depth} must be at least 2.")
    if kernel_size < 3 or not kernel_size % 2:
        raise ConfigError(f"{key}.kernel_size={kernel_size} must be odd and at least 3.")
