"""Every solver on Gaussian data, where the exact answer is known."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import Noise, SeededNoise
from t2ibench.samplers.deterministic import euler, flow_heun, heun, plms
from t2ibench.samplers.dpm_solver import dpm_solver_pp_2m, dpm_solver_pp_2m_sde
from t2ibench.samplers.levels import Levels, make_levels
from t2ibench.samplers.schedules import make_schedule
from t2ibench.samplers.solvers import SOLVERS, find_solver
from t2ibench.samplers.stochastic import ddim, ddpm, euler_ancestral

MEAN, STD = 0.7, 0.3
TWO_M = functools.partial(dpm_solver_pp_2m, lower_order_final=False)
TWO_M_SDE = functools.partial(dpm_solver_pp_2m_sde, lower_order_final=False)


def gaussian_denoiser(levels, mean=MEAN):
    """The exact (x_0, eps) for data N(mean, STD^2)."""
    alpha, sigma = levels.coefficients()

    def denoise(x, i):
        gain = alpha[i] * STD**2 / (alpha[i] ** 2 * STD**2 + sigma[i] ** 2)
        x0 = mean + gain * (x - alpha[i] * mean)
        return x0, (x - alpha[i] * x0) / sigma[i]

    return denoise


def deviation(levels, i):
    alpha, sigma = levels.coefficients()
    return math.sqrt(alpha[i] ** 2 * STD**2 + sigma[i] ** 2)


def diffusion_levels(steps, low=-2.0, high=3.0):
    """Steps even in lambda = log(alpha / sigma), of unit variance."""
    lam = torch.linspace(low, high, steps + 1, dtype=torch.float64)
    times = torch.arange(steps, dtype=torch.float64)
    return Levels(times, torch.sigmoid(2 * lam).sqrt(), torch.sigmoid(-2 * lam).sqrt())


def flow_levels(steps):
    """Steps even in flow time, from pure noise to nearly the image."""
    t = torch.linspace(1.0, 0.05, steps + 1, dtype=torch.float64)
    return Levels(1000 * t[:-1], 1 - t, t)


def orders(errors):
    return [math.log2(a / b) for a, b in zip(errors[:-1], errors[1:], strict=True)]


def flow_error(solve, levels):
    """From the exact map of the probability flow, for nine starts."""
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    alpha, _ = levels.coefficients()
    kept = (x - alpha[0] * MEAN) / deviation(levels, 0)
    exact = alpha[-1] * MEAN + deviation(levels, -1) * kept
    return float((solve(gaussian_denoiser(levels), x, levels) - exact).abs().max())


@pytest.mark.parametrize(
    ("solve", "path", "order"),
    [
        (euler, diffusion_levels, 1),
        (functools.partial(ddim, noise=SeededNoise([0]), eta=0.0), diffusion_levels, 1),
        (heun, diffusion_levels, 2),
        (plms, diffusion_levels, 2),
        (TWO_M, diffusion_levels, 2),
        (euler, flow_levels, 1),
        (flow_heun, flow_levels, 2),
        (TWO_M, flow_levels, 2),
    ],
)
def test_order_of_deterministic_solvers(solve, path, order):
    errors = [flow_error(solve, path(steps)) for steps in (40, 80, 160)]
    assert orders(errors) == pytest.approx([order, order], abs=0.25), errors


class Basis(Noise):
    """Each draw is a coordinate of its own, so that a linear solver's result has its variance
    as the sum of its squares."""

    def __init__(self, size):
        super().__init__([0])
        self.size, self.drawn = size, 0

    def normal(self, *shape):
        assert shape == (self.size,)
        self.drawn += 1
        return torch.eye(self.size, dtype=torch.float64)[self.drawn][None]


def variance_error(solve, levels):
    """From the exact variance at the end; nothing is left to chance."""
    size = len(levels) + 1
    x = deviation(levels, 0) * torch.eye(size, dtype=torch.float64)[:1]
    end = solve(gaussian_denoiser(levels, mean=0.0), x, levels, Basis(size))
    return abs(float(end.square().sum()) / deviation(levels, -1) ** 2 - 1)


@pytest.mark.parametrize(
    ("solve", "path", "order"),
    [
        (functools.partial(ddim, eta=1.0), diffusion_levels, 1),
        (functools.partial(ddim, eta=0.5), diffusion_levels, 1),
        (functools.partial(ddpm, variance="small"), diffusion_levels, 1),
        (functools.partial(ddpm, variance="large"), diffusion_levels, 1),
        (euler_ancestral, diffusion_levels, 1),
        (TWO_M_SDE, diffusion_levels, 2),
        (euler_ancestral, flow_levels, 1),
        (TWO_M_SDE, flow_levels, 2),
    ],
)
def test_order_of_stochastic_solvers_in_variance(solve, path, order):
    errors = [variance_error(solve, path(steps)) for steps in (100, 200, 400)]
    assert orders(errors) == pytest.approx([order, order], abs=0.3), errors


CHAINS = [
    ("cosine", None, "trailing"),
    ("linear", (1e-4, 0.02), "linspace"),
    ("scaled_linear", (0.00085, 0.012), "karras"),
    ("rectified_flow", None, "trailing"),
]


@pytest.mark.parametrize(("name", "betas", "spacing"), CHAINS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_whole_chains_end_at_the_data(name, betas, spacing, solver):
    """From noise to the clean image through a schedule's own levels."""
    flow = name == "rectified_flow"
    if flow and not SOLVERS[solver].flow:
        with pytest.raises(ConfigError, match=f"solver={solver} is for variance-preserving"):
            find_solver(solver, flow=True, pure_noise=True)
        return
    levels = make_levels(make_schedule(name, 1000, betas=betas), 400, spacing)
    found = find_solver(solver, flow=flow, pure_noise=flow)
    given = {"eta": 1.0, "variance": "large", "lower_order_final": False}
    options = {key: given[key] for key in found.options - {"noise"}}
    if "noise" in found.options:
        solve = functools.partial(found.run, **options)
        assert variance_error(solve, levels) < 0.08
    else:
        assert flow_error(functools.partial(found.run, **options), levels) < 0.03 * STD


@settings(max_examples=20, deadline=None)
@given(steps=st.integers(1, 30), path=st.sampled_from([diffusion_levels, flow_levels]))
def test_ddim_is_euler_without_noise_and_euler_ancestral_with_all_of_it(steps, path):
    levels = path(steps)
    denoise, x = gaussian_denoiser(levels), torch.randn(2, 3, dtype=torch.float64)
    still = ddim(denoise, x, levels, SeededNoise([1, 2]), eta=0.0)
    torch.testing.assert_close(still, euler(denoise, x, levels))
    noisy = ddim(denoise, x, levels, SeededNoise([1, 2]), eta=1.0)
    torch.testing.assert_close(noisy, euler_ancestral(denoise, x, levels, SeededNoise([1, 2])))
    posterior = ddpm(denoise, x, levels, SeededNoise([1, 2]), variance="small")
    torch.testing.assert_close(noisy, posterior)


def test_more_evaluations_buy_more_at_second_order():
    twenty = diffusion_levels(20)
    assert flow_error(TWO_M, twenty) < flow_error(euler, twenty) / 3
    assert flow_error(heun, diffusion_levels(10)) < flow_error(euler, twenty)
