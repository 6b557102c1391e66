"""Decoder-only transformers over codes: what those of all papers share.

The sequence is [prefix, code 0, …, code N - 2]; the output at a position predicts what comes
after it, so that of the prefix's last token predicts code 0. Tokens of a caption are flush with
the codes: the last one stands before code 0 whatever the caption's length, and a code's place
does not depend on other captions of the batch. Places count from the first code, places of the
prefix are negative.

M is the number of positions that one pass computes, M2 of those that they attend to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import TextFeatures

KeysValues = tuple[Float[Tensor, "B A M2 E"], Float[Tensor, "B A M2 E"]]

Store = Callable[[Tensor, Tensor], KeysValues]
"""Function (keys, values of new positions) -> keys, values of all positions up to them."""

Mask = Bool[Tensor, "_ 1 M M2"] | None
"""True where a position is seen. None: all of those before, and oneself."""


@dataclass
class Cache:
    """Keys and values of the positions decoded so far, allocated once for the whole sequence.

    Attributes:
        length: most positions.
        real: (B, length) True where a position is real; None: all are.
        contexts: each block's text context.
        keys: (B, A, length, E) of each block.
        values: (B, A, length, E) of each block.
        filled: number of positions written.
        last: (B, D) output of the position written last.
    """

    length: int
    real: Bool[Tensor, "B M"] | None
    contexts: list[Any]
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    filled: int = 0
    last: Tensor | None = None

    def append(
        self, layer: int, keys: Float[Tensor, "B A M E"], values: Float[Tensor, "B A M E"]
    ) -> KeysValues:
        """Writes a block's new keys and values; all of its keys and values up to them."""
        if layer == len(self.keys):
            shape = (*keys.shape[:2], self.length, keys.shape[3])
            self.keys.append(keys.new_zeros(shape))
            self.values.append(values.new_zeros(shape))
        stop = self.filled + keys.shape[2]
        self.keys[layer][:, :, self.filled : stop] = keys
        self.values[layer][:, :, self.filled : stop] = values
        return self.keys[layer][:, :, :stop], self.values[layer][:, :, :stop]


def check_heads(width: int, heads: int, divisor: int = 1) -> None:
    """Refuses a width that heads of a multiple of ``divisor`` do not share evenly.

    Raises:
        ConfigError: they do not.
    """
    if width % (heads * divisor):
        each = f", each a multiple of {divisor} wide" if divisor > 1 else ""
        raise ConfigError(
            f"model.module.network: width={width} cannot be shared by heads={heads}{each}; "
            f"choose a width that is a multiple of {heads * divisor}."
        )


def attend(
    q: Float[Tensor, "B A M E"],
    keys_values: KeysValues,
    mask: Mask,
) -> Float[Tensor, "B M D"]:
    """Causal attention; of a single position to all that are given; heads are joined."""
    keys, values = keys_values
    causal = mask is None and q.shape[2] > 1
    out = scaled_dot_product_attention(q, keys, values, attn_mask=mask, is_causal=causal)
    return out.transpose(1, 2).flatten(2)


def flush_right(text: TextFeatures) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"]]:
    """Tokens and mask with the padding moved in front; real tokens keep their order."""
    order = text.mask.int().argsort(dim=1, stable=True)
    tokens = text.tokens.gather(1, order.unsqueeze(-1).expand_as(text.tokens))
    return tokens, text.mask.gather(1, order)


