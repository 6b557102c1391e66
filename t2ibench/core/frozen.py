"""Frozen networks that a module uses without owning their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class FrozenHolder(nn.Module):
    """A module that keeps pretrained networks outside of ``nn.Module``'s registry.

    They have no entry in ``state_dict``, ``parameters`` or ``modules`` of what owns the holder,
    always stay in eval mode without gradients, and follow ``.to(...)``. The leakage guard finds
    them by ``frozen_networks``.
    """

    def __init__(self) -> None:
        super().__init__()
        # A plain dict hides them: nn.Module registers only attributes that are modules.
        self._frozen: dict[str, Any] = {}

    def hold(self, name: str, network: nn.Module) -> None:
        """Freezes ``network`` (the caller's object, not a copy) and keeps it under a name."""
        self._frozen[name] = network.requires_grad_(False).eval()

    @property
    def frozen_networks(self) -> dict[str, nn.Module]:
        """The networks by name."""
        return dict(self._frozen)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenHolder:
        super()._apply(fn, recurse)
        for network in self._frozen.values():
            network._apply(fn, recurse)
        return self
