"""The leakage guard: an evaluator must not share weights with the generator that it scores.

A generator conditioned on, or trained against, the network that scores it is rewarded for
pleasing that network. Shared backbones are found tensor by tensor, by shape and closeness: a text
tower cut out of a CLIP model, a copy in another precision and a copy that was fine-tuned are all
recognised.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from t2ibench.core.types import Score

SMALLEST_TENSOR = 256
"""Tensors with fewer elements can be alike by chance (biases at initialisation)."""

SKETCH = 4096
"""Elements of a tensor that are compared, evenly spaced: the correlation of two unrelated tensors
has a standard deviation of 1/64 on so many and of 1/16 on the fewest."""

SAME = 0.9999
"""Correlation of a copy: bfloat16 rounds by 2^-9 at most, which leaves 0.99999."""

CLOSE = 0.9
"""Correlation of two matrices of which one was made from the other, 14 standard deviations from
chance for the smallest: fine-tuning that moves weights by less than half of their size leaves so
much."""

CLOSE_SHARE = 0.25
"""Share of the smaller network's matrices that must be close without being copies. Networks that
began with the same random weights keep a few: 3 of the 31 matrices of the two dual encoders shipped
with the package, which were trained on different data from one seed."""


@dataclass(frozen=True)
class Leak:
    """One part of a generator whose weights a network of the evaluator contains.

    Attributes:
        part: the generator's part, for example ``text_encoder`` or ``perceptual_loss``.
        network: key of the evaluator's extractor or dual encoder.
        shared_tensors: how many weight tensors the two have in common.
        tuned_tensors: how many of these are close without being copies: one of the networks was
            trained on from the other.
    """

    part: str
    network: str
    shared_tensors: int
    tuned_tensors: int = 0

    def to_dict(self) -> dict[str, str | int]:
        """A JSON-ready mapping, as ``scores.json`` keeps it."""
        return {
            "part": self.part,
            "instrument": self.network,
            "shared_tensors": self.shared_tensors,
            "tuned_tensors": self.tuned_tensors,
        }

    def __str__(self) -> str:
        tuned = f", {self.tuned_tensors} of them fine-tuned," if self.tuned_tensors else ""
        return (
            f"leak: the generator's {self.part} shares {self.shared_tensors} weight tensors"
            f"{tuned} with {self.network}"
        )


Sketches = Mapping[tuple[int, ...], Tensor]
"""Mapping from a shape to the (T, K) sketches of a network's T tensors of that shape."""


def sketches(module: nn.Module) -> Sketches:
    """Sketches of a network's weights: evenly spaced elements, centred, of unit length.

    The product of two sketches is the correlation of their tensors. Left out are tensors that two
    unrelated networks can have alike: those below 256 elements, and constant ones (untrained gains
    and biases).
    """
    found: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    for tensor in module.state_dict().values():
        if not torch.is_floating_point(tensor) or tensor.numel() < SMALLEST_TENSOR:
            continue
        flat = tensor.detach().reshape(-1)
        places = torch.linspace(0, len(flat) - 1, min(SKETCH, len(flat)), dtype=torch.float64)
        drawn = flat[places.round().long().to(flat.device)].cpu().double()
        centred = drawn - drawn.mean()
        if centred.norm() > 1e-6 * drawn.norm():
            found[tuple(tensor.shape)].append(centred / centred.norm())
    return {shape: torch.stack(tensors) for shape, tensors in found.items()}


def find_leaks(
    generator: Mapping[str, nn.Module], evaluator: Mapping[str, nn.Module]
) -> list[Leak]:
    """Every pair of a generator's part and a network of the evaluator that share weights.

    Tensors are shared where they have one shape and are copies of one another, in whatever
    precision. Matrices are also shared where they are close and many are: one network was then
    fine-tuned from the other. A gain or bias that is close is no evidence: trained ones are alike
    in unrelated networks.

    Args:
        generator: part name -> network. Name everything that conditioned or trained the
            generator: text encoder, perceptual and adversarial backbones, first stage and its
            losses.
        evaluator: extractor's or dual encoder's key -> network.
    """
    parts = {name: sketches(module) for name, module in generator.items()}
    leaks = []
    for network, module in evaluator.items():
        judge = sketches(module)
        for part, own in parts.items():
            copies, tuned = shared_tensors(own, judge)
            if copies + tuned:
                leaks.append(Leak(part, network, copies + tuned, tuned))
    return leaks


def shared_tensors(own: Sketches, judge: Sketches) -> tuple[int, int]:
    """Numbers of tensors of the first that are copies of the second's, and that are close."""
    copies = tuned = 0
    for shape in own.keys() & judge.keys():
        alike = (own[shape] @ judge[shape].T).amax(1)
        same = int((alike >= SAME).sum())
        copies += same
        if len(shape) > 1:
            tuned += int((alike >= CLOSE).sum()) - same
    fewest = min(_matrices(own), _matrices(judge))
    return copies, tuned if tuned >= CLOSE_SHARE * fewest else 0


def _matrices(network: Sketches) -> int:
    return sum(len(tensors) for shape, tensors in network.items() if len(shape) > 1)


def flag(scores: Mapping[str, Score], leaks: Iterable[Leak]) -> dict[str, Score]:
    """The scores, with a note on each that a leaking network gave."""
    flagged = dict(scores)
    for leak in leaks:
        for key, score in flagged.items():
            if leak.network in key:
                note = f"{score.note}; {leak}" if score.note else str(leak)
                flagged[key] = replace(score, note=note)
    return flagged
