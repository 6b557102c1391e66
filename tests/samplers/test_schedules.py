import math

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.core.errors import ConfigError
from t2ibench.samplers.schedules import (
    cosine_schedule,
    linear_schedule,
    make_schedule,
    scaled_linear_schedule,
    trailing_timesteps,
)

PUBLISHED = [
    ("linear", {0: 0.9999, 499: 0.078587, 999: 4.036e-5}),
    ("scaled_linear", {0: 0.99915, 499: 0.277670, 999: 0.00466010}),
    ("cosine", {0: 0.999959, 499: 0.493844}),
]


@pytest.mark.parametrize(("name", "anchors"), PUBLISHED)
def test_published_values(name, anchors):
    bar = make_schedule(name, 1000)
    for t, value in anchors.items():
        assert float(bar[t]) == pytest.approx(value, rel=2e-4)


def test_ldm_range_of_the_same_form():
    bar = scaled_linear_schedule(1000, 0.0015, 0.0195)
    assert float(bar[999]) == pytest.approx(1.4230e-4, rel=2e-4)


def test_linear_is_the_product_of_one_minus_beta():
    bar = linear_schedule(10, 0.1, 0.19)
    expected = math.prod(1 - (0.1 + 0.01 * i) for i in range(10))
    assert float(bar[-1]) == pytest.approx(expected, rel=1e-12)


def test_cosine_follows_the_squared_cosine_where_beta_is_not_clipped():
    bar = cosine_schedule(1000)

    def f(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 100, 500, 900):
        assert float(bar[t]) == pytest.approx(f((t + 1) / 1000) / f(0), rel=1e-9)
    assert float(bar[999] / bar[998]) == pytest.approx(0.001, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "diffusers_name", "start", "end"),
    [
        ("linear", "linear", 1e-4, 0.02),
        ("scaled_linear", "scaled_linear", 0.00085, 0.012),
        ("cosine", "squaredcos_cap_v2", 1e-4, 0.02),
    ],
)
def test_against_diffusers(name, diffusers_name, start, end):
    theirs = DDIMScheduler(1000, start, end, diffusers_name).alphas_cumprod.double()
    torch.testing.assert_close(make_schedule(name, 1000), theirs, rtol=2e-4, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["linear", "scaled_linear", "cosine"]),
    timesteps=st.integers(2, 2000),
)
def test_signal_falls_strictly_inside_zero_and_one(name, timesteps):
    bar = make_schedule(name, timesteps)
    assert bar.shape == (timesteps,) and bar.dtype == torch.float64
    assert bool((bar > 0).all() and (bar < 1).all() and (bar.diff() < 0).all())


def test_unknown_schedule_is_refused():
    with pytest.raises(ConfigError, match="schedule=quadratic is unknown"):
        make_schedule("quadratic", 10)


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
