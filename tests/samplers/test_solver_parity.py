"""Whole trajectories against the schedulers of diffusers, with the same network and noise."""

import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)

from t2ibench.core.noise import SeededNoise
from t2ibench.samplers.deterministic import euler, flow_heun, heun, plms
from t2ibench.samplers.dpm_solver import dpm_solver_pp_2m, dpm_solver_pp_2m_sde
from t2ibench.samplers.levels import Levels, make_levels
from t2ibench.samplers.prediction import split_prediction
from t2ibench.samplers.schedules import make_schedule
from t2ibench.samplers.stochastic import ddim, ddpm, euler_ancestral

SEEDS = [1, 2, 3]
BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012)}
KINDS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample", "flow": "flow_prediction"}
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def network(x, t):
    """A stand-in that is neither linear in x nor constant in t."""
    return torch.tanh(x.roll(1, -1) * 0.7 + 0.2 * x) * (1 + math.cos(t / 300)) + 0.1 * x


def start():
    return SeededNoise(SEEDS).normal(4, 6)


def after_start():
    noise = SeededNoise(SEEDS)
    noise.normal(4, 6)
    return noise


def denoiser(levels, kind, clip=False):
    alpha, sigma = levels.coefficients()
    times = levels.timesteps.tolist()

    def denoise(x, i):
        output = network(x, times[i])
        x0, eps = split_prediction(output, x, alpha[i], sigma[i], kind)
        if clip:
            x0 = x0.clamp(-1, 1)
            eps = (x - alpha[i] * x0) / sigma[i]
        return x0, eps

    return denoise


def schedule(name="scaled_linear", **options):
    return make_schedule(name, 1000, betas=BETAS.get(name), **options)


def trajectory(solve, kind, levels, *, noisy=False, clip=False, **options):
    """The states before each step, and the result."""
    states = []

    def between(x, i):
        states.append(x)
        return x

    draws = [after_start()] if noisy else []
    end = solve(denoiser(levels, kind, clip), start(), levels, *draws, between=between, **options)
    return torch.stack([*states, end])


def their_noise(monkeypatch, module):
    """Their draws are ours, in order."""
    draws = after_start()
    monkeypatch.setattr(
        f"diffusers.schedulers.{module}.randn_tensor", lambda *a, **k: draws.normal(4, 6)
    )


def their_trajectory(scheduler, steps, evaluations=None):
    """Of a scheduler whose samples have unit variance."""
    scheduler.set_timesteps(steps)
    x, states = start(), []
    assert len(scheduler.timesteps) == (evaluations or steps)
    for t in scheduler.timesteps.tolist():
        states.append(x)
        x = scheduler.step(network(x, t), t, x).prev_sample
    return torch.stack([*states, x])


