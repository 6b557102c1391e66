"""Imported networks and whole guided trajectories give diffusers' own numbers."""

import pytest
import torch
from interop.models import PROMPTS, SCALED_LINEAR, save_compvis, stable_diffusion_v1

from t2ibench.cli.main import main
from t2ibench.core.noise import SeededNoise
from t2ibench.engine.load import open_folder
from t2ibench.samplers.guidance import Guidance

SEEDS = [3, 4]
GUIDANCE, STEPS = 3.0, 5
DPM_SOLVER = [
    "model.module.process.solver=dpm_solver_pp",
    "model.module.process.spacing=trailing",
    "model.module.process.last_level=image",
]


def imported(source, out, *overrides):
    """The module of a run that `t2ibench import` wrote, with CLIP's own vocabulary."""
    assert main(["import", str(source), f"out={out}", *overrides]) == 0
    return open_folder(out).module


@pytest.fixture(scope="module")
def module(compvis_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("parity") / "run"
    return imported(compvis_file, out, "data.resolution=32")


def multistep(pipe):
    """The pipeline with DPM-Solver++(2M)."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    scheduler = DPMSolverMultistepScheduler(**SCALED_LINEAR, timestep_spacing="trailing")
    other = StableDiffusionPipeline(
        **{**pipe.components, "scheduler": scheduler}, requires_safety_checker=False
    )
    other.set_progress_bar_config(disable=True)
    return other


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def their_trajectory(pipe, latents):
    """Latents after each step, and the images in [0, 1]."""
    states = []

    def keep(pipe, step, timestep, given):
        states.append(given["latents"].clone())
        return given

    images = pipe(
        PROMPTS,
        latents=latents,
        guidance_scale=GUIDANCE,
        num_inference_steps=STEPS,
        output_type="pt",
        callback_on_step_end=keep,
        height=pipe.vae_scale_factor * latents.shape[-2],
        width=pipe.vae_scale_factor * latents.shape[-1],
    )
    return torch.stack(states), images.images


def our_trajectory(module):
    """Latents before each step and after the last."""
    noise, states = SeededNoise(SEEDS), []

    def keep(x, i):
        states.append(x)
        return x

    side = module.resolution
    plan = module.plan(module.encode_captions(PROMPTS), noise, (side, side), STEPS, None)
    end = module.process.sample(
        plan.predict,
        plan.x,
        noise,
        num_steps=STEPS,
        guide=Guidance(GUIDANCE, 0.0, 1.0, 0.0),
        between=keep,
    )
    return torch.stack([*states, end])


def close(found, wanted):
    """To 1e-4 of their own spread, or of one where that is larger."""
    spread = float(wanted.std())
    assert 0.02 < spread < 20
    torch.testing.assert_close(found, wanted, atol=1e-4 * min(1.0, spread), rtol=1e-4)


@torch.no_grad()
def assert_same_networks(module, pipe):
    text = module.encode_captions([*PROMPTS, ""])
    words = torch.cat([pipe.encode_prompt(p, "cpu", 1, False)[0] for p in [*PROMPTS, ""]])
    close(text.tokens, words)
    x, t = normal(3, pipe.unet.config.in_channels, 8, 8), torch.tensor([1.0, 400.0, 981.0])
    found = module.network(x, t, module.network.prepare(text))
    close(found, pipe.unet(x, t, words).sample)
    factor = module.first_stage.spatial_factor
    images = normal(2, 3, 8 * factor, 8 * factor).clamp(-1, 1)
    scale = pipe.vae.config.scaling_factor
    latents = pipe.vae.encode(images).latent_dist.mean * scale
    close(module.first_stage.encode(images), latents)
    close(module.first_stage.decode(latents), pipe.vae.decode(latents / scale).sample)


@torch.no_grad()
def assert_same_trajectory(module, pipe):
    side = module.resolution // module.first_stage.spatial_factor
    latents = SeededNoise(SEEDS).normal(4, side, side)
    states, images = their_trajectory(pipe, latents)
    ours = our_trajectory(module)
    assert torch.equal(ours[0], latents)
    close(ours[1:], states)
    knobs = {"num_steps": STEPS, "guidance_scale": GUIDANCE}
    close(module.generate(PROMPTS, SeededNoise(SEEDS), knobs).div(2).add(0.5), images)


def test_networks(module, pipe):
    assert_same_networks(module, pipe)


def test_ddim_trajectory(module, pipe):
    assert_same_trajectory(module, pipe)


def test_dpm_solver_trajectory(diffusers_folder, pipe, tmp_path):
    module = imported(diffusers_folder, tmp_path / "run", *DPM_SOLVER)
    assert_same_trajectory(module, multistep(pipe))


@pytest.mark.slow
def test_the_whole_layout_of_stable_diffusion_v1(tmp_path):
    pipe = stable_diffusion_v1()
    assert sum(p.numel() for p in pipe.unet.parameters()) == 859_520_964
    assert sum(p.numel() for p in pipe.vae.parameters()) == 83_653_863
    file = save_compvis(pipe, tmp_path / "v1.safetensors")
    module = imported(file, tmp_path / "run", "data.resolution=64")
    assert_same_networks(module, pipe)
    assert_same_trajectory(module, pipe)
    assert_same_trajectory(
        imported(file, tmp_path / "other", *DPM_SOLVER, "data.resolution=64"), multistep(pipe)
    )
