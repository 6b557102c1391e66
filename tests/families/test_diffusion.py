import functools
from dataclasses import replace

import pytest
import torch
from scipy.stats import norm

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.autoencoders.kl import KLAutoencoder
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import front_knob
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import Batch
from t2ibench.families.diffusion.fast_unet import FastUNet
from t2ibench.families.diffusion.losses import weighted_errors
from t2ibench.families.diffusion.module import Diffusion
from t2ibench.families.diffusion.process import DiffusionProcess
from t2ibench.samplers.schedules import cosine_schedule
from t2ibench.text.word import WordTransformer

CONDITIONINGS = ("concat", "modulation", "cross_attention")
CAPTIONS = ["a red ring", "a small blue star", "", "a large green cross on white"]


PROCESS = {
    "schedule": "cosine",
    "timesteps": 1000,
    "prediction_type": "v",
    "snr_cap": 0.0,
    "timestep_location": 0.0,
    "timestep_spread": 0.0,
    "solver": "dpm_solver_pp",
    "spacing": "trailing",
    "num_steps": 4,
}


def make_module(conditioning="cross_attention", extra_channels=0, **changes):
    torch.manual_seed(0)
    words = ["a", "red", "ring", "small", "blue", "star", "large", "green", "cross", "on", "white"]
    autoencoder = KLAutoencoder(latent_channels=4, channels=[16, 16], blocks=1, stem_factor=2)
    settings = {
        "text_encoder": WordTransformer(
            vocabulary=list(dict.fromkeys(words)), width=16, depth=1, heads=2, max_length=8
        ),
        "first_stage": FrozenFirstStage(autoencoder),
        "network": functools.partial(
            FastUNet,
            channels=16,
            channel_multipliers=[1, 2],
            blocks_per_level=1,
            attention_levels=[1],
            conditioning=conditioning,
            heads=2,
            groups=4,
            extra_channels=extra_channels,
        ),
        "optimizer": functools.partial(torch.optim.AdamW, lr=3e-3),
        "resolution": 32,
        "null_text_probability": 0.25,
        "gradient_clip_norm": 1.0,
        "guidance_scale": 2.0,
    }
    own = {name: changes.pop(name) for name in list(changes) if name not in settings}
    settings["process"] = DiffusionProcess(**(PROCESS | own))
    module = Diffusion(**(settings | changes))
    optimizer = module.configure_optimizers()
    module.optimizers = lambda: optimizer
    module.manual_backward = lambda loss: loss.backward()
    return module


def make_batch(count=4, latents=None):
    images = torch.rand(count, 3, 32, 32) * 2 - 1
    targets = {} if latents is None else {"latents": latents}
    return Batch(images, CAPTIONS[:count], torch.arange(count), targets=targets)


