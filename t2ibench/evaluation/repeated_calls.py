"""Calls of networks on tensors without values, of which each is worked out once for its shapes.

A sampler calls the same networks with the same shapes at every step. Where tensors have no values
(PyTorch's meta device) the second call can give nothing but the first one's shapes and FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from t2ibench.evaluation.flops import FORMULAS, Unknown

PLAIN = (int, float, bool, str, bytes, type(None))
"""Types of arguments that are equal where they print alike."""


class RepeatedCalls:
    """Counts FLOPs on meta tensors; calls of a layer with the same shapes are made once.

    A call is remembered where its arguments are meta tensors and plain values: of another object
    (a cache of keys and values) nobody knows what the call changes in it.

    Args:
        networks: everything that is called, without the networks that these hold frozen.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self._layers = {id(layer): layer for network in networks for layer in network.modules()}
        self._kept: dict[tuple[Any, ...], tuple[Any, int]] = {}
        self._counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
        self._again = 0

    def count(self, call: Callable[[], Any]) -> float:
        """FLOPs of a call, as ``count_flops`` counts them.

        Raises:
            CostError: an operation is met that multiplies matrices and has no formula.
        """
        self._again = 0
        unknown = Unknown(self._counter.flop_registry)
        with unknown, self._counter, self._remembered():
            call()
        unknown.refuse()
        return float(self._spent())

    @contextmanager
    def _remembered(self) -> Iterator[None]:
        own = {key: layer.__dict__.get("forward") for key, layer in self._layers.items()}
        for key, layer in self._layers.items():
            layer.forward = self._remembering(key, layer.forward)
        try:
            yield
        finally:
            for key, layer in self._layers.items():
                del layer.forward
                before = own[key]
                if before is not None:
                    layer.forward = before

    def _remembering(self, layer: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def remembered(*args: Any, **kwargs: Any) -> Any:
            shapes = shapes_of((args, kwargs))
            if shapes is None:
                return forward(*args, **kwargs)
            key = (layer, *shapes)
            if key not in self._kept:
                before = self._spent()
                found = forward(*args, **kwargs)
                self._kept[key] = found, self._spent() - before
                return found
            found, spent = self._kept[key]
            self._again += spent
            return found

        return remembered

    def _spent(self) -> int:
        return self._counter.get_total_flops() + self._again


def shapes_of(arguments: Any) -> tuple[Any, ...] | None:
    """Everything that a call on meta tensors depends on; None where that is not known.

    Example:
        >>> shapes_of((torch.empty(2, 3, device="meta"), 4))[1:]
        ((torch.Size([2, 3]), (3, 1), torch.float32), '4')
        >>> shapes_of((torch.ones(2), 4)) is None
        True
    """
    leaves, structure = tree_flatten(arguments)
    found: list[Any] = [str(structure)]
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor) and leaf.is_meta:
            found.append((leaf.shape, leaf.stride(), leaf.dtype))
        elif isinstance(leaf, PLAIN):
            found.append(repr(leaf))
        else:
            return None
    return tuple(found)
