"""A frozen network that a model learns from: a discriminator's features, a perceptual loss."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import nn

from t2ibench.core.frozen import FrozenHolder
from t2ibench.core.hashing import derive_seed, hash_tensors
from t2ibench.engine.build import instantiate
from t2ibench.engine.context import Context
from t2ibench.engine.parts.part import Part, Prepared
from t2ibench.engine.spec import ComponentField, Content, Trained
from t2ibench.runs.folder import Run


class FrozenNetwork(FrozenHolder):
    """A network whose weights are not those of the model that uses it.

    Args:
        network: the network to freeze; the caller's object, not a copy.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.hold("network", network)

    @property
    def fingerprint(self) -> str:
        """Content hash of its weights."""
        return hash_tensors(self._frozen["network"].state_dict().items())

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output; gradients flow to its input."""
        return self._frozen["network"](*args, **kwargs)


class FrozenBackbone(Part):
    """A pretrained network by class and file, or one with random weights of a seed.

    Attributes:
        path: file or folder of its weights, passed to the network; identified by its content.
        seed: seed of random weights, where it has no file.
        network: class and arguments of the network.
    """

    path: Annotated[str | None, Content]
    seed: Annotated[int, Trained]
    network: Annotated[ComponentField, Trained]

    def identity(self, context: Context) -> dict[str, Any]:
        """Fingerprint of its weights."""
        return {"fingerprint": self._network(context).fingerprint}

    def check(self, context: Context) -> None:
        """Loads the network, so that a missing file is reported before any work."""
        self._network(context)

    def prepare(self, context: Context, run: Run) -> Prepared:
        """Loads the network onto the device."""
        network = self._network(context)
        facts = {"fingerprint": network.fingerprint, "pretrained": self.path is not None}
        return Prepared(network.to(context.device), facts=facts)

    def restore(self, context: Context, run: Run | None) -> nn.Module:
        """Loads the same network."""
        return self._network(context).to(context.device)

    def given(self, module: nn.Module) -> tuple[str, ...]:
        """Phrase for the leaderboard: the network, and that it is pretrained or random."""
        return (f"{'pretrained' if self.path else 'random'} backbone {self.name}",)

    def _network(self, context: Context) -> Any:
        """The network, read at first use and kept."""

        def make() -> FrozenNetwork:
            torch.manual_seed(derive_seed("init backbone", self.seed))
            return FrozenNetwork(instantiate(self.network))

        return self.read_once(context, make)
