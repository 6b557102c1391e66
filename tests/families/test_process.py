import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import SeededNoise
from t2ibench.families.diffusion.losses import Posterior, variance_bound
from t2ibench.families.diffusion.process import DiffusionProcess
from t2ibench.samplers.guidance import Guidance
from t2ibench.samplers.prediction import add_noise, training_target
from t2ibench.samplers.schedules import make_schedule
from t2ibench.samplers.solvers import SOLVERS

PLAIN = {
    "schedule": "cosine",
    "timesteps": 1000,
    "prediction_type": "v",
    "snr_cap": 0.0,
    "timestep_location": 0.0,
    "timestep_spread": 0.0,
    "solver": "ddim",
    "spacing": "trailing",
    "num_steps": 6,
}
FLOW = {"schedule": "rectified_flow", "prediction_type": "flow", "solver": "euler"}
FLOW_SOLVERS = [name for name, solver in SOLVERS.items() if solver.flow]


def process(**changes):
    return DiffusionProcess(**(PLAIN | changes))


def network(x, t):
    """Neither linear in x nor constant in t."""
    t = t.view(-1, *[1] * (x.ndim - 1))
    return torch.tanh(x.roll(1, -1) * 0.7 + 0.2 * x) * (1 + torch.cos(t / 300)) + 0.1 * x


def knows(own, image):
    """The network that has seen the image and tells it in its own kind of prediction."""

    def predict(x, t):
        # Between the schedule's own levels as the solvers' are: log(sigma / alpha) is linear.
        place = (own.schedule.times - float(t[0])).abs().argmin()
        alpha, sigma = own.schedule.alpha[place].item(), own.schedule.sigma[place].item()
        rows = image.to(x).repeat(len(x) // len(image), 1, 1)
        eps = (x - alpha * rows) / sigma
        return training_target(rows, eps, alpha, sigma, own.prediction_type)

    return predict


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["epsilon", "v", "x0", "flow"])
def test_a_network_that_knows_the_image_gives_it(solver, kind):
    own = process(solver=solver, prediction_type=kind, schedule="linear", betas=[1e-4, 0.02])
    image = torch.randn(2, 3, 4)
    noise = SeededNoise([1, 2])
    end = own.sample(knows(own, image), noise.normal(3, 4), noise, eta=0.7)
    torch.testing.assert_close(end, image, atol=2e-3, rtol=0)


@pytest.mark.parametrize("solver", FLOW_SOLVERS)
@pytest.mark.parametrize("kind", ["v", "x0", "flow"])
def test_so_it_does_along_a_flow(solver, kind):
    own = process(schedule="rectified_flow", prediction_type=kind, solver=solver, num_steps=8)
    image = torch.randn(2, 3, 4)
    noise = SeededNoise([1, 2])
    end = own.sample(knows(own, image), noise.normal(3, 4), noise)
    torch.testing.assert_close(end, image, atol=1e-4, rtol=0)


@pytest.mark.parametrize("spacing", ["uniform", "linspace", "karras"])
def test_every_spacing_samples(spacing):
    own = process(spacing=spacing, solver="heun", schedule="linear", betas=[1e-4, 0.02])
    image = torch.randn(2, 3, 4)
    end = own.sample(knows(own, image), torch.randn(2, 3, 4), SeededNoise([1, 2]))
    torch.testing.assert_close(end, image, atol=0.05, rtol=0)


# ---- training ----


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "v"),
        ({"prediction_type": "epsilon", "schedule": "linear", "betas": [1e-4, 0.02]}, "epsilon"),
        ({"prediction_type": "x0", "zero_terminal_snr": True}, "x0"),
        (FLOW, "flow"),
        (FLOW | {"shift": 3.0}, "flow"),
    ],
)
def test_training_loss_is_its_closed_form_of_the_drawn_numbers(changes, kind):
    own = process(**changes)
    x0 = torch.randn(5, 3, 4)
    torch.manual_seed(3)
    loss = own.training_loss(network, x0)
    torch.manual_seed(3)
    u = (torch.arange(5) + torch.rand(1)) / 5
    eps = torch.randn_like(x0)
    t = (u * 1000).long()
    alpha, sigma = (v[t].float()[:, None, None] for v in (own.schedule.alpha, own.schedule.sigma))
    target = {"v": alpha * eps - sigma * x0, "epsilon": eps, "x0": x0, "flow": eps - x0}[kind]
    told = own.schedule.times[t].float()
    expected = (network(alpha * x0 + sigma * eps, told) - target).square().mean()
    torch.testing.assert_close(loss, expected)
    if kind == "flow":
        torch.testing.assert_close(told, 1000 * sigma.flatten())


