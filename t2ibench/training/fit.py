"""Training of one module under a budget: the same for families and first stages."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
)

from t2ibench.core.launch import process_rank
from t2ibench.core.ranks import together
from t2ibench.core.types import Batch
from t2ibench.runs.clock import Budget, Clock
from t2ibench.runs.curves import MetricsFile
from t2ibench.runs.folder import Run
from t2ibench.training.callbacks import (
    AverageWeights,
    BudgetClock,
    CompileNetworks,
    Decay,
    LearningCurves,
    LearningRate,
    ValidationLosses,
)
from t2ibench.training.checkpoint import (
    Checkpointer,
    WholeFiles,
    newest_whole,
    previous,
    save_weights,
)
from t2ibench.training.devices import StrategyName, strategy_for
from t2ibench.training.preemption import DeferredSignal, deferred_signals
from t2ibench.training.progress import BudgetProgress

StreamFactory = Callable[[int, int, int], Iterator[Batch]]
"""Function (images_seen, rank, world_size) -> the training batches from there on."""


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of training one module; every value comes from the configuration.

    Attributes:
        warmup_images: images over which the learning rate rises linearly.
        decay: schedule of the learning rate after the warm-up.
        ema_half_life_images: half-life of the weight average.
        log_every_images: interval of the learning curves.
        checkpoint_every_seconds: shortest interval of checkpoints (2 % of the time at most).
        accelerator: Lightning's accelerator, ``cpu`` or ``gpu``.
        devices: number of devices on each machine.
        precision: Lightning's precision, for example ``bf16-mixed``.
        progress: True to show a progress bar.
        validate_every_images: interval of the losses on the fixed validation batch; 0: none.
        compile: True to compile the trained networks (``CompileNetworks``).
        strategy: strategy of several devices (``devices.strategy_for``).
        num_nodes: number of machines with ``devices`` devices each.
    """

    warmup_images: int
    decay: Decay
    ema_half_life_images: float
    log_every_images: int
    checkpoint_every_seconds: float
    accelerator: str
    devices: int
    precision: str
    progress: bool
    validate_every_images: int = 0
    compile: bool = False
    strategy: StrategyName = "auto"
    num_nodes: int = 1


@dataclass(frozen=True)
class FitResult:
    """Result of training a module.

    Attributes:
        clock: images, FLOPs and seconds spent.
        signal: number of the signal that ended training before the budget did, or None.
    """

    clock: Clock
    signal: int | None = None

    @property
    def interrupted(self) -> bool:
        """True where training ended before the budget was spent."""
        return self.signal is not None


