"""Runs that another run depends on: found, checked and loaded."""

from __future__ import annotations

from t2ibench.core.errors import ConfigError
from t2ibench.engine.assemble import cost_of, folder_of_part, load_module, read_spec
from t2ibench.engine.context import Context
from t2ibench.engine.spec import RunSpec
from t2ibench.families.contract import TextToImageModule
from t2ibench.runs.clock import Budget, Clock
from t2ibench.runs.find import by_hash, locate
from t2ibench.runs.folder import Run


def locate_run(key: str, named: str, spec: RunSpec) -> Run:
    """The run that a key of the configuration names, in ``paths.runs``.

    Raises:
        ConfigError: there is no such run.
    """
    return locate(key, named, spec.paths.runs_folder)


def check_trained(key: str, run: Run, budget: Budget) -> RunSpec:
    """Checks that another run can depend on a run; returns its specification.

    Raises:
        RunError: it is not a model's run.
        ConfigError: it is not trained.
        BudgetError: it alone cost more than the budget.
    """
    spec = read_spec(run)
    if not run.trained:
        raise ConfigError(
            f"{key}={run.path.name} is {run.state}, not trained; the command that made it goes on "
            "with it."
        )
    charge_cost(Clock(), cost_of(run)).progress(budget)
    return spec


def charge_cost(clock: Clock, below: Clock) -> Clock:
    """Adds to a clock all that a run cost, including its own parts; returns the clock."""
    clock.parts_flops += below.flops + below.parts_flops
    clock.parts_seconds += below.seconds + below.parts_seconds
    return clock


def run_below(key: str, name: str, identity: str, context: Context, run: Run | None) -> Run:
    """The run that a trained run depends on: carried in its folder, or beside it.

    Args:
        key: configuration key, for the error.
        name: name of the part.
        identity: hash of the run, or what the user typed where ``run`` is None.
        context: context of the dependent run.
        run: the dependent run; None: the run that the specification names is looked up.

    Raises:
        ConfigError: it is in neither place.
    """
    if run is None:
        return locate_run(key, identity, context.spec)
    carried = folder_of_part(run, name)
    if (carried / "status.json").exists():
        return Run.at(carried)
    for root in (run.path.parent, context.spec.paths.runs_folder):
        found = by_hash(root, identity)
        if found is not None:
            return found
    raise ConfigError(
        f"{run.path.name} stands on the run {identity} ({key}), which is neither in its own "
        f"folder nor in {run.path.parent}; put that run there."
    )


def module_of(below: Run, context: Context) -> TextToImageModule:
    """Module of a run that another depends on, on that run's device."""
    return load_module(context.below(read_spec(below)), below)