class PrefixDecoder(nn.Module, ABC):
    """Base class of decoder-only transformers: the sequence, and its cache.

    A block is called with (x, text, mask, rotation, store, context): ``rotation`` is what
    ``enter`` returned, ``store`` takes keys and values to the cache (None without one), and
    ``context`` is what the block's ``prepare`` made of the text (None: to be made of ``text``).

    Attributes:
        code: embedding of the codes.
        blocks: the layers.
        length: N, codes an image.
        near: (N, N) whether the query of row n, at place n - 1, looks at the place m - 1; places
            before -1 are always seen. None: at all.
    """

    code: nn.Embedding
    blocks: nn.ModuleList
    length: int
    near: Bool[Tensor, "N N"] | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("near", None, persistent=False)

    @abstractmethod
    def prefix(
        self, text: TextFeatures
    ) -> tuple[Float[Tensor, "B L D"], Bool[Tensor, "B L"] | None]:
        """Tokens before the codes, at least one, and which are real (None: all)."""

    @abstractmethod
    def enter(self, x: Float[Tensor, "B M D"], place: int) -> tuple[Float[Tensor, "B M D"], Any]:
        """Embeddings at ``place`` and after made ready for the blocks, and their rotation."""

    @abstractmethod
    def logits(self, x: Float[Tensor, "B M D"]) -> Float[Tensor, "B M V"]:
        """Logits of the next codes from the last block's output."""

    def blocks_to_shard(self) -> list[nn.Module]:
        """Blocks that FSDP shards and gathers one by one."""
        return list(self.blocks)

    def forward(self, codes: Int[Tensor, "B N"], text: TextFeatures) -> Float[Tensor, "B N V"]:
        """Logits of every code given those before it (teacher forcing)."""
        prefix, real = self.prefix(text)
        count = prefix.shape[1]
        x = torch.cat([prefix, self.code(codes[:, :-1])], 1)
        mask = self.mask(self._with_codes(real), -count, x.shape[1], x.shape[1])
        return self.logits(self._run(x, -count, mask, text)[:, count - 1 :])

    def start_cache(self, text: TextFeatures) -> Cache:
        """Cache that already holds the prompts' prefix and text contexts."""
        prefix, real = self.prefix(text)
        contexts = [block.prepare(text) for block in self.blocks]
        count = prefix.shape[1]
        cache = Cache(count + self.length - 1, self._with_codes(real), contexts)
        self._advance(prefix, -count, cache)
        return cache

    def step(
        self, token: Int[Tensor, " B"] | None, position: int, cache: Cache
    ) -> Float[Tensor, "B V"]:
        """Logits of the code at ``position`` given the one before it; advances the cache."""
        if token is not None:
            self._advance(self.code(token).unsqueeze(1), position - 1, cache)
        assert cache.last is not None, "start_cache ran the prefix"
        return self.logits(cache.last.unsqueeze(1))[:, 0]

    def mask(self, real: Bool[Tensor, "B M3"] | None, place: int, new: int, seen: int) -> Mask:
        """Mask of ``new`` positions from ``place`` on, over the ``seen`` ones up to their last.

        Padding sees itself, so that no row is empty.

        Args:
            real: which positions of the whole sequence are real; None: all.
            place: place of the first new position.
            new: M.
            seen: M2.
        """
        if self.near is None and (real is None or new == 1):
            return None if real is None else real[:, None, None, :seen]
        device = self.code.weight.device
        stop = place + new
        queries = torch.arange(place, stop, device=device)[:, None]
        keys = torch.arange(stop - seen, stop, device=device)[None]
        order = keys <= queries
        if self.near is not None:
            looks = self.near[(queries + 1).clamp(min=0), (keys + 1).clamp(min=0)]
            order = order & (looks | (queries < -1) | (keys < -1))
        if real is None:
            return order[None, None]
        return ((real[:, None, :seen] & order) | (keys == queries))[:, None]

    def _with_codes(self, real: Bool[Tensor, "B L"] | None) -> Bool[Tensor, "B M"] | None:
        """Mask of the real positions of prefix and codes."""
        if real is None:
            return None
        return torch.cat([real, real.new_ones(len(real), self.length - 1)], 1)

    def _advance(self, x: Float[Tensor, "B M D"], place: int, cache: Cache) -> None:
        """Runs new positions through the blocks and adds them to the cache."""
        new = x.shape[1]
        mask = self.mask(cache.real, place, new, cache.filled + new)
        cache.last = self._run(x, place, mask, None, cache)[:, -1]
        cache.filled += new

    def _run(
        self,
        x: Float[Tensor, "B M D"],
        place: int,
        mask: Mask,
        text: TextFeatures | None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B M D"]:
        """Output of the last block for positions from ``place`` on."""
        x, rotation = self.enter(x, place)
        for layer, block in enumerate(self.blocks):
            store = None if cache is None else partial(cache.append, layer)
            context = None if cache is None else cache.contexts[layer]
            x = block(x, text, mask, rotation, store, context)
        return x
