import math

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from t2ibench.core.noise import Noise
from t2ibench.samplers.diffusion import (
    add_noise,
    ddim,
    dpm_solver_pp_2m,
    split_prediction,
    training_target,
)
from t2ibench.samplers.guidance import guided
from t2ibench.samplers.schedules import (
    cosine_schedule,
    linear_schedule,
    make_schedule,
    trailing_timesteps,
)

MEAN, STD = 0.7, 0.3
DIFFUSERS = {
    "linear": ("linear", 1e-4, 0.02),
    "scaled_linear": ("scaled_linear", 0.00085, 0.012),
    "cosine": ("squaredcos_cap_v2", 1e-4, 0.02),
}


def gaussian_denoiser(bars):
    """The exact (x_0, eps) for data N(MEAN, STD^2)."""

    def denoise(x, t):
        bar = float(bars[t])
        gain = math.sqrt(bar) * STD**2 / (bar * STD**2 + 1 - bar)
        x0 = MEAN + gain * (x - math.sqrt(bar) * MEAN)
        return x0, (x - math.sqrt(bar) * x0) / math.sqrt(1 - bar)

    return denoise


THEIR_NAMES = {"v": "v_prediction", "x0": "sample"}


def exact_end(x, bar):
    """Where the probability-flow ODE takes x from abar = ``bar``."""
    return MEAN + STD * (x - math.sqrt(bar) * MEAN) / math.sqrt(bar * STD**2 + 1 - bar)


def network(x, t):
    """A stand-in that is neither linear in x nor constant in t."""
    return torch.tanh(x.roll(1, -1) * 0.7 + 0.2 * x) * (1 + math.cos(t / 300)) + 0.1 * x


def denoiser(bars, prediction):
    return lambda x, t: split_prediction(network(x, t), x, float(bars[t]), prediction)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
def test_prediction_is_the_inverse_of_target(prediction):
    bars = cosine_schedule(50)
    t = torch.arange(50)
    x0, eps = torch.randn(2, 50, 3, 4, dtype=torch.float64)
    x = add_noise(x0, eps, bars, t)
    target = training_target(x0, eps, bars, t, prediction)
    for i in range(45):  # at the very end eps-prediction divides by a vanishing signal
        a, b = split_prediction(target[i], x[i], float(bars[i]), prediction)
        torch.testing.assert_close(a, x0[i])
        torch.testing.assert_close(b, eps[i])


def test_noising_keeps_unit_variance_and_its_closed_form():
    bars = cosine_schedule(10)
    x0, eps = torch.full((10, 1), 3.0), torch.full((10, 1), -2.0)
    x = add_noise(x0, eps, bars, torch.arange(10))
    expected = [3 * float(b) ** 0.5 - 2 * (1 - float(b)) ** 0.5 for b in bars]
    torch.testing.assert_close(x[:, 0], torch.tensor(expected))


def solver_error(solve, steps):
    """Error at a fixed interior time, the steps between even in lambda.

    The solvers end with one more, exact-by-definition prediction of x_0, which on Gaussian
    data is linear in x, so it scales the error and keeps its order.
    """
    bars = linear_schedule(50_000, 1e-4 / 50, 0.02 / 50)
    lam = 0.5 * (bars.log() - (1 - bars).log())
    wanted = torch.linspace(-2.0, 3.0, steps + 1, dtype=torch.float64)
    times = torch.searchsorted(-lam, -wanted).clamp(max=len(bars) - 1)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    end = solve(gaussian_denoiser(bars), x, bars, times)
    first, last = float(bars[times[0]]), float(bars[times[-1]])
    image = exact_end(x, first)
    there = math.sqrt(last) * MEAN + (image - MEAN) / STD * math.sqrt(last * STD**2 + 1 - last)
    return float((end - gaussian_denoiser(bars)(there, times[-1])[0]).abs().max())


@pytest.mark.parametrize(("solve", "order"), [(ddim, 1), (dpm_solver_pp_2m, 2)])
def test_solver_order_on_gaussian_data(solve, order):
    errors = [solver_error(solve, steps) for steps in (20, 40, 80)]
    measured = [math.log2(errors[i] / errors[i + 1]) for i in range(2)]
    assert measured == pytest.approx([order, order], abs=0.3), errors


def test_second_order_is_more_exact_at_the_demo_step_count():
    assert solver_error(dpm_solver_pp_2m, 20) < solver_error(ddim, 20) / 3