def test_noise_offset_is_shared_by_a_channel_and_draws_nothing_when_off():
    torch.manual_seed(0)
    plain = process().draw_noise(torch.zeros(4, 3, 5, 5))
    following = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(plain, torch.randn(4, 3, 5, 5)) and torch.equal(following, torch.rand(1))
    torch.manual_seed(0)
    shifted = process(noise_offset=0.1).draw_noise(torch.zeros(2000, 3, 5, 5))
    torch.manual_seed(0)
    offset = shifted - torch.randn(2000, 3, 5, 5)
    torch.testing.assert_close(offset, offset[..., :1, :1].expand_as(offset), atol=1e-6, rtol=0)
    assert float(offset.std()) == pytest.approx(0.1, rel=0.03)


def test_bucket_losses_are_those_of_their_own_timesteps_and_repeat():
    own, x0, seen = process(prediction_type="epsilon"), torch.randn(6, 3, 4), []

    def silent(x, t):
        seen.append(t)
        return torch.zeros_like(x)

    first = own.bucket_losses(silent, x0, SeededNoise(range(6)), 4)
    eps = SeededNoise(range(6)).normal(3, 4)
    torch.testing.assert_close(first, eps.square().mean().expand(4))
    for bucket, times in enumerate(seen):
        assert bool((times >= 250 * bucket).all() and (times < 250 * (bucket + 1)).all())
        assert len(set(times.tolist())) == 6
    torch.manual_seed(1)
    again = own.bucket_losses(network, x0, SeededNoise(range(6)), 4)
    torch.manual_seed(2)
    assert torch.equal(again, own.bucket_losses(network, x0, SeededNoise(range(6)), 4))
    assert not torch.allclose(again[0], again[3])
    with pytest.raises(ConfigError, match="buckets=0 must be from 1 to 1000"):
        own.bucket_losses(network, x0, SeededNoise(range(6)), 0)


# ---- a learned variance ----


def brute_force_posterior(schedule, t):
    """(mean's factors of x_0 and x, variance) of q(x_{t-1} | x_t, x_0) from beta."""
    bar = schedule.alpha.square()
    before = bar[t - 1] if t > 0 else torch.tensor(1.0, dtype=torch.float64)
    beta = 1 - bar[t] / before
    of_x0 = before.sqrt() * beta / (1 - bar[t])
    of_x = (1 - beta).sqrt() * (1 - before) / (1 - bar[t])
    return of_x0, of_x, beta, (1 - before) / (1 - bar[t]) * beta


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("t", [1, 10, 500, 999])
def test_bound_is_the_divergence_of_two_gaussians(name, t):
    schedule = make_schedule(name, 1000, betas=[1e-4, 0.02] if name == "linear" else None)
    of_x0, of_x, beta, small = brute_force_posterior(schedule, t)
    x0, guess, x, v = torch.randn(4, 3, 5, dtype=torch.float64)
    f = (v + 1) / 2
    learned = torch.exp(f * beta.log() + (1 - f) * small.log())
    true = Normal(of_x0 * x0 + of_x * x, small.sqrt())
    ours = Normal(of_x0 * guess + of_x * x, learned.sqrt())
    expected = kl_divergence(true, ours).mean(1) / math.log(2)
    posterior = Posterior(*(table[t] for table in vars(Posterior.of(schedule)).values()))
    found = variance_bound(guess, v, x0, posterior, torch.zeros(()))
    torch.testing.assert_close(found.double(), expected, rtol=2e-4, atol=1e-6)


def test_the_last_step_is_a_distribution_over_pixel_values():
    posterior = Posterior.of(make_schedule("cosine", 50))
    at_zero = Posterior(*(table[0] for table in vars(posterior).values()))
    pixels = torch.linspace(-1, 1, 256, dtype=torch.float64)[:, None]
    for guess, v in ((0.3, 1.0), (-0.999, 0.0), (1.2, -1.0)):
        bits = variance_bound(
            torch.full_like(pixels, guess),
            torch.full_like(pixels, v),
            pixels,
            at_zero,
            torch.ones(()),
        )
        assert float((2**-bits).sum()) == pytest.approx(1, abs=1e-4)


def learned_network(x, t):
    return torch.cat([network(x, t), torch.sin(3 * x)], 1)