def exploding_trajectory(scheduler, steps):
    """Of one whose samples are x / alpha; the trials of second order are left out."""
    scheduler.set_timesteps(steps)
    x = start() * math.sqrt(float(scheduler.sigmas[0]) ** 2 + 1)
    states = []
    for t in scheduler.timesteps:
        states.append(scheduler.scale_model_input(x, t))
        x = scheduler.step(network(states[-1], float(t)), t, x).prev_sample
    if isinstance(scheduler, HeunDiscreteScheduler):
        states = states[::2]
    return torch.stack([*states, x])


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    scale = float(theirs.abs().max())
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("kind", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("clip", [True, False])
def test_ddim(kind, eta, published, clip):
    """As Stable Diffusion samples, and with trailing steps to the clean image."""
    theirs = DDIMScheduler(
        1000,
        **SD,
        clip_sample=clip,
        set_alpha_to_one=not published,
        steps_offset=1 if published else 0,
        timestep_spacing="leading" if published else "trailing",
        prediction_type=KINDS[kind],
    )
    if published:
        levels = make_levels(schedule(), 5, "uniform", offset=1, last_level="first_timestep")
    else:
        levels = make_levels(schedule(), 5, "trailing")
    draws, x, states = after_start(), start(), []
    theirs.set_timesteps(5)
    assert levels.timesteps.tolist() == theirs.timesteps.tolist()
    for i, t in enumerate(theirs.timesteps.tolist()):
        states.append(x)
        # Ours draws nothing for a step that ends at the clean image.
        z = draws.normal(4, 6) if eta and (published or i < 4) else torch.zeros(3, 4, 6)
        x = theirs.step(
            network(x, t), t, x, eta=eta, variance_noise=z, use_clipped_model_output=clip
        ).prev_sample
    ours = trajectory(ddim, kind, levels, noisy=True, clip=clip, eta=eta)
    assert_same(ours, torch.stack([*states, x]))


def test_ddim_from_pure_noise():
    theirs = DDIMScheduler(
        1000,
        **SD,
        clip_sample=False,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    )
    levels = make_levels(schedule(zero_terminal=True), 5, "trailing")
    ours = trajectory(ddim, "v", levels, noisy=True, eta=0.0)
    assert_same(ours, their_trajectory(theirs, 5))


# Theirs adds the large noise also to a result that ends at the clean image from above timestep 0.
@pytest.mark.parametrize(
    ("variance", "spacing"), [("small", "leading"), ("small", "trailing"), ("large", "leading")]
)
@pytest.mark.parametrize("clip", [True, False])
def test_ddpm(monkeypatch, variance, spacing, clip):
    theirs = DDPMScheduler(
        1000,
        1e-4,
        0.02,
        "linear",
        variance_type=f"fixed_{variance}",
        clip_sample=clip,
        timestep_spacing=spacing,
    )
    their_noise(monkeypatch, "scheduling_ddpm")
    levels = make_levels(schedule("linear"), 5, "uniform" if spacing == "leading" else spacing)
    ours = trajectory(ddpm, "epsilon", levels, noisy=True, clip=clip, variance=variance)
    assert_same(ours, their_trajectory(theirs, 5))


def test_ddpm_with_a_learned_variance(monkeypatch):
    theirs = DDPMScheduler(
        1000, 1e-4, 0.02, "linear", variance_type="learned_range", clip_sample=False
    )
    their_noise(monkeypatch, "scheduling_ddpm")
    levels = make_levels(schedule("linear"), 5, "uniform")
    plain = denoiser(levels, "epsilon")
    ours = ddpm(
        lambda x, i: (*plain(x, i), torch.sin(x * 3)),
        start(),
        levels,
        after_start(),
        variance="learned",
    )
    theirs.set_timesteps(5)
    x = start()
    for t in theirs.timesteps.tolist():
        output = torch.cat([network(x, t), torch.sin(x * 3)], 1)
        x = theirs.step(output, t, x).prev_sample
    assert_same(ours, x)


@pytest.mark.parametrize("steps", [2, 5, 20])
def test_plms(steps):
    """As Stable Diffusion samples; of a v prediction theirs extrapolates v, ours eps."""
    theirs = PNDMScheduler(
        1000,
        **SD,
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )
    levels = make_levels(schedule(), steps, "uniform", offset=1, last_level="first_timestep")
    found = their_trajectory(theirs, steps, evaluations=steps + 1)
    # Theirs has the trial of the first step for a state of its own.
    found = torch.cat([found[:1], found[2:]])
    assert_same(trajectory(plms, "epsilon", levels), found)


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "karras"])
def test_euler(kind, spacing):
    karras = spacing == "karras"
    theirs = EulerDiscreteScheduler(
        1000,
        **SD,
        use_karras_sigmas=karras,
        timestep_spacing="linspace" if karras else spacing,
        prediction_type=KINDS[kind],
    )
    levels = make_levels(schedule(), 5, "uniform" if spacing == "leading" else spacing)
    assert_same(trajectory(euler, kind, levels), exploding_trajectory(theirs, 5))


@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_euler_ancestral(monkeypatch, kind):
    theirs = EulerAncestralDiscreteScheduler(
        1000, **SD, timestep_spacing="trailing", prediction_type=KINDS[kind]
    )
    their_noise(monkeypatch, "scheduling_euler_ancestral_discrete")
    levels = make_levels(schedule(), 5, "trailing")
    ours = trajectory(euler_ancestral, kind, levels, noisy=True)
    assert_same(ours, exploding_trajectory(theirs, 5))


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("spacing", ["trailing", "karras"])
def test_heun(kind, spacing):
    karras = spacing == "karras"
    theirs = HeunDiscreteScheduler(
        1000,
        **SD,
        use_karras_sigmas=karras,
        timestep_spacing="linspace" if karras else spacing,
        prediction_type=KINDS[kind],
    )
    levels = make_levels(schedule(), 5, spacing)
    assert_same(trajectory(heun, kind, levels), exploding_trajectory(theirs, 5))


