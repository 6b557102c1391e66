"""The leakage guard: an evaluator must not share weights with the generator that it scores.

A generator conditioned on, or trained against, the network that scores it is rewarded for
pleasing that network. Shared backbones are found tensor by tensor, so that a text tower
cut out of a CLIP model, or a half-precision copy of it, is still recognised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from t2ibench.core.types import Score

SMALLEST_TENSOR = 256
"""Tensors with fewer elements can be equal by chance (biases at initialisation)."""


@dataclass(frozen=True)
class Leak:
    """One part of a generator whose weights a network of the evaluator contains.

    Attributes:
        part: the generator's part, for example ``text_encoder`` or ``perceptual_loss``.
        network: key of the evaluator's extractor or dual encoder.
        shared_tensors: how many weight tensors the two have in common.
    """

    part: str
    network: str
    shared_tensors: int

    def to_dict(self) -> dict[str, str | int]:
        """A JSON-ready mapping, as ``scores.json`` keeps it."""
        return {
            "part": self.part,
            "instrument": self.network,
            "shared_tensors": self.shared_tensors,
        }

    def __str__(self) -> str:
        return (
            f"leak: the generator's {self.part} shares {self.shared_tensors} weight tensors "
            f"with {self.network}"
        )


def signature(module: nn.Module) -> frozenset[str]:
    """Content hashes of a network's weight tensors, in half precision.

    Tensors below 256 elements and constant ones (untrained gains and biases) are left out:
    two unrelated networks can hold the same ones.
    """
    found = set()
    for tensor in module.state_dict().values():
        if not torch.is_floating_point(tensor) or tensor.numel() < SMALLEST_TENSOR:
            continue
        half = tensor.detach().cpu().to(torch.float16).contiguous()
        if (half == half.reshape(-1)[0]).all():
            continue
        found.add(hashlib.sha256(half.numpy().tobytes()).hexdigest()[:16])
    return frozenset(found)


def find_leaks(
    generator: Mapping[str, nn.Module | Iterable[str]],
    evaluator: Mapping[str, nn.Module | Iterable[str]],
) -> list[Leak]:
    """Every pair of a generator's part and a network of the evaluator that share weights.

    Args:
        generator: part name -> network, or the ``signature`` stored with it. Name everything
            that conditioned or trained the generator: text encoder, perceptual and
            adversarial backbones, first stage and its losses.
        evaluator: extractor's or dual encoder's key -> network or signature.
    """
    parts = {name: _identities(value) for name, value in generator.items()}
    leaks = []
    for network, value in evaluator.items():
        weights = _identities(value)
        for part, identities in parts.items():
            if shared := len(identities & weights):
                leaks.append(Leak(part, network, shared))
    return leaks


def flag(scores: Mapping[str, Score], leaks: Iterable[Leak]) -> dict[str, Score]:
    """The scores, with a note on each that a leaking network gave."""
    flagged = dict(scores)
    for leak in leaks:
        for key, score in flagged.items():
            if leak.network in key:
                note = f"{score.note}; {leak}" if score.note else str(leak)
                flagged[key] = replace(score, note=note)
    return flagged


def _identities(value: nn.Module | Iterable[str]) -> frozenset[str]:
    return signature(value) if isinstance(value, nn.Module) else frozenset(value)