def fit(
    module: Any,
    stream: StreamFactory,
    run: Run,
    budget: Budget,
    options: TrainingOptions,
    seed: int,
    clock: Clock | None = None,
    track: Callable[[dict[str, float]], None] | None = None,
    validation: Batch | None = None,
) -> FitResult:
    """Trains until the budget is spent or a signal comes; resumes from the run's checkpoint.

    At the end of the budget the module holds its EMA weights and they are saved as
    ``checkpoints/model.safetensors``.

    Args:
        module: a family or an ``AutoencoderModule``.
        stream: the training batches from a number of images seen.
        run: folder of checkpoints and learning curves.
        budget: amount of images, FLOPs or seconds after which training stops.
        options: settings from the configuration.
        seed: seed of the training steps' random numbers; the caller seeds weights and data order.
        clock: clock that already holds the cost of other parts; None: a new one.
        track: called with each row of the learning curves (W&B).
        validation: the fixed batch of ``ValidationLosses``; None: no such losses.

    Raises:
        CheckpointError: the run's checkpoints are unreadable.
        ConfigError: this machine has no such device.
        RunError: the run's folder cannot be written.
        NonFiniteLossError: a loss became NaN or infinite.
    """
    clock = clock or Clock()
    with deferred_signals() as stop:
        found = newest_whole(run.checkpoint)
        if found is not None:
            clock.load_state_dict(found.clock)
        averages = AverageWeights(clock, options.ema_half_life_images)
        if found is not None and clock.progress(budget) >= 1:
            return _finish_from_checkpoint(module, run, found.content, clock)
        resumed = None if found is None else found.path
        del found  # its mapping would hold the replaced file's room on the disk to the end
        callbacks: list[pl.Callback] = [
            LearningRate(clock, budget, options.warmup_images, options.decay),
            BudgetClock(clock, budget, seed),
            averages,
            LearningCurves(
                clock, MetricsFile(run.path / "metrics.csv"), options.log_every_images, track
            ),
        ]
        if validation is not None and options.validate_every_images > 0:
            file = MetricsFile(run.path / "validation.csv")
            every = options.validate_every_images
            callbacks.append(ValidationLosses(clock, file, every, validation, track))
        if options.compile:
            callbacks.append(CompileNetworks(clock))
        if options.progress and process_rank() == 0:
            callbacks.append(BudgetProgress(clock, budget, run.path.name))
        callbacks.append(Checkpointer(run.checkpoint, options.checkpoint_every_seconds, stop))
        trainer = make_trainer(options, callbacks, module)
        batches = stream(clock.images_seen, trainer.global_rank, trainer.world_size)
        _fit(trainer, module, batches, resumed, stop)
        if stop.handled:
            return FitResult(clock, stop.number)
        assert averages.ema is not None
        with averages.ema.applied():
            _export(module, run)
    return FitResult(clock)


def _fit(
    trainer: pl.Trainer,
    module: Any,
    batches: Iterator[Batch],
    resumed: Path | None,
    stop: DeferredSignal,
) -> None:
    """Runs Lightning's fit; turns an impatient second Ctrl-C into an exit."""
    try:
        trainer.fit(module, train_dataloaders=batches, ckpt_path=resumed, weights_only=True)
    except SystemExit:
        if stop.number is None:
            raise
        raise KeyboardInterrupt from None


def _finish_from_checkpoint(
    module: Any, run: Run, state: Mapping[str, Any], clock: Clock
) -> FitResult:
    """Exports the weights of a run that died between its last checkpoint and the export."""
    module.load_state_dict(state["state_dict"], strict=True)
    parameters = module.sampling_parameters()
    with torch.no_grad():
        for name, value in state["callbacks"]["AverageWeights"].items():
            parameters[name].copy_(value)
    _export(module, run)
    return FitResult(clock)


def _export(module: Any, run: Run) -> None:
    """Saves the module's weights; removes the older checkpoint, lest a resume falls back to it."""
    save_weights(module, run.weights)
    if process_rank() == 0:
        previous(run.checkpoint).unlink(missing_ok=True)


def cluster_environment(devices: int) -> list[ClusterEnvironment]:
    """Lightning's plugin for the cluster that this process runs on; none outside SLURM.

    One device is one process, however many tasks the job has: several small cells can share an
    allocation. Lightning never requeues; ``preemption.requeue`` does.
    """
    if "SLURM_NTASKS" not in os.environ or SLURMEnvironment.job_name() in ("bash", "interactive"):
        return []
    return [LightningEnvironment() if devices == 1 else SLURMEnvironment(auto_requeue=False)]


def make_trainer(options: TrainingOptions, callbacks: list[pl.Callback], module: Any) -> pl.Trainer:
    """Makes a Lightning Trainer without its own logger, bar, checkpoints or clock."""
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    warnings.filterwarnings("ignore", message=".*resuming from a checkpoint that ended before.*")
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*broadcast_buffers. is deprecated.*")
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec.*")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    precision: Any = options.precision
    strategy = strategy_for(module, options.strategy, options.devices, options.num_nodes)
    return pl.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=strategy,
        precision=precision,
        max_epochs=-1,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        plugins=[WholeFiles(), *([] if together() else cluster_environment(options.devices))],
    )