def multistep(algorithm, kind, **options):
    return DPMSolverMultistepScheduler(
        1000,
        **SD,
        algorithm_type=algorithm,
        solver_order=2,
        solver_type="midpoint",
        prediction_type=KINDS[kind],
        **options,
    )


@pytest.mark.parametrize("kind", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("steps", [1, 2, 5, 25])
@pytest.mark.parametrize("last_level", ["image", "first_timestep"])
@pytest.mark.parametrize("lower", [True, False])
def test_dpm_solver_pp(kind, steps, last_level, lower):
    theirs = multistep(
        "dpmsolver++",
        kind,
        timestep_spacing="trailing",
        final_sigmas_type="zero" if last_level == "image" else "sigma_min",
        lower_order_final=lower,
    )
    levels = make_levels(schedule(), steps, "trailing", last_level=last_level)
    # Theirs lowers the order for fewer than 15 steps only.
    lower = lower and steps < 15
    ours = trajectory(dpm_solver_pp_2m, kind, levels, lower_order_final=lower)
    assert_same(ours, their_trajectory(theirs, steps))


@pytest.mark.parametrize("kind", ["epsilon", "v"])
@pytest.mark.parametrize("steps", [2, 5])
def test_dpm_solver_pp_sde(kind, steps):
    theirs = multistep("sde-dpmsolver++", kind, timestep_spacing="trailing")
    levels = make_levels(schedule(), steps, "trailing")
    theirs.set_timesteps(steps)
    draws, x, states = after_start(), start(), []
    for t in theirs.timesteps.tolist():
        states.append(x)
        x = theirs.step(network(x, t), t, x, variance_noise=draws.normal(4, 6)).prev_sample
    ours = trajectory(dpm_solver_pp_2m_sde, kind, levels, noisy=True, lower_order_final=True)
    assert_same(ours, torch.stack([*states, x]))


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 5])
def test_flow_euler(shift, steps):
    theirs = FlowMatchEulerDiscreteScheduler(1000, shift=shift)
    levels = make_levels(schedule("rectified_flow", shift=shift), steps, "trailing")
    theirs.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist())
    x, states = start(), []
    for t in theirs.timesteps:
        states.append(x)
        x = theirs.step(network(x, float(t)), t, x).prev_sample
    ours = trajectory(euler, "flow", levels)
    torch.testing.assert_close(levels.timesteps.float(), theirs.timesteps)
    assert_same(ours, torch.stack([*states, x]))


def test_flow_heun():
    theirs = FlowMatchHeunDiscreteScheduler(1000)
    # Theirs does not round 999 / (S - 1).
    theirs.set_timesteps(4)
    levels = make_levels(schedule("rectified_flow"), 4, "linspace")
    x, states = start(), []
    for t in theirs.timesteps:
        states.append(x)
        x = theirs.step(network(x, float(t)), t, x).prev_sample
    assert_same(trajectory(flow_heun, "flow", levels), torch.stack([*states[::2], x]))


def test_dpm_solver_pp_on_a_flow():
    theirs = multistep("dpmsolver++", "flow", use_flow_sigmas=True)
    theirs.set_timesteps(5)
    # Theirs starts just below pure noise.
    sigma = theirs.sigmas.double()
    levels = Levels(1000 * sigma[:-1], 1 - sigma, sigma)
    x, states = start(), []
    for i, t in enumerate(theirs.timesteps.tolist()):
        states.append(x)
        x = theirs.step(network(x, float(levels.timesteps[i])), t, x).prev_sample
    ours = trajectory(dpm_solver_pp_2m, "flow", levels, lower_order_final=True)
    assert 0.9 < float(sigma[0]) < 1
    assert_same(ours, torch.stack([*states, x]))
