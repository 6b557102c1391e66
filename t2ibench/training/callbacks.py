"""Callbacks of the trainer: clock, seeds, schedule, EMA, non-finite guard, learning curves.

Every callback reads the one ``Clock``; none reads Lightning's ``global_step``, which counts
optimiser calls.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from t2ibench.core.errors import BudgetError, NonFiniteLossError
from t2ibench.core.hashing import derive_seed
from t2ibench.core.ranks import Counting, summed, world_size
from t2ibench.core.shards import part_of
from t2ibench.core.types import Batch
from t2ibench.evaluation.flops import OPTIMIZER, PartFlops
from t2ibench.nn.ema import WeightEMA
from t2ibench.runs.clock import Budget, Clock
from t2ibench.runs.curves import MetricsFile
from t2ibench.training.sharding import is_sharded, unsharded

log = logging.getLogger(__name__)

Decay = Literal["constant", "cosine", "halving", "linear"]

NAMED_INDICES = 8
"""Number of training indices that an error of the non-finite guard names."""


def parts_of(module: Any) -> dict[str, nn.Module]:
    """Networks of a family or a first stage by name, as it reports them."""
    return module.parts() if hasattr(module, "parts") else dict(module.named_children())


class BudgetClock(pl.Callback):
    """Counts images, FLOPs and seconds and stops training when the budget is spent.

    The FLOPs of one training image are counted on the first batch, forward, backward and the
    optimiser's matrix products (Muon's) of every player, and kept in the checkpoint; once more on
    the first step of another kind (``step_kind``), whose steps are charged their own. It also
    seeds the global generators from (seed, images seen) before each step, so that a resumed run
    draws what an uninterrupted one draws.
    """

    def __init__(self, clock: Clock, budget: Budget, seed: int) -> None:
        self.clock = clock
        self.budget = budget
        self.seed = seed
        self._count: FlopCount | None = None
        self._kind = ""
        self._started = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seeds the step and, at the first of its kind, starts counting FLOPs."""
        # One seed for all ranks: each draws the whole batch's numbers and keeps its own.
        torch.manual_seed(derive_seed("step", self.seed, self.clock.images_seen, 0))
        pl_module.images_seen = self.clock.images_seen  # type: ignore[assignment]
        module: Any = pl_module
        self._kind = module.step_kind(len(batch)) if hasattr(module, "step_kind") else ""
        if self._kind not in self.clock.flops_by_kind:
            self._count = FlopCount(pl_module, trainer.optimizers)
        self._started = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Advances the clock and stops training when the budget is spent."""
        spent = time.perf_counter() - self._started
        if trainer.world_size > 1 and self.budget.unit == "seconds":
            spent = self._slowest(trainer, spent)
        self.clock.seconds += spent
        if self._count is not None:
            counted = self._count.per_image(len(batch))
            self.clock.flops_by_kind[self._kind] = counted
            self._count = None
            if not sum(counted.values()) and self.budget.unit == "flops":
                raise BudgetError(
                    f"{type(pl_module).__name__} did no countable FLOPs in its first step, so "
                    "budget.unit=flops cannot stop it; use images or seconds."
                )
        self.clock.charge(len(batch) * trainer.world_size, self._kind)
        if self.clock.progress(self.budget) >= 1:
            trainer.should_stop = True

    def _slowest(self, trainer: pl.Trainer, seconds: float) -> float:
        """The slowest process's seconds, so that all stop at the same step."""
        mine = torch.tensor(seconds, device=trainer.strategy.root_device)
        return float(trainer.strategy.reduce(mine, reduce_op="max"))  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """State of the clock."""
        return self.clock.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the clock."""
        self.clock.load_state_dict(state_dict)


class FlopCount:
    """FLOP count of one training step, from construction to ``per_image``.

    Every rank repeats the optimiser's work, so it is counted once; captions are padded to the
    longest of the whole batch. An image thus costs the same on any number of ranks (but for the
    null caption, which each rank encodes once a step: less than a thousandth).
    """

    def __init__(self, module: Any, optimizers: Sequence[Optimizer]) -> None:
        self._counter = PartFlops(parts_of(module))
        self._hooks = []
        for optimizer in optimizers:
            self._hooks += [
                optimizer.register_step_pre_hook(lambda *_: self._counter.charge(OPTIMIZER)),
                optimizer.register_step_post_hook(lambda *_: self._counter.charge(None)),
            ]
        Counting.on = True
        self._counter.__enter__()

    def per_image(self, images: int) -> dict[str, float]:
        """Stops counting and returns the FLOPs of one image by part.

        Args:
            images: number of images of this rank in the step.

        Raises:
            CostError: the step has an operation whose FLOPs nobody knows.
        """
        self._counter.__exit__(None, None, None)
        Counting.on = False
        for hook in self._hooks:
            hook.remove()
        self._counter.unknown.refuse()
        found = dict(sorted(self._counter.by_part.items()))
        once = found.pop(OPTIMIZER, 0.0)
        of_ranks = summed(torch.tensor(list(found.values()), dtype=torch.float64)).tolist()
        by_part = dict(zip(found, of_ranks, strict=True)) | ({OPTIMIZER: once} if once else {})
        return {name: count / (images * world_size()) for name, count in by_part.items()}


HALVINGS = 6
"""Parts of a training with a learning rate each, half the one before (Reed et al. 2016)."""


class LearningRate(pl.Callback):
    """Scales every optimiser's learning rate on the images-seen clock.

    factor = min(1, images / warmup_images) * decay(progress), with decay 1 (constant),
    1 - p (linear), (1 + cos(pi p)) / 2 (cosine) or 2^-floor(6 p) (halving, as GAN-INT-CLS and
    StackGAN do every 100 of 600 epochs), p the share of the budget used.
    """

    def __init__(self, clock: Clock, budget: Budget, warmup_images: int, decay: Decay) -> None:
        self.clock = clock
        self.budget = budget
        self.warmup_images = warmup_images
        self.decay = decay

    def factor(self) -> float:
        """The present factor of all learning rates."""
        warm = 1.0
        if self.warmup_images > 0:
            warm = min(1.0, (self.clock.images_seen + 1) / self.warmup_images)
        progress = self.clock.progress(self.budget)
        if self.decay == "linear":
            return warm * (1 - progress)
        if self.decay == "halving":
            return warm * 0.5 ** math.floor(HALVINGS * min(progress, 1 - 1e-9))
        if self.decay == "cosine":
            return warm * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * progress))))
        return warm

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets the learning rates of this step."""
        factor = self.factor()
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * factor


