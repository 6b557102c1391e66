import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.core.errors import ConfigError
from t2ibench.samplers.schedules import (
    cosine_schedule,
    linear_schedule,
    make_schedule,
    shift_alphas_bar,
)

BETAS = {"linear": (1e-4, 0.02), "scaled_linear": (0.00085, 0.012), "cosine": None}
PUBLISHED = [
    ("linear", (1e-4, 0.02), {0: 0.9999, 499: 0.078587, 999: 4.036e-5}),
    ("scaled_linear", (0.00085, 0.012), {0: 0.99915, 499: 0.277670, 999: 0.00466010}),
    ("scaled_linear", (0.0015, 0.0195), {0: 0.9985, 499: 0.115844, 999: 1.4230e-4}),
    ("cosine", None, {0: 0.999959, 499: 0.493844}),
]


def bars(name, timesteps=1000, **options):
    return make_schedule(name, timesteps, betas=BETAS[name], **options).alpha.square()


@pytest.mark.parametrize(("name", "betas", "anchors"), PUBLISHED)
def test_published_values(name, betas, anchors):
    schedule = make_schedule(name, 1000, betas=betas)
    for t, value in anchors.items():
        assert float(schedule.alpha[t] ** 2) == pytest.approx(value, rel=2e-4)
    assert schedule.times.tolist() == list(range(1000))


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
    ("name", "diffusers_name"),
    [("linear", "linear"), ("scaled_linear", "scaled_linear"), ("cosine", "squaredcos_cap_v2")],
)
@pytest.mark.parametrize("zero", [False, True])
def test_against_diffusers(name, diffusers_name, zero):
    start, end = BETAS[name] or (1e-4, 0.02)
    theirs = DDIMScheduler(1000, start, end, diffusers_name, rescale_betas_zero_snr=zero)
    # Theirs are products in float32, and the rescaled ones go through beta and back.
    found = bars(name, zero_terminal=zero)
    torch.testing.assert_close(found, theirs.alphas_cumprod.double(), rtol=5e-4, atol=2e-7)


def test_zero_terminal_snr_ends_in_pure_noise_and_starts_as_before():
    plain, rescaled = bars("scaled_linear"), bars("scaled_linear", zero_terminal=True)
    assert float(rescaled[-1]) == 0
    assert float(rescaled[0]) == pytest.approx(float(plain[0]), rel=1e-12)
    # Equal distances of sqrt(abar) stay in proportion.
    ratio = rescaled.sqrt().diff() / plain.sqrt().diff()
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio[0])))


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(["linear", "scaled_linear", "cosine"]), shift=st.floats(0.1, 16))
def test_a_shift_is_a_constant_of_log_snr(name, shift):
    plain, shifted = bars(name, 100), bars(name, 100, shift=shift)
    moved = torch.logit(plain) - torch.logit(shifted)
    torch.testing.assert_close(moved, torch.full_like(moved, 2 * math.log(shift)))


def test_shifted_cosine_is_that_of_simple_diffusion():
    # Without the offset s and the cap: log SNR = -2 log tan(pi t / 2) + 2 log(64 / 256).
    t = torch.arange(1, 1000, dtype=torch.float64) / 1000
    bar = shift_alphas_bar(cosine_schedule(1000, s=0.0, max_beta=1.0)[:-1], 256 / 64)
    expected = -2 * torch.tan(math.pi * t / 2).log() + 2 * math.log(64 / 256)
    torch.testing.assert_close(torch.logit(bar), expected)


def test_rectified_flow_is_a_straight_line_and_shifts_as_diffusers_does():
    plain = make_schedule("rectified_flow", 1000)
    torch.testing.assert_close(plain.sigma, torch.arange(1, 1001).double() / 1000)
    torch.testing.assert_close(plain.alpha + plain.sigma, torch.ones(1000).double())
    assert plain.times.tolist() == pytest.approx(list(range(1, 1001)))
    shifted = make_schedule("rectified_flow", 1000, shift=3.0)
    theirs = FlowMatchEulerDiscreteScheduler(1000, shift=3.0)
    torch.testing.assert_close(shifted.sigma.float(), theirs.sigmas.flip(0))
    torch.testing.assert_close(shifted.times.float(), theirs.timesteps.flip(0))
    moved = 2 * (plain.alpha / plain.sigma).log() - 2 * (shifted.alpha / shifted.sigma).log()
    torch.testing.assert_close(moved[:-1], torch.full((999,), 2 * math.log(3)).double())


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["linear", "scaled_linear", "cosine"]),
    timesteps=st.integers(2, 2000),
)
def test_signal_falls_strictly_inside_zero_and_one(name, timesteps):
    bar = bars(name, timesteps)
    assert bar.shape == (timesteps,) and bar.dtype == torch.float64
    assert bool((bar > 0).all() and (bar < 1).all() and (bar.diff() < 0).all())


def test_schedules_are_made_of_numbers_on_any_device():
    with torch.device("meta"):
        schedule = make_schedule("cosine", 10)
    assert schedule.alpha.device.type == "cpu"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "quadratic"}, "schedule=quadratic is unknown; choose linear"),
        ({"name": "linear"}, "schedule=linear needs process.betas"),
        ({"name": "linear", "betas": [0.02, 1e-4]}, "0 < first <= last < 1"),
        ({"name": "linear", "betas": [0.02]}, "must be two numbers"),
        ({"name": "cosine", "betas": [1e-4, 0.02]}, "has no use with schedule=cosine"),
        ({"name": "cosine", "shift": 0.0}, "shift=0.0 must be above 0"),
        ({"name": "cosine", "timesteps": 1}, "timesteps=1 must be at least 2"),
        ({"name": "rectified_flow", "zero_terminal": True}, "ends in pure noise already"),
    ],
)
def test_bad_schedules_are_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        make_schedule(**({"timesteps": 10} | arguments))
