import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.core.errors import ConfigError
from t2ibench.samplers.levels import (
    Levels,
    interpolate_timesteps,
    make_levels,
    trailing_timesteps,
)
from t2ibench.samplers.schedules import make_schedule

SD = make_schedule("scaled_linear", 1000, betas=[0.00085, 0.012])
FLOW = make_schedule("rectified_flow", 1000)


@settings(max_examples=60, deadline=None)
@given(timesteps=st.integers(1, 1500), data=st.data())
def test_trailing_timesteps_start_at_the_end_and_fall(timesteps, data):
    count = data.draw(st.integers(1, timesteps))
    steps = trailing_timesteps(timesteps, count)
    assert len(steps) == count and int(steps[0]) == timesteps - 1
    assert bool((steps >= 0).all() and (steps.diff() < 0).all())


@pytest.mark.parametrize("count", [1, 3, 7, 20, 50, 1000])
def test_trailing_timesteps_against_diffusers(count):
    scheduler = DDIMScheduler(1000, timestep_spacing="trailing")
    scheduler.set_timesteps(count)
    assert trailing_timesteps(1000, count).tolist() == scheduler.timesteps.tolist()


def test_stable_diffusions_fifty_steps():
    levels = make_levels(SD, 50, "uniform", offset=1, last_level="first_timestep")
    assert levels.timesteps.tolist() == list(range(981, 0, -20))
    torch.testing.assert_close(levels.alpha[:-1], SD.alpha[levels.timesteps.long()])
    assert float(levels.alpha[-1]) == float(SD.alpha[0])
    assert float(levels.sigma[-1]) == float(SD.sigma[0])


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("count", [2, 3, 7, 20, 50, 999, 1000])
def test_spacings_against_diffusers(spacing, count):
    theirs = DDIMScheduler(1000, timestep_spacing=spacing)
    theirs.set_timesteps(count)
    ours = make_levels(SD, count, "uniform" if spacing == "leading" else spacing)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("count", [2, 5, 30])
def test_karras_levels_against_diffusers(count):
    theirs = EulerDiscreteScheduler(
        1000, 0.00085, 0.012, "scaled_linear", use_karras_sigmas=True, timestep_spacing="linspace"
    )
    theirs.set_timesteps(count)
    ours = make_levels(SD, count, "karras")
    torch.testing.assert_close((ours.sigma / ours.alpha).float(), theirs.sigmas, rtol=1e-3, atol=0)
    torch.testing.assert_close(ours.timesteps.float(), theirs.timesteps, rtol=1e-3, atol=0.2)
    assert ours.timesteps[[0, -1]].tolist() == pytest.approx([999, 0], abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999))
def test_interpolated_times_are_the_schedules_own_at_its_own_levels(t):
    ratio = (SD.sigma / SD.alpha)[t : t + 1]
    assert float(interpolate_timesteps(ratio, SD)) == pytest.approx(t, abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    schedule=st.sampled_from([SD, FLOW, make_schedule("cosine", 1000)]),
    spacing=st.sampled_from(["uniform", "trailing", "linspace", "karras"]),
    count=st.integers(1, 1000),
    offset=st.integers(0, 1),
)
def test_levels_fall_to_the_clean_image(schedule, spacing, count, offset):
    if schedule is FLOW and spacing in ("uniform", "karras") or offset and count == 1000:
        return
    levels = make_levels(schedule, count, spacing, offset=offset)
    ratio = levels.sigma / levels.alpha
    assert len(levels) == count and bool((ratio.diff() < 0).all())
    assert levels.alpha[-1] == 1 and levels.sigma[-1] == 0
    assert bool((levels.timesteps.diff() < 0).all() and (levels.timesteps >= 0).all())
    total = levels.alpha + levels.sigma if schedule is FLOW else levels.alpha**2 + levels.sigma**2
    torch.testing.assert_close(total, torch.ones_like(total))


def test_flow_starts_in_pure_noise_at_time_one():
    levels = make_levels(FLOW, 4, "trailing")
    assert levels.sigma.tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert levels.timesteps.tolist() == pytest.approx([1000, 750, 500, 250])


def test_the_last_steps_alone():
    levels = make_levels(SD, 10, "trailing")
    end = levels.last(3)
    assert isinstance(end, Levels) and len(end) == 3
    assert np.array_equal(end.timesteps, levels.timesteps[7:])
    assert np.array_equal(end.alpha, levels.alpha[7:])


@pytest.mark.parametrize(
    ("schedule", "count", "spacing", "options", "words"),
    [
        (SD, 0, "trailing", {}, "num_steps=0 must be from 1 to process.timesteps=1000"),
        (SD, 1001, "trailing", {}, "num_steps=1001 must be from 1"),
        (SD, 5, "even", {}, "spacing=even is unknown; choose uniform"),
        (SD, 5, "trailing", {"last_level": "zero"}, "last_level=zero is unknown"),
        (SD, 1000, "uniform", {"offset": 1}, "timestep_offset=1 puts the first of 1000"),
        (SD, 5, "karras", {"last_level": "first_timestep"}, "stay above timestep 0"),
        (FLOW, 5, "karras", {}, "spacing=karras does not start in pure noise"),
        (FLOW, 5, "uniform", {}, "spacing=uniform does not start in pure noise"),
    ],
)
def test_bad_levels_are_refused(schedule, count, spacing, options, words):
    with pytest.raises(ConfigError, match=words):
        make_levels(schedule, count, spacing, **options)
