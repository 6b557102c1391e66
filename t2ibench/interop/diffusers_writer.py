"""Folders that diffusers loads and samples from, written of a run's own networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from t2ibench.core.files import write_json
from t2ibench.interop.diffusers_folder import scheduler_config
from t2ibench.interop.layouts import FirstStageLayout, UNetLayout
from t2ibench.interop.published import Schedule
from t2ibench.interop.text_folder import save_tensors

FORMAT_VERSION = "0.30.0"
"""The version of diffusers whose configuration keys are written; later ones read them too."""

PIPELINE = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": FORMAT_VERSION,
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "image_encoder": [None, None],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

INPAINTING = "StableDiffusionInpaintPipeline"
"""The pipeline of UNets that see a mask and a masked image beside the latents."""


@dataclass(frozen=True)
class ExportedModel:
    """Content of an exported folder; tensors are under our names, which are diffusers'.

    Attributes:
        unet_layout: see ``UNetLayout``.
        unet: the denoiser's tensors.
        first_stage_layout: see ``FirstStageLayout``.
        first_stage: the autoencoder's tensors.
        latent_mean: (C,) subtracted from latents before diffusion.
        latent_std: (C,) latents are divided by it.
        text_config: CLIP's, as transformers writes it.
        text: CLIP's tensors, without ``text_model.``.
        tokenizer: transformers' tokeniser.
        schedule: of noise.
        scheduler: class of diffusers that samples as the run does.
        scheduler_options: arguments of that class besides the schedule.
        resolution: H = W of the images.
    """

    unet_layout: UNetLayout
    unet: Mapping[str, Tensor]
    first_stage_layout: FirstStageLayout
    first_stage: Mapping[str, Tensor]
    latent_mean: Float[Tensor, " C"]
    latent_std: Float[Tensor, " C"]
    text_config: Mapping[str, Any]
    text: Mapping[str, Tensor]
    tokenizer: Any
    schedule: Schedule
    scheduler: str
    scheduler_options: Mapping[str, Any]
    resolution: int


def write_folder(model: ExportedModel, folder: Path) -> None:
    """Writes ``model_index.json`` and a folder a part, all float32 safetensors."""
    stage, scale = with_scalar_scale(model.first_stage, model.latent_mean, model.latent_std)
    factor = 2 ** (len(model.first_stage_layout.channels) - 1)
    size = model.resolution // factor
    index = PIPELINE | {"scheduler": ["diffusers", model.scheduler]}
    if model.unet_layout.in_channels > model.unet_layout.out_channels:
        index["_class_name"] = INPAINTING
    write_json(folder / "model_index.json", index)
    write_json(folder / "unet" / "config.json", unet_config(model.unet_layout, size))
    save_tensors(model.unet, folder / "unet" / "diffusion_pytorch_model.safetensors")
    config = first_stage_config(model.first_stage_layout, model.resolution, scale)
    write_json(folder / "vae" / "config.json", config)
    save_tensors(stage, folder / "vae" / "diffusion_pytorch_model.safetensors")
    write_json(folder / "text_encoder" / "config.json", model.text_config)
    save_tensors(model.text, folder / "text_encoder" / "model.safetensors")
    model.tokenizer.save_pretrained(folder / "tokenizer")
    write_json(
        folder / "scheduler" / "scheduler_config.json",
        {"_class_name": model.scheduler, "_diffusers_version": FORMAT_VERSION}
        | dict(scheduler_config(model.schedule))
        | dict(model.scheduler_options),
    )


def with_scalar_scale(
    tensors: Mapping[str, Tensor], mean: Float[Tensor, " C"], std: Float[Tensor, " C"]
) -> tuple[dict[str, Tensor], float]:
    """A first stage whose latents are scaled by one number, as diffusers' pipelines do.

    Statistics by channel move into the two 1x1 convolutions at the latents: the posterior's mean
    becomes (m - mean) / std and its log variance loses 2 log std; decoding multiplies and adds
    first. Images and reconstructions are the same.

    Args:
        tensors: of the first stage.
        mean: (C,).
        std: (C,).

    Returns:
        The tensors, and the scale.
    """
    if not mean.any() and torch.equal(std, std[:1].expand_as(std)):
        return dict(tensors), round(float(1 / std[0].double()), 6)
    folded = dict(tensors)
    mean, std = mean.double().cpu(), std.double().cpu()
    weight, bias = (tensors[f"quant_conv.{kind}"].double().cpu() for kind in ("weight", "bias"))
    channels = len(mean)
    scale = torch.cat([1 / std, torch.ones_like(std)])
    shift = torch.cat([-mean / std, -2 * std.log()])
    folded["quant_conv.weight"] = (weight * scale[:, None, None, None]).float()
    folded["quant_conv.bias"] = (bias * scale + shift).float()
    weight, bias = (tensors[f"post_quant_conv.{k}"].double().cpu() for k in ("weight", "bias"))
    folded["post_quant_conv.weight"] = (weight * std[None, :, None, None]).float()
    folded["post_quant_conv.bias"] = (bias + weight.view(channels, channels) @ mean).float()
    return folded, 1.0


def unet_config(layout: UNetLayout, size: int) -> dict[str, Any]:
    """The config.json of a ``UNet2DConditionModel``; the inverse of ``unet_from_config``."""
    levels = range(len(layout.channels))
    kinds = ["CrossAttn" if level in layout.attention_levels else "" for level in levels]
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": FORMAT_VERSION,
        "sample_size": size,
        "in_channels": layout.in_channels,
        "out_channels": layout.out_channels,
        "block_out_channels": list(layout.channels),
        "layers_per_block": layout.blocks,
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "cross_attention_dim": layout.text_width,
        # The number of heads, whatever the key says.
        "attention_head_dim": layout.heads,
        "transformer_layers_per_block": layout.depth,
        "norm_num_groups": layout.groups,
        "norm_eps": 1e-5,
        "act_fn": "silu",
        "center_input_sample": False,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "use_linear_projection": False,
    }


def first_stage_config(layout: FirstStageLayout, resolution: int, scale: float) -> dict[str, Any]:
    """The config.json of an ``AutoencoderKL``; the inverse of ``first_stage_from_config``."""
    levels = range(len(layout.channels))
    kinds = ["Attn" if level in layout.attention_levels else "" for level in levels]
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": FORMAT_VERSION,
        "sample_size": resolution,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": layout.latent_channels,
        "block_out_channels": list(layout.channels),
        "layers_per_block": layout.blocks,
        "down_block_types": [f"{kind}DownEncoderBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)],
        "norm_num_groups": layout.groups,
        "act_fn": "silu",
        "scaling_factor": scale,
    }
