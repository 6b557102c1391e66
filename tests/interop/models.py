"""Small random models made by diffusers and transformers, in both published formats."""

from pathlib import Path

import torch
from interop.compvis_names import single_file
from safetensors.torch import save_file
from text.tiny import byte_pairs

PROMPTS = ["a red ring", "a blue star above a moon"]
SCALED_LINEAR = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
STABLE_DIFFUSION_STEPS = {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}


def small_unet(channels=(32, 64), attends=(True, False), in_channels=4, blocks=2):
    from diffusers import UNet2DConditionModel

    kinds = ["CrossAttn" if attend else "" for attend in attends]
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        block_out_channels=channels,
        layers_per_block=blocks,
        down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
        cross_attention_dim=64,
        attention_head_dim=8,
    )


def small_vae(channels=(32, 32, 64), blocks=1):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        sample_size=8 * 2 ** (len(channels) - 1),
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        latent_channels=4,
        layers_per_block=blocks,
        scaling_factor=0.18215,
    )


def small_clip():
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=64,
            intermediate_size=128,
            num_attention_heads=1,
            num_hidden_layers=2,
            max_position_embeddings=20,
            projection_dim=64,
            vocab_size=49408,
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
        )
    )


def clip_tokenizer(length):
    from transformers import CLIPTokenizer

    vocabulary, merges = byte_pairs()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def pipeline(seed=0, **unet_options):
    """A whole StableDiffusionPipeline whose layers all matter: no zeros, no ones."""
    torch.manual_seed(seed)
    unet, vae, text = small_unet(**unet_options), small_vae(), small_clip()
    with torch.no_grad():
        for network in (unet, vae, text):
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    return assembled(unet, vae, text)


def stable_diffusion_v1(seed=0):
    """The published layout, a billion random weights; samples of 64 px."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(sample_size=8, cross_attention_dim=768)
    vae = AutoencoderKL(
        sample_size=64,
        block_out_channels=(128, 256, 512, 512),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4,
        layers_per_block=2,
        scaling_factor=0.18215,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_attention_heads=12,
            num_hidden_layers=12,
            projection_dim=768,
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
        )
    )
    return assembled(unet, vae, text)


def assembled(unet, vae, text):
    """The pipeline of three networks, with Stable Diffusion v1's schedule and DDIM."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    made = StableDiffusionPipeline(
        unet=unet.eval(),
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=clip_tokenizer(text.config.max_position_embeddings),
        scheduler=DDIMScheduler(**SCALED_LINEAR, **STABLE_DIFFUSION_STEPS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def schedule_buffers():
    """Some of the buffers that a CompVis file has beside its networks."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    bars = torch.cumprod(1 - betas, 0)
    return {
        "betas": betas.float(),
        "alphas_cumprod": bars.float(),
        "sqrt_alphas_cumprod": bars.sqrt().float(),
        "posterior_mean_coef1": torch.zeros(1000),
    }


def compvis_state(pipe):
    """What CompVis would have saved: with schedule buffers, position ids, a loss."""
    state = single_file(pipe.unet, pipe.vae, pipe.text_encoder) | schedule_buffers()
    positions = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    state[positions] = torch.arange(pipe.tokenizer.model_max_length)[None]
    state["first_stage_model.loss.logvar"] = torch.zeros(())
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def save_compvis(pipe, path: Path):
    state = compvis_state(pipe)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "global_step": 1}, path)
    return path