def train(module, steps=3):
    """Enough steps that every zero-initialised layer lets text and time through."""
    torch.manual_seed(1)
    return [module.training_step(make_batch(), i) for i in range(steps)]


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_training_changes_every_parameter_and_only_those(conditioning):
    module = make_module(conditioning, null_text_probability=0.5)
    start = {n: p.detach().clone() for n, p in module.named_parameters()}
    logs = train(module, 4)
    assert all(torch.isfinite(row["loss"]) and not row["loss"].requires_grad for row in logs)
    same = {n for n, p in module.named_parameters() if torch.equal(p, start[n])}
    assert same == {n for n in start if n.startswith("first_stage.")}
    assert set(module.sampling_parameters()) == set(start) - same


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_an_image_belongs_to_its_prompt_and_seed(conditioning):
    module = make_module(conditioning)
    train(module)
    together = module.generate(CAPTIONS, SeededNoise([4, 5, 6, 7]))
    assert together.shape == (4, 3, 32, 32)
    for i in range(4):
        alone = module.generate(CAPTIONS[i : i + 1], SeededNoise([4 + i]))
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=1e-4)
    same_noise = module.generate(CAPTIONS, SeededNoise([4, 4, 4, 4]))
    assert not torch.allclose(same_noise[0], same_noise[1], atol=1e-4), "the prompt is ignored"


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_guidance_at_one_and_zero_are_the_two_branches(conditioning):
    module = make_module(conditioning)
    train(module)
    null = module.text_encoder.null(2)
    free = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), {"guidance_scale": 0.0})
    unconditional = module.generate(null, SeededNoise([1, 2]), {"guidance_scale": 1.0})
    torch.testing.assert_close(free, unconditional, atol=1e-4, rtol=1e-4)
    plain, strong = (
        module.generate(CAPTIONS[:2], SeededNoise([1, 2]), {"guidance_scale": w})
        for w in (1.0, 5.0)
    )
    assert not torch.allclose(plain, strong, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("solver", ["ddim", "dpm_solver_pp"])
def test_one_forward_a_step_and_text_prepared_once(scale, solver):
    module = make_module(solver=solver)
    rows, prepared = [], []
    network = module.network
    network.register_forward_hook(lambda net, args, out: rows.append(len(args[0])))
    prepare = network.prepare
    network.prepare = lambda text: prepared.append(len(text)) or prepare(text)
    module.generate(CAPTIONS[:3], SeededNoise([1, 2, 3]), {"guidance_scale": scale, "num_steps": 6})
    batch = 3 if scale == 1 else 6
    assert rows == [batch] * 6 and prepared == [batch]


@pytest.mark.parametrize("solver", ["heun", "plms", "euler_ancestral", "dpm_solver_pp_sde", "ddpm"])
def test_every_solver_gives_each_prompt_its_own_image(solver):
    # Cosine's abar of 2e-9 at the end is 1e-3 of the image in float32 to solvers that divide by it.
    linear = {"schedule": "linear", "betas": [1e-4, 0.02]}
    module = make_module(solver=solver, num_steps=3, **linear)
    train(module)
    together = module.generate(CAPTIONS, SeededNoise([4, 5, 6, 7]))
    alone = module.generate(CAPTIONS[2:3], SeededNoise([6]))
    torch.testing.assert_close(alone[0], together[2], atol=1e-4, rtol=1e-4)


def test_an_interval_of_guidance_costs_less_and_prepares_each_kind_once():
    module = make_module(num_steps=8)
    train(module)
    rows, prepared = [], []
    module.network.register_forward_hook(lambda net, args, out: rows.append(len(args[0])))
    prepare = module.network.prepare
    module.network.prepare = lambda text: prepared.append(len(text)) or prepare(text)
    knobs = {"guidance_scale": 4.0, "guidance_low": 0.3, "guidance_high": 0.9}
    limited = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), knobs)
    assert set(rows) == {2, 4} and sorted(prepared) == [2, 4]
    assert module.nfe(knobs) == sum(rows) // 2
    assert module.nfe({"guidance_scale": 4.0}) == 16 and module.nfe({"guidance_scale": 1.0}) == 8
    whole = module.generate(CAPTIONS[:2], SeededNoise([1, 2]), {"guidance_scale": 4.0})
    assert not torch.allclose(limited, whole, atol=1e-4)
    with pytest.raises(ConfigError, match="guidance_low=0.9 must be below guidance_high=0.3"):
        module.generate(CAPTIONS[:1], SeededNoise([1]), {"guidance_low": 0.9, "guidance_high": 0.3})


def test_rescaling_acts_where_guidance_does():
    module = make_module()
    train(module)

    def images(scale, amount):
        knobs = {"guidance_scale": scale, "guidance_rescale": amount}
        return module.generate(CAPTIONS, SeededNoise(range(4)), knobs)

    assert not torch.allclose(images(5.0, 0.0), images(5.0, 1.0), atol=1e-4)
    assert torch.equal(images(1.0, 0.0), images(1.0, 1.0))


