"""A trained module as the parts of diffusers' StableDiffusionPipeline, or why it is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t2ibench.autoencoders.published import PublishedKL
from t2ibench.core.errors import ConfigError
from t2ibench.families.contract import TextToImageModule
from t2ibench.families.diffusion.module import Diffusion
from t2ibench.families.diffusion.unet import PublishedUNet
from t2ibench.interop.diffusers_writer import ExportedModel
from t2ibench.interop.layouts import FirstStageLayout, unet_from_own_names
from t2ibench.interop.published import Schedule
from t2ibench.text.clip import CLIPTextEncoder

NETWORK = {
    "conditioning": "cross_attention",
    "epsilon": 1e-5,
    "scale_shift": False,
    "residual_resize": False,
    "asymmetric_padding": False,
    "time_order": "cos_sin",
    "learned_variance": False,
    "vector_width": 0,
}
"""Switches of ``PublishedUNet`` in Stable Diffusion v1's layout."""

PROCESS = {"shift": 1.0, "zero_terminal_snr": False, "clip_sample": False, "threshold": 0.0}
"""Options of ``DiffusionProcess`` that reproduce diffusers' pipeline."""

TEXT = {"tokens": "last", "pooled": "hidden", "padding": "max_length"}
"""Arguments of the text encoder with which diffusers' pipeline encodes prompts."""

SPACINGS = {"uniform": "leading", "trailing": "trailing"}
"""Names of step spacings: ours -> diffusers'."""


def diffusers_model(module: TextToImageModule, config: Mapping[str, Any]) -> ExportedModel:
    """The parts of a trained module in Stable Diffusion v1's layout.

    Args:
        module: with its sampling weights.
        config: of its run, resolved.

    Raises:
        ConfigError: the run has another network, first stage, text encoder, process or solver.
    """
    if not isinstance(module, Diffusion) or not isinstance(module.network, PublishedUNet):
        raise not_exported(
            f"model={config['model']['name']}", "a run of model=diffusion/stable_diffusion_v1"
        )
    stage, encoder = module.first_stage, module.text_encoder
    if stage is None or not isinstance(stage.autoencoder, PublishedKL):
        name = config["parts"].get("first_stage", {}).get("name", "none")
        raise not_exported(f"autoencoder={name}", "kl_f8 or kl_f4")
    if not isinstance(encoder, CLIPTextEncoder):
        raise not_exported(f"text={config['text']['name']}", "text=clip_vit_l14")
    own = config["model"]["module"]
    require("model.module.network", own["network"], NETWORK)
    require("model.module.process", own["process"], PROCESS)
    require("text.encoder", config["text"]["encoder"], TEXT)
    if not own["network"]["heads"]:
        raise not_exported("model.module.network.heads=0", "a number of heads")
    unet = module.network.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.items()}
    scheduler, options = scheduler_of(own["process"])
    backbone: Any = encoder.backbone
    return ExportedModel(
        unet_layout=unet_from_own_names(shapes, own["network"]["heads"], own["network"]["groups"]),
        unet=unet,
        first_stage_layout=first_stage_layout(config["parts"]["first_stage"]),
        first_stage=stage.autoencoder.state_dict(),
        latent_mean=stage.latent_mean,
        latent_std=stage.latent_std,
        text_config=backbone.config.to_dict(),
        text=backbone.state_dict(),
        tokenizer=encoder.tokenizer,
        schedule=schedule_of(own["process"]),
        scheduler=scheduler,
        scheduler_options=options,
        resolution=module.resolution,
    )


def require(key: str, node: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuses options of a part that the format cannot say.

    Raises:
        ConfigError: one of them is not as in ``values``.
    """
    for name, value in values.items():
        if node.get(name, value) != value:
            raise not_exported(f"{key}.{name}={node[name]}", f"{name}={value}")


def not_exported(found: str, wanted: str) -> ConfigError:
    """The error for a run that diffusers' pipeline cannot be."""
    return ConfigError(
        f"{found} has no place in diffusers' StableDiffusionPipeline, which needs {wanted}; "
        "format=safetensors takes any run."
    )


def first_stage_layout(part: Mapping[str, Any]) -> FirstStageLayout:
    """The layout of a first stage, from the configuration that it was built with.

    Raises:
        ConfigError: its middle has no attention.
    """
    own = part["module"]["autoencoder"]
    require("parts.first_stage.module.autoencoder", own, {"middle_attention": True})
    return FirstStageLayout(
        latent_channels=own["latent_channels"],
        channels=tuple(own["channels"]),
        blocks=own["blocks"],
        attention_levels=tuple(own["attention_levels"]),
        groups=own["groups"],
    )


def schedule_of(process: Mapping[str, Any]) -> Schedule:
    """The noise schedule in diffusers' words.

    Raises:
        ConfigError: it has none for it.
    """
    if process["schedule"] not in ("scaled_linear", "linear"):
        raise not_exported(
            f"model.module.process.schedule={process['schedule']}", "scaled_linear or linear"
        )
    first, last = process["betas"]
    return Schedule(
        name=process["schedule"],
        beta_start=first,
        beta_end=last,
        timesteps=process["timesteps"],
        prediction_type=process["prediction_type"],
    )


def scheduler_of(process: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The class of diffusers that takes the same steps, and its options.

    Only those are named that give the same images of the same latents.

    Raises:
        ConfigError: none does.
    """
    solver, spacing = process["solver"], process["spacing"]
    to_image = process.get("last_level", "image") == "image"
    steps = {
        "timestep_spacing": SPACINGS.get(spacing),
        "steps_offset": process.get("timestep_offset", 0),
    }
    last = {"set_alpha_to_one": to_image}
    match solver, spacing:
        case (("ddim" | "euler"), ("uniform" | "trailing")):
            return "DDIMScheduler", steps | last | {"clip_sample": False}
        case "plms", "uniform":
            return "PNDMScheduler", steps | last | {"skip_prk_steps": True}
        case "dpm_solver_pp", "trailing":
            return "DPMSolverMultistepScheduler", steps | {
                "algorithm_type": "dpmsolver++",
                "solver_order": 2,
                "solver_type": "midpoint",
                "lower_order_final": True,
                "final_sigmas_type": "zero" if to_image else "sigma_min",
            }
    raise not_exported(
        f"model.module.process.solver={solver} with spacing={spacing}",
        "ddim or euler (uniform or trailing), plms (uniform) or dpm_solver_pp (trailing)",
    )
