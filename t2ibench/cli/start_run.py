"""Progressive training: a run that begins with another's weights, at another resolution or data.

``start`` names that run by folder, name or hash. Its first stage and its vocabulary come along,
its cost is charged as a first stage's is, and its hash counts in the new run's identity.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.cli.base_run import charged, cost_of, locate
from t2ibench.core.errors import CheckpointError, ConfigError
from t2ibench.families.contract import TextToImageModule
from t2ibench.runs.clock import Budget, Clock
from t2ibench.runs.folder import Run


def resolve_start(cfg: DictConfig, root: str | Path) -> Run | None:
    """The run that ``start`` names, whose hash is then written there; None without one.

    Raises:
        ConfigError: there is no such run in ``root``, or it is not trained.
        BudgetError: it alone cost more than the budget.
    """
    if cfg.start is None:
        return None
    run = locate("start", str(cfg.start), Path(root))
    if not run.trained:
        raise ConfigError(
            f"start={run.path.name} is {run.state}, not trained; the command that made it goes on "
            "with it."
        )
    cfg.start = run.identity
    budget = Budget(cfg.budget.unit, float(cfg.budget.amount), bool(cfg.budget.include_parts))
    charged(Clock(), cost_of(run)).progress(budget)
    return run


def started_stage(stage: FrozenFirstStage | None, run: Run) -> FrozenFirstStage | None:
    """A first stage filled from the run's own.

    Raises:
        CheckpointError: its layout is another.
    """
    if stage is not None:
        prefix = "first_stage."
        weights = {
            name.removeprefix(prefix): tensor
            for name, tensor in load_file(run.weights).items()
            if name.startswith(prefix)
        }
        _fill(stage, weights, run, "first stage")
    return stage


def begin_with(module: TextToImageModule, run: Run) -> None:
    """Fills a new module with all the weights of a trained run.

    Raises:
        CheckpointError: the models differ; names how many tensors do and the first.
    """
    _fill(module, load_file(run.weights), run, type(module).__name__)


def _fill(module: Any, weights: dict[str, Tensor], run: Run, what: str) -> None:
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    theirs = {name: tensor.shape for name, tensor in weights.items()}
    wrong = sorted(name for name in own | theirs if own.get(name) != theirs.get(name))
    if wrong:
        raise CheckpointError(
            f"start={run.path.name} does not fit this configuration's {what}: {len(wrong)} of "
            f"{len(own)} tensors differ, the first is {wrong[0]}; give the model, size, text and "
            "first stage of that run."
        )
    module.load_state_dict(weights, strict=True)
