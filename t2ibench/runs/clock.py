"""The clock of training and the budget that stops it.

Progress is counted in images seen, never in optimiser calls (a GAN makes two an image
batch). FLOPs are images times the counted FLOPs of one training image, the first stage's
share added; 1 multiply-accumulate = 2 FLOP.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from t2ibench.core.errors import BudgetError

BudgetUnit = Literal["images", "flops", "seconds"]


@dataclass(frozen=True)
class Budget:
    """Limit at which training stops.

    Attributes:
        unit: what is limited.
        amount: how much of it, for the generator and, with ``include_parts``, the
            first stage together.
        include_parts: whether what the first stage cost is charged to this budget
            (FLOPs and seconds; images are always the generator's own).

    Raises:
        BudgetError: an unknown unit or an amount that is not positive.
    """

    unit: BudgetUnit
    amount: float
    include_parts: bool = True

    def __post_init__(self) -> None:
        if self.unit not in get_args(BudgetUnit):
            raise BudgetError(
                f"budget.unit={self.unit} is unknown; choose {', '.join(get_args(BudgetUnit))}."
            )
        if not self.amount > 0:
            raise BudgetError(f"budget.amount={self.amount} must be greater than 0.")


@dataclass
class Clock:
    """Images, FLOPs and seconds that training has spent so far.

    Attributes:
        images_seen: images the generator was trained on, repeats counted.
        flops_per_image: counted FLOPs of one training image, all players, forward, backward
            and the optimiser's matrix products; 0 until the first step is counted. Where steps
            differ (a lazy penalty), the mean over the images so far.
        seconds: wall seconds inside training steps.
        parts_flops: what training everything below the generator cost: the first stage,
            or the runs that a stage of a cascade stands on.
        parts_seconds: likewise, in seconds. Encoding the training set by what is frozen is in
            neither: it is done once for all runs on the same data, and shown beside.
        flops_by_part: ``flops_per_image`` by part of the model (G and D, text encoder …).
        flops_by_kind: of one image by part, of each kind of step that was counted.

    Example:
        >>> clock = Clock(images_seen=2_000, flops_per_image=1e9, parts_flops=1e12)
        >>> clock.flops, clock.progress(Budget("flops", 5e12))
        (2000000000000.0, 0.5)
    """

    images_seen: int = 0
    flops_per_image: float = 0.0
    seconds: float = 0.0
    parts_flops: float = 0.0
    parts_seconds: float = 0.0
    flops_by_part: dict[str, float] = field(default_factory=dict)
    flops_by_kind: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def flops(self) -> float:
        """FLOPs of the generator's own training."""
        return self.images_seen * self.flops_per_image

    def charge(self, images: int, kind: str) -> None:
        """Advances by a step of a kind that is in ``flops_by_kind``."""
        step, before = self.flops_by_kind[kind], self.images_seen
        self.images_seen += images
        # Steps of one kind have one cost, to the last bit.
        if step != self.flops_by_part:
            share = images / self.images_seen
            rest = self.flops_by_part if before else {}
            self.flops_by_part = {
                part: (1 - share) * rest.get(part, 0.0) + share * step.get(part, 0.0)
                for part in sorted(rest.keys() | step.keys())
            }
            self.flops_per_image = sum(self.flops_by_part.values())

    def spent(self, budget: Budget) -> float:
        """Amount of the budget's unit that is used up."""
        first = budget.include_parts
        if budget.unit == "images":
            return float(self.images_seen)
        if budget.unit == "flops":
            return self.flops + (self.parts_flops if first else 0.0)
        return self.seconds + (self.parts_seconds if first else 0.0)

    def progress(self, budget: Budget) -> float:
        """Share of the generator's own part of the budget that is used up, in [0, 1]."""
        start = 0.0
        if budget.include_parts and budget.unit == "flops":
            start = self.parts_flops
        elif budget.include_parts and budget.unit == "seconds":
            start = self.parts_seconds
        own = budget.amount - start
        if own <= 0:
            raise BudgetError(
                f"budget.amount={budget.amount:g} {budget.unit} is less than the first stage "
                f"or base alone cost ({start:g}); raise it or set "
                "budget.include_parts=false."
            )
        return min((self.spent(budget) - start) / own, 1.0)

    def state_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        for name, value in state.items():
            setattr(self, name, value)