class AverageWeights(pl.Callback):
    """Keeps the EMA of the sampling parameters and stores it in the checkpoint.

    Buffers (running statistics of batch norm) are those of the live network, as in the code of
    StackGAN-v2, AttnGAN and StyleGAN2.
    """

    def __init__(self, clock: Clock, half_life_images: float) -> None:
        self.clock = clock
        self.half_life_images = half_life_images
        self.ema: WeightEMA | None = None
        self._loaded: Mapping[str, Tensor] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the average from the restored one, or from the initial weights."""
        self.ema = WeightEMA(pl_module.sampling_parameters(), self.half_life_images)
        if self._loaded is not None:
            live = pl_module.sampling_parameters()
            loaded = {n: part_of(t.to(pl_module.device), live[n]) for n, t in self._loaded.items()}
            self.ema.load_state_dict(loaded)
            self._loaded = None

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Updates the average with the step's weights."""
        assert self.ema is not None
        self.ema.update(len(batch) * trainer.world_size, self.clock.images_seen)

    def state_dict(self) -> dict[str, Any]:
        """State of the average: its whole, unsharded tensors."""
        return {} if self.ema is None else unsharded(self.ema.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the restored average until training starts."""
        self._loaded = state_dict or None


class LearningCurves(pl.Callback):
    """Writes means of the logged tensors over an interval of images; stops at non-finite ones.

    A value is averaged over the steps that logged it (a lazy penalty's are few).
    Values stay on the device between intervals: the only host sync of training is here, and
    where a checkpoint is written. An interval that a checkpoint interrupts continues after it.
    """

    def __init__(
        self,
        clock: Clock,
        file: MetricsFile,
        every_images: int,
        track: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        self.clock = clock
        self.file = file
        self.every_images = every_images
        self.track = track
        self._sums: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}
        self._since = 0
        self._indices = torch.empty(0, dtype=torch.int64)
        self._told: set[str] = set()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drops rows that were logged after the checkpoint."""
        self.file.rewind(self.clock.images_seen)
        self._sums = {name: total.to(pl_module.device) for name, total in self._sums.items()}

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Adds up; writes a row when the interval is full and when the budget is spent."""
        for name, value in outputs.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._steps[name] = self._steps.get(name, 0) + 1
        if len(self._indices) < NAMED_INDICES:
            self._indices = torch.cat([self._indices.to(batch.index), batch.index[:NAMED_INDICES]])
        if self.clock.images_seen - self._since >= self.every_images or trainer.should_stop:
            self._write(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stores the means over all processes; refuses a non-finite state."""
        self._means(pl_module)
        if trainer.world_size > 1:
            checkpoint["callbacks"][self.state_key]["sums"] = self._over_processes(trainer)

    def state_dict(self) -> dict[str, Any]:
        """State of the interval that is not yet full."""
        return {
            "sums": dict(self._sums),
            "steps": dict(self._steps),
            "since": self._since,
            "indices": self._indices,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the interval that is not yet full."""
        self._sums = dict(state_dict["sums"])
        self._steps = dict(state_dict["steps"])
        self._since = state_dict["since"]
        self._indices = state_dict["indices"]

    def _means(self, pl_module: pl.LightningModule) -> dict[str, float]:
        """Means of the interval so far.

        Raises:
            NonFiniteLossError: a mean is NaN or infinite.
        """
        means = {name: float(total) / self._steps[name] for name, total in self._sums.items()}
        bad = sorted(name for name, value in means.items() if not abs(value) < float("inf"))
        if bad:
            raise NonFiniteLossError(
                f"{', '.join(bad)} of {type(pl_module).__name__} became NaN or infinite between "
                f"{self._since} and {self.clock.images_seen} images (batches that begin with "
                f"training indices {self._indices[:NAMED_INDICES].tolist()}); lower the learning "
                "rate or raise the warm-up."
            )
        return means

    def _over_processes(self, trainer: pl.Trainer) -> dict[str, Tensor]:
        """Sums, averaged over all processes."""
        copies = {name: total.clone() for name, total in self._sums.items()}
        for total in copies.values():
            trainer.strategy.reduce(total, reduce_op="mean")
        return copies

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes one row with the means over all processes."""
        if trainer.world_size > 1:
            self._sums = self._over_processes(trainer)
        means = self._means(pl_module)
        row: dict[str, Any] = {
            "images_seen": self.clock.images_seen,
            "flops": f"{self.clock.flops + self.clock.parts_flops:.6e}",
            "seconds": round(self.clock.seconds, 3),
        }
        row |= {name: round(value, 6) for name, value in means.items()}
        if trainer.is_global_zero:
            self.file.append(row)
            if self.track is not None:
                self.track({name: float(value) for name, value in row.items()})
            self._warn(pl_module, means)
        self._sums, self._steps, self._indices = {}, {}, self._indices[:0]
        self._since = self.clock.images_seen

    def _warn(self, pl_module: pl.LightningModule, means: dict[str, float]) -> None:
        """Tells what the family says of the interval, each kind once."""
        module: Any = pl_module
        alarms = module.alarms(means) if hasattr(module, "alarms") else {}
        for kind, sentence in alarms.items():
            if kind not in self._told:
                self._told.add(kind)
                log.warning("at %d images: %s", self.clock.images_seen, sentence)


class ValidationLosses(pl.Callback):
    """Logs losses on a fixed batch with fixed noise, at equal intervals of images.

    Only the network changes between rows, not the noise. Losses are those of the live weights,
    without gradients; they go to a file of their own, and the clock is stopped meanwhile.
    """

    def __init__(
        self,
        clock: Clock,
        file: MetricsFile,
        every_images: int,
        batch: Batch,
        track: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        self.clock = clock
        self.file = file
        self.every_images = every_images
        self.batch = batch
        self.track = track

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drops rows that were logged after the checkpoint."""
        self.file.rewind(self.clock.images_seen)

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measures where an interval ends, and at the end of training."""
        step = len(batch) * trainer.world_size
        due = self.clock.images_seen % self.every_images < step
        if not (due or trainer.should_stop):
            return
        if not trainer.is_global_zero and not is_sharded(pl_module):
            return
        module: Any = pl_module
        with trainer.precision_plugin.forward_context():
            losses = module.validation_losses(self.batch.to(pl_module.device))
        if not trainer.is_global_zero:
            return
        row = {name: round(float(value), 6) for name, value in losses.items()}
        self.file.append({"images_seen": self.clock.images_seen, **row})
        if self.track is not None:
            self.track({"images_seen": float(self.clock.images_seen), **row})


class CompileNetworks(pl.Callback):
    """Applies ``torch.compile`` to the trained networks once a first step has been counted.

    They are compiled in place, so that names of weights do not change. A resumed run has counted
    its first step, and compiles before it continues.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compiles where training is resumed."""
        if self.clock.images_seen:
            self._compile(pl_module)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Compiles after the first step; later calls do nothing."""
        self._compile(pl_module)

    def _compile(self, pl_module: pl.LightningModule) -> None:
        module: Any = pl_module
        for network in module.networks().values():
            if network._compiled_call_impl is None:
                network.compile()