def test_a_learned_variance_is_trained_by_its_bound_alone():
    own = process(
        learned_variance=True, prediction_type="epsilon", schedule="linear", betas=[1e-4, 0.02]
    )
    x0 = torch.rand(4, 2, 5) * 2 - 1
    mean, variance = (torch.zeros(4, 2, 5, requires_grad=True) for _ in range(2))
    torch.manual_seed(0)
    own.training_loss(lambda x, t: torch.cat([mean, variance], 1), x0).backward()
    simple = process(prediction_type="epsilon", schedule="linear", betas=[1e-4, 0.02])
    alone = torch.zeros(4, 2, 5, requires_grad=True)
    torch.manual_seed(0)
    simple.training_loss(lambda x, t: alone, x0).backward()
    torch.testing.assert_close(mean.grad, alone.grad)
    assert float(variance.grad.abs().min()) > 0


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpm_solver_pp"])
def test_guidance_leaves_a_learned_variance_as_it_is(solver):
    own = process(learned_variance=True, solver=solver)
    guide, calls = Guidance(3.0), []

    def predict(x, t):
        half = len(x) // 2
        output = learned_network(x, t)
        # An unconditional variance that is never looked at.
        output[half:, 2:] = torch.nan
        calls.append(len(x))
        return output

    end = own.sample(predict, torch.randn(2, 2, 5), SeededNoise([1, 2]), guide=guide)
    assert bool(torch.isfinite(end).all()) and calls == [4] * 6
    with pytest.raises(ConfigError, match="needs a network of 4 output channels for 2"):
        own.sample(network, torch.randn(2, 2, 5), SeededNoise([1, 2]))


# ---- sampling ----


@pytest.mark.parametrize("solver", SOLVERS)
@settings(max_examples=8, deadline=None)
@given(steps=st.integers(1, 12))
def test_evaluations_are_counted(solver, steps):
    flow = FLOW if solver in FLOW_SOLVERS else {}
    for changes in ({}, flow):
        own = process(**(changes | {"solver": solver}))
        once = {"heun": 2 * steps - 1, "plms": steps + (steps > 1)}.get(solver, steps)
        assert own.nfe(steps) == once
        assert own.nfe(steps, Guidance(2.0)) == 2 * once
        assert own.nfe(steps, Guidance(1.0)) == once


def test_guidance_outside_of_its_interval_costs_half():
    own = process(num_steps=10)
    sigma = own.levels().sigma[:-1]
    guide = Guidance(4.0, low=0.3, high=0.8)
    inside = int(((sigma > 0.3) & (sigma <= 0.8)).sum())
    assert 0 < inside < 10
    assert own.nfe(10, guide) == 10 + inside
    rows = []

    def predict(x, t):
        rows.append(len(x))
        return torch.cat([x[:3], 2 * x[3:]])

    own.sample(predict, torch.randn(3, 4, 4), SeededNoise([0, 1, 2]), guide=guide)
    assert rows == [6 if 0.3 < s <= 0.8 else 3 for s in sigma.tolist()]


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sample_depends_on_its_seed_alone(solver):
    own = process(solver=solver)

    def run(seeds):
        noise = SeededNoise(seeds)
        return own.sample(network, noise.normal(3, 4), noise, eta=0.5)

    together = run([4, 5, 6])
    torch.testing.assert_close(run([6])[0], together[2])
    torch.testing.assert_close(run([5, 4])[0], together[1])


@pytest.mark.parametrize("changes", [{}, FLOW])
def test_a_start_is_noised_to_the_level_that_is_denoised_first(changes):
    own = process(num_steps=10, **changes)
    image, z, seen = torch.randn(2, 3, 4), torch.randn(2, 3, 4), []

    def predict(x, t):
        seen.append((x, float(t[0])))
        return network(x, t)

    def run(strength):
        seen.clear()
        return own.sample(predict, z, SeededNoise([1, 2]), start=(image, strength))

    assert torch.equal(run(0.0), image) and not seen
    assert torch.equal(run(0.09), image) and not seen
    run(0.7)
    levels = own.levels()
    assert [t for _, t in seen] == pytest.approx(levels.timesteps[3:].tolist())
    alpha, sigma = levels.coefficients()
    torch.testing.assert_close(seen[0][0], add_noise(image, z, alpha[3], sigma[3]))
    assert own.nfe(10, strength=0.7) == 7 and own.nfe(10, strength=0.0) == 0
    assert torch.equal(run(1.0), own.sample(network, z, SeededNoise([1, 2])))
    assert own.kept_steps(100, 0.29) == 29
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=f"strength={wrong} must be in"):
            run(wrong)