def test_ancestral_ddim_has_the_variance_of_the_data():
    bars = cosine_schedule(1000)
    noise = Noise(range(8))
    x = ddim(
        gaussian_denoiser(bars),
        noise.normal(1000),
        bars,
        trailing_timesteps(1000, 1000),
        1.0,
        noise,
    )
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(x.std()) == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("schedule", DIFFUSERS)
@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_ddim_against_diffusers(schedule, prediction, eta):
    name, start, end = DIFFUSERS[schedule]
    theirs = DDIMScheduler(
        1000,
        start,
        end,
        name,
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
        prediction_type=THEIR_NAMES.get(prediction, prediction),
    )
    # The same abar, so that only the solver is compared.
    bars = theirs.alphas_cumprod.double()
    theirs.alphas_cumprod, theirs.final_alpha_cumprod = bars, torch.tensor(1.0).double()
    theirs.set_timesteps(20)
    x = start_x = Noise([1, 2, 3]).normal(16).double()
    draws = Noise([1, 2, 3])
    for t in theirs.timesteps.tolist():
        # The last step ends at the clean image, where sigma is 0 and ours draws nothing.
        z = draws.normal(16).double() if eta and t != theirs.timesteps[-1] else x * 0
        x = theirs.step(network(x, t), t, x, eta=eta, variance_noise=z).prev_sample
    ours = ddim(
        denoiser(bars, prediction),
        start_x,
        bars,
        trailing_timesteps(1000, 20),
        eta,
        Noise([1, 2, 3]),
    )
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5 * float(x.abs().max()))


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
@pytest.mark.parametrize("prediction", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("steps", [1, 2, 10, 25])
def test_dpm_solver_against_diffusers(schedule, prediction, steps):
    name, start, end = DIFFUSERS[schedule]
    theirs = DPMSolverMultistepScheduler(
        1000,
        start,
        end,
        name,
        solver_order=2,
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        final_sigmas_type="zero",
        timestep_spacing="trailing",
        prediction_type=THEIR_NAMES.get(prediction, prediction),
    )
    bars = theirs.alphas_cumprod.double()
    theirs.set_timesteps(steps)
    theirs.sigmas = theirs.sigmas.double()
    x = start_x = Noise([4, 5]).normal(16).double()
    for t in theirs.timesteps.tolist():
        x = theirs.step(network(x, t), t, x).prev_sample
    ours = dpm_solver_pp_2m(
        denoiser(bars, prediction), start_x, bars, trailing_timesteps(1000, steps)
    )
    torch.testing.assert_close(ours.double(), x.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solve", [ddim, dpm_solver_pp_2m])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_one_evaluation_a_step_at_falling_times(solve, steps):
    bars, seen = cosine_schedule(100), []
    exact = gaussian_denoiser(bars)

    def denoise(x, t):
        seen.append(t)
        return exact(x, t)

    end = solve(denoise, torch.randn(2, 3), bars, trailing_timesteps(100, steps))
    assert len(seen) == steps and seen == sorted(seen, reverse=True) and seen[0] == 99
    assert torch.isfinite(end).all()


@pytest.mark.parametrize("schedule", DIFFUSERS)
@pytest.mark.parametrize("solve", [ddim, dpm_solver_pp_2m])
def test_a_denoiser_that_knows_the_image_gives_the_image(schedule, solve):
    bars = make_schedule(schedule, 1000).float()
    image = torch.randn(3, 4)

    def denoise(x, t):
        bar = float(bars[t])
        return image, (x - bar**0.5 * image) / (1 - bar) ** 0.5

    end = solve(denoise, torch.randn(3, 4), bars, trailing_timesteps(1000, 12))
    torch.testing.assert_close(end, image)


def test_guidance_is_one_batch_and_none_at_scale_one():
    rows = []

    def predict(x, t):
        rows.append((len(x), t))
        return torch.cat([x[:3] * 2, x[3:] * 5])

    x = torch.randn(3, 2)
    torch.testing.assert_close(guided(predict, 1.0)(x, 7), x * 2)
    torch.testing.assert_close(guided(predict, 0.0)(x, 8), x * 5)
    torch.testing.assert_close(guided(predict, 3.0)(x, 9), x * (5 + 3 * (2 - 5)))
    assert rows == [(3, 7), (6, 8), (6, 9)]