def test_pixels_are_diffused_without_a_first_stage():
    module = make_module(first_stage=None, prediction_type="x0", threshold=0.995)
    assert not module.targets() and list(make_module().targets()) == ["latents"]
    shapes = []
    module.network.register_forward_hook(lambda net, args, out: shapes.append(args[0].shape))
    train(module, 2)
    assert set(shapes) == {(4, 3, 32, 32)}
    threshold = next(knob for knob in module.knobs if knob.name == "threshold")
    assert (threshold.default, threshold.low, threshold.high) == (0.995, 0, 1)
    images = module.generate(CAPTIONS[:2], SeededNoise([1, 2]))
    assert images.shape == (2, 3, 32, 32) and float(images.abs().max()) <= 1


def test_rectified_flow_trains_and_samples():
    flow = {"schedule": "rectified_flow", "prediction_type": "flow", "solver": "heun"}
    module = make_module(**flow)
    torch.manual_seed(1)
    batch = make_batch()
    losses = []
    for i in range(30):
        torch.manual_seed(5)
        losses.append(float(module.training_step(batch, i)["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    assert torch.isfinite(module.generate(CAPTIONS, SeededNoise(range(4)))).all()


def test_validation_by_timesteps_repeats_and_drops_no_caption():
    module = make_module(null_text_probability=1.0)
    train(module)
    batch = make_batch()
    with torch.no_grad():
        before = torch.get_rng_state()
        first, again = (module.validation_losses(batch) for _ in range(2))
        assert torch.equal(before, torch.get_rng_state())
        other = module.validation_losses(replace(batch, caption=CAPTIONS[::-1]))
    assert list(first) == [f"val_loss_t{125 * i}" for i in range(8)] and first == again
    assert first != other, "captions were dropped"


def test_cached_latents_train_as_images_do():
    batch = make_batch()
    losses = []
    for cached in (False, True):
        module = make_module()
        target = module.targets()["latents"]
        assert target.fingerprint == module.first_stage.fingerprint
        targets = {"latents": target.make(batch.image)} if cached else {}
        torch.manual_seed(3)
        losses.append(module.training_step(replace(batch, targets=targets), 0)["loss"])
    assert torch.equal(*losses)


def test_timesteps_of_a_batch_are_spread_over_the_schedule():
    module = make_module()
    seen = []
    module.network.register_forward_hook(lambda net, args, out: seen.append(args[1]))
    train(module, 20)
    for times in seen:
        assert sorted(int(t * 4 / 1000) for t in times) == [0, 1, 2, 3]
    assert torch.cat(seen).max() <= 999 and torch.cat(seen).min() >= 0


def test_weighting_is_min_snr_of_the_image_error():
    bar = cosine_schedule(9)[1:8].float()
    x0, guess, noise = torch.randn(3, 7, 5)
    for alpha, sigma in ((bar.sqrt(), (1 - bar).sqrt()), (bar, 1 - bar)):
        a, s = alpha[:, None], sigma[:, None]
        snr = (alpha / sigma).square()
        wrong = (guess - x0).square().mean(1)
        eps_of_guess = (a * x0 + s * noise - a * guess) / s

        def weighted(kind, predicted, target, cap, alpha=alpha, sigma=sigma):
            return weighted_errors(predicted, target, alpha, sigma, kind, cap)

        expected = snr.clamp(max=5.0) * wrong
        torch.testing.assert_close(weighted("epsilon", eps_of_guess, noise, 5.0), expected)
        flow = weighted("flow", eps_of_guess - guess, noise - x0, 5.0)
        torch.testing.assert_close(flow, expected)
        capped = (1 / sigma.square()).clamp(max=3.0) * wrong
        torch.testing.assert_close(weighted("x0", guess, x0, 3.0), capped)
        plain = (eps_of_guess - noise).square().mean(1)
        torch.testing.assert_close(weighted("epsilon", eps_of_guess, noise, 0.0), plain)
        v_of_guess, v = a * eps_of_guess - s * guess, a * noise - s * x0
        torch.testing.assert_close(weighted("v", v_of_guess, v, 5.0), expected)
        if alpha is bar:  # the velocity of rectified flow is flow
            v_of_guess, v = eps_of_guess - guess, noise - x0
        unweighted = (v_of_guess - v).square().mean(1)
        torch.testing.assert_close(weighted("x0", guess, x0, 1e9), unweighted)


@pytest.mark.parametrize("kind", ["v", "x0", "flow", "epsilon"])
def test_weights_are_finite_in_pure_noise(kind):
    one, zero = torch.ones(1), torch.zeros(1)
    loss = weighted_errors(torch.ones(1, 3), torch.zeros(1, 3), zero, one, kind, 5.0)
    assert float(loss) == {"v": 0, "x0": 1, "flow": 0, "epsilon": 1}[kind]


def test_logit_normal_timesteps_have_its_quantiles():
    module = make_module(timestep_location=-0.4, timestep_spread=0.8)
    times = torch.stack([module.process.draw_timesteps(64) for _ in range(200)]).flatten() / 1000
    probabilities = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    expected = norm.ppf(probabilities) * 0.8 - 0.4
    found = torch.logit(torch.quantile(times, probabilities), eps=1e-3)
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), atol=0.05, rtol=0)


def test_untrained_network_predicts_zero_and_sees_odd_sizes():
    module = make_module()
    text = module.text_encoder.encode(CAPTIONS[:2])
    x = torch.randn(2, 4, 7, 5)
    out = module.network(x, torch.tensor([0.0, 999.0]), module.network.prepare(text))
    assert out.shape == x.shape and bool((out == 0).all())


def test_network_sees_the_time():
    module = make_module()
    train(module)
    text = module.text_encoder.encode(CAPTIONS[:1])
    contexts = module.network.prepare(text)
    x = torch.randn(1, 4, 8, 8)
    early, late = (module.network(x, torch.tensor([t]), contexts) for t in (10.0, 900.0))
    assert not torch.allclose(early, late, atol=1e-4)


def test_knobs():
    module = make_module()
    assert front_knob(module.knobs).name == "guidance_scale"
    guidance = {"guidance_scale", "guidance_low", "guidance_high", "guidance_rescale"}
    assert {k.name for k in module.knobs} == guidance | {"num_steps"}
    assert {k.name for k in make_module(solver="ddim").knobs} == guidance | {"num_steps", "eta"}
    for wrong in ({"guidance_scale": -1.0}, {"num_steps": 0}, {"num_steps": 2.5}):
        with pytest.raises(ConfigError, match="num_steps|guidance_scale"):
            module.generate(CAPTIONS[:1], SeededNoise([0]), wrong)
    with pytest.raises(ConfigError, match="eta is not a knob"):
        module.generate(CAPTIONS[:1], SeededNoise([0]), {"eta": 0.5})


def test_eta_draws_each_image_its_own_noise():
    module = make_module(solver="ddim")
    train(module)
    knobs = {"eta": 1.0, "num_steps": 5}
    together = module.generate(CAPTIONS, SeededNoise([4, 5, 6, 7]), knobs)
    alone = module.generate(CAPTIONS[2:3], SeededNoise([6]), knobs)
    torch.testing.assert_close(alone[0], together[2], atol=1e-4, rtol=1e-4)
    still = module.generate(CAPTIONS, SeededNoise([4, 5, 6, 7]), {"num_steps": 5})
    assert not torch.allclose(still, together, atol=1e-4)


def test_unknown_solver_is_refused():
    with pytest.raises(ConfigError, match="solver=rk45 is unknown"):
        make_module(solver="rk45")


def test_state_dict_is_strict_and_gives_the_same_images():
    first = make_module()
    train(first)
    second = make_module()
    second.load_state_dict(first.state_dict(), strict=True)
    a, b = (m.generate(CAPTIONS[:2], SeededNoise([1, 2])) for m in (first, second))
    assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="Missing key"):
        second.load_state_dict({}, strict=True)
