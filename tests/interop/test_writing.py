"""Written folders: diffusers itself loads them and draws the same images."""

import pytest
import torch
from interop.models import (
    PROMPTS,
    SCALED_LINEAR,
    STABLE_DIFFUSION_STEPS,
    pipeline,
    small_vae,
)

from t2ibench.interop.diffusers_folder import read_folder
from t2ibench.interop.diffusers_writer import (
    ExportedModel,
    first_stage_config,
    unet_config,
    with_scalar_scale,
    write_folder,
)
from t2ibench.interop.layouts import (
    FirstStageLayout,
    UNetLayout,
    first_stage_from_config,
    unet_from_config,
)
from t2ibench.interop.published import Schedule


def exported(pipe, mean=0.0, std=1 / 0.18215):
    return ExportedModel(
        unet_layout=UNetLayout(4, 4, (32, 64), 2, (0,), 64, 8, 1, 32),
        unet=pipe.unet.state_dict(),
        first_stage_layout=FirstStageLayout(4, (32, 32, 64), 1, (), 32),
        first_stage=pipe.vae.state_dict(),
        latent_mean=torch.zeros(4) + mean,
        latent_std=torch.ones(4) * std,
        text_config=pipe.text_encoder.config.to_dict(),
        text=pipe.text_encoder.state_dict(),
        tokenizer=pipe.tokenizer,
        schedule=Schedule("scaled_linear", 0.00085, 0.012, 1000, "epsilon"),
        scheduler="DDIMScheduler",
        scheduler_options=STABLE_DIFFUSION_STEPS,
        resolution=32,
    )


def draw(pipe, latents):
    return pipe(
        PROMPTS,
        latents=latents,
        num_inference_steps=5,
        guidance_scale=3.0,
        output_type="pt",
    ).images


def test_diffusers_draws_the_same_images_of_a_written_folder(pipe, tmp_path):
    from diffusers import StableDiffusionPipeline

    write_folder(exported(pipe), tmp_path / "model")
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    theirs.set_progress_bar_config(disable=True)
    assert theirs.scheduler.config.beta_end == SCALED_LINEAR["beta_end"]
    assert theirs.vae.config.scaling_factor == 0.18215
    assert (theirs.unet.config.sample_size, theirs.vae.config.sample_size) == (8, 32)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    images = draw(theirs, latents)
    assert images.std() > 0.01
    torch.testing.assert_close(images, draw(pipe, latents), atol=1e-6, rtol=0)


def test_a_written_folder_is_read_back_whole(pipe, tmp_path):
    write_folder(exported(pipe), tmp_path / "model")
    back = read_folder(tmp_path / "model", None)
    made = exported(pipe)
    assert back.unet_layout == made.unet_layout
    assert back.first_stage_layout == made.first_stage_layout
    assert back.schedule == made.schedule and back.latent_scale == 0.18215
    for tensors, own in ((back.unet.tensors, made.unet), (back.text.weights.tensors, made.text)):
        assert all(torch.equal(tensors[name], own[name]) for name in own)


def test_statistics_by_channel_move_into_the_convolutions():
    torch.manual_seed(0)
    vae = small_vae().eval()
    mean, std = torch.randn(4), torch.rand(4) + 0.5
    folded, scale = with_scalar_scale(vae.state_dict(), mean, std)
    assert scale == 1.0
    other = small_vae().eval()
    other.load_state_dict(folded)
    column = (slice(None), None, None)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before, after = vae.encode(images).latent_dist, other.encode(images).latent_dist
        latents = (before.mean - mean[column]) / std[column]
        torch.testing.assert_close(after.mean, latents, atol=1e-5, rtol=0)
        torch.testing.assert_close(after.std, before.std / std[column], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            other.decode(latents).sample, vae.decode(before.mean).sample, atol=1e-5, rtol=0
        )


def test_one_scale_for_all_channels_stays_a_number():
    state = small_vae().state_dict()
    folded, scale = with_scalar_scale(state, torch.zeros(4), torch.ones(4) / 0.18215)
    assert scale == 0.18215
    assert all(torch.equal(folded[name], state[name]) for name in state)


@pytest.mark.parametrize("attention", [(), (1,), (0, 2)])
def test_configurations_are_inverse(attention):
    unet = UNetLayout(9, 4, (64, 128, 128), 1, attention, 768, 8, 2, 16)
    assert unet_from_config(unet_config(unet, 64), "") == unet
    stage = FirstStageLayout(16, (32, 64, 64), 2, attention, 16)
    assert first_stage_from_config(first_stage_config(stage, 64, 1.0), "") == stage


def test_inpainting_unets_are_written_with_nine_channels(tmp_path):
    from diffusers import UNet2DConditionModel

    pipe = pipeline(in_channels=9)
    layout = UNetLayout(9, 4, (32, 64), 2, (0,), 64, 8, 1, 32)
    model = exported(pipe)
    write_folder(ExportedModel(**(vars(model) | {"unet_layout": layout})), tmp_path / "model")
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "model" / "unet")
    assert unet.conv_in.weight.shape[1] == 9
