"""Table of the solvers by name, with the options of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from t2ibench.core.errors import ConfigError
from t2ibench.samplers.deterministic import euler, flow_heun, heun, plms
from t2ibench.samplers.dpm_solver import dpm_solver_pp_2m, dpm_solver_pp_2m_sde
from t2ibench.samplers.stochastic import ddim, ddpm, euler_ancestral


@dataclass(frozen=True)
class Solver:
    """A solver and the options that it takes.

    Attributes:
        run: (denoise, x, levels, the options) -> x.
        options: of ``noise``, ``eta``, ``variance`` and ``lower_order_final``.
        flow: whether it serves rectified flow.
        pure_noise: whether it may start in pure noise, alpha = 0.
    """

    run: Callable[..., Any]
    options: frozenset[str] = frozenset()
    flow: bool = True
    pure_noise: bool = True


SOLVERS = {
    "ddpm": Solver(ddpm, frozenset({"noise", "variance"}), flow=False),
    "ddim": Solver(ddim, frozenset({"noise", "eta"}), flow=False),
    "plms": Solver(plms, flow=False, pure_noise=False),
    "euler": Solver(euler),
    "euler_ancestral": Solver(euler_ancestral, frozenset({"noise"})),
    "heun": Solver(heun, pure_noise=False),
    "dpm_solver_pp": Solver(dpm_solver_pp_2m, frozenset({"lower_order_final"})),
    "dpm_solver_pp_sde": Solver(dpm_solver_pp_2m_sde, frozenset({"noise", "lower_order_final"})),
}


def find_solver(name: str, *, flow: bool, pure_noise: bool) -> Solver:
    """The solver called ``name``; Heun's in flow time where the path is a rectified flow's.

    Args:
        name: a key of ``SOLVERS``.
        flow: whether the schedule is a rectified flow.
        pure_noise: whether the schedule ends in pure noise.

    Raises:
        ConfigError: the name is unknown, or the solver does not serve the schedule.

    Source: see each solver.
    Differs: none.
    """
    if name not in SOLVERS:
        raise ConfigError(f"process.solver={name} is unknown; choose {', '.join(SOLVERS)}.")
    solver = SOLVERS[name]
    if flow and not solver.flow:
        able = ", ".join(known for known, other in SOLVERS.items() if other.flow)
        raise ConfigError(
            f"process.solver={name} is for variance-preserving diffusion; with "
            f"schedule=rectified_flow choose {able}."
        )
    if flow and name == "heun":
        return Solver(flow_heun)
    if pure_noise and not solver.pure_noise:
        able = ", ".join(known for known, other in SOLVERS.items() if other.pure_noise)
        raise ConfigError(
            f"process.solver={name} needs some of the image left at the first step, and with "
            f"zero_terminal_snr there is none; choose {able}."
        )
    return solver