@pytest.mark.parametrize("solver", SOLVERS)
def test_known_regions_are_kept_between_the_steps(solver):
    own = process(solver=solver, num_steps=8, schedule="linear", betas=[1e-4, 0.02])
    image, known = torch.randn(2, 3, 4), torch.arange(4) < 2
    noise, visited = SeededNoise([1, 2]), []
    alpha, sigma = own.levels().coefficients()

    def between(x, i):
        visited.append(i)
        eps = torch.randn_like(x)
        return torch.where(known, add_noise(image, eps, alpha[i], sigma[i]), x)

    told = torch.where(known, image, -image)
    end = own.sample(knows(own, told), noise.normal(3, 4), noise, between=between)
    assert visited == list(range(8))
    # PLMS extrapolates eps, and that of the known region is drawn anew each time.
    same = ~known if solver == "plms" else slice(None)
    torch.testing.assert_close(end[..., same], told[..., same], atol=2e-3, rtol=0)

    def wipe(x, i):
        return torch.zeros_like(x)

    def wiped(x):
        return own.sample(network, x, SeededNoise([1, 2]), between=wipe)

    # What the solver had before is gone, so it cannot have kept an x of its own.
    if solver not in ("ddpm", "euler_ancestral", "dpm_solver_pp_sde"):
        torch.testing.assert_close(wiped(torch.randn(2, 3, 4)), wiped(torch.randn(2, 3, 4)))


def test_clipping_and_thresholding_keep_the_image_in_range():
    x = torch.randn(2, 3, 4)

    def shout(x, t):
        return torch.full_like(x, 7.0) * torch.sign(x)

    for changes in ({"clip_sample": True}, {"threshold": 0.9}):
        own = process(prediction_type="x0", **changes)
        end = own.sample(shout, x, SeededNoise([1, 2]))
        torch.testing.assert_close(end.abs(), torch.ones_like(end))
    free = process(prediction_type="x0")
    assert float(free.sample(shout, x, SeededNoise([1, 2])).abs().min()) == pytest.approx(7)
    end = free.sample(shout, x, SeededNoise([1, 2]), threshold=0.9)
    torch.testing.assert_close(end.abs(), torch.ones_like(end))


def test_knobs_are_the_solvers():
    assert [k.name for k in process().knobs()] == ["num_steps", "eta"]
    assert [k.name for k in process(solver="heun").knobs()] == ["num_steps"]
    steps = process(num_steps=7).knobs()[0]
    assert (steps.default, steps.low, steps.high, steps.integer) == (7, 1, 1000, True)


def test_a_process_has_no_weights_and_moves():
    own = process(learned_variance=True)
    assert not own.state_dict() and not list(own.parameters())
    assert own.to("meta").alpha.device.type == "meta"
    with torch.device("meta"):
        built = process()
    assert built.alpha.device.type == "meta" and len(built.levels(5)) == 5
    torch.testing.assert_close(own.schedule.alpha.square().float(), process().alphas_bar)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_steps": 0}, "num_steps=0 must be from 1"),
        ({"solver": "rk45"}, "solver=rk45 is unknown; choose ddpm, ddim"),
        ({"spacing": "even"}, "spacing=even is unknown"),
        ({"prediction_type": "score"}, "prediction_type=score is unknown"),
        ({"schedule": "sigmoid"}, "schedule=sigmoid is unknown"),
        ({"variance": "medium"}, "variance=medium is unknown; choose small"),
        ({"variance": "learned"}, "variance=learned is unknown; choose small"),
        (FLOW | {"solver": "ddim"}, "solver=ddim is for variance-preserving .* choose euler"),
        (FLOW | {"solver": "plms"}, "solver=plms is for variance-preserving"),
        (FLOW | {"prediction_type": "epsilon"}, "epsilon says nothing of the image"),
        (FLOW | {"learned_variance": True}, "learned_variance=true is for variance-preserving"),
        ({"zero_terminal_snr": True, "prediction_type": "epsilon"}, "epsilon says nothing"),
        ({"zero_terminal_snr": True, "solver": "heun"}, "solver=heun needs some of the image"),
        ({"zero_terminal_snr": True, "spacing": "karras"}, "karras does not start in pure noise"),
        ({"threshold": 99.5}, r"threshold=99.5 must be in \[0, 1\]"),
        ({"noise_offset": -0.1}, "noise_offset=-0.1 must be in"),
        ({"snr_cap": -1.0}, "snr_cap=-1.0 must be in"),
    ],
)
def test_bad_settings_are_refused_when_the_process_is_made(changes, words):
    with pytest.raises(ConfigError, match=words):
        process(**changes)


def test_an_empty_interval_is_refused():
    with pytest.raises(ConfigError, match="guidance_low=0.8 must be below guidance_high=0.2"):
        Guidance(2.0, low=0.8, high=0.2)
