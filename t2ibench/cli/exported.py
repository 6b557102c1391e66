"""A trained run as others load it: a diffusers folder, or safetensors, each with a card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from t2ibench.autoencoders.published import PublishedKL
from t2ibench.cli.build import first_stage_plan
from t2ibench.cli.pipeline import TEXT_ENCODER, Trained
from t2ibench.core.errors import ConfigError
from t2ibench.core.files import read_json
from t2ibench.evaluation.cost import count_parameters
from t2ibench.evaluation.results import RunScores
from t2ibench.families.diffusion.process import DiffusionProcess
from t2ibench.families.diffusion.unet import PublishedUNet
from t2ibench.interop.card import CardFacts, card
from t2ibench.interop.diffusers_writer import ExportedModel
from t2ibench.interop.layouts import FirstStageLayout, unet_from_own_names
from t2ibench.interop.published import Schedule
from t2ibench.text.clip import CLIPTextEncoder

SPACINGS = {"uniform": "leading", "trailing": "trailing", "linspace": "linspace"}
"""Our spacing of steps -> diffusers'."""


def diffusers_model(trained: Trained) -> ExportedModel:
    """The parts of a run that a ``StableDiffusionPipeline`` has.

    Raises:
        ConfigError: a part of the run has another layout.
    """
    module: Any = trained.module
    wanted: dict[str, tuple[Any, type]] = {
        "network (model=diffusion/stable_diffusion_v1)": (
            getattr(module, "network", None),
            PublishedUNet,
        ),
        "first stage (model.first_stage=kl_f4, kl_f8 …)": (
            getattr(getattr(module, "first_stage", None), "autoencoder", None),
            PublishedKL,
        ),
        "text encoder (text=clip_vit_l14)": (module.text_encoder, CLIPTextEncoder),
    }
    for name, (part, kind) in wanted.items():
        if not isinstance(part, kind):
            raise ConfigError(
                f"{trained.run.path} has a {type(part).__name__} where diffusers' pipeline has its "
                f"{name}; format=safetensors takes any run."
            )
    network, stage, backbone = module.network, module.first_stage, module.text_encoder.backbone
    if network.conditioning != "cross_attention":
        raise ConfigError(
            f"{trained.run.path} has conditioning={network.conditioning}, and diffusers' pipeline "
            "cross_attention; format=safetensors takes any run."
        )
    settings: Any = OmegaConf.to_container(trained.cfg.model.module, resolve=True)
    unet = network.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.items()}
    options = trained_stage(trained)
    name, told = scheduler_of(module.process, settings["process"])
    return ExportedModel(
        unet_layout=unet_from_own_names(
            shapes, settings["network"]["heads"], settings["network"]["groups"]
        ),
        unet=unet,
        first_stage_layout=FirstStageLayout(
            latent_channels=options["latent_channels"],
            channels=tuple(options["channels"]),
            blocks=options["blocks"],
            attention_levels=tuple(options["attention_levels"]),
            groups=options["groups"],
        ),
        first_stage=stage.autoencoder.state_dict(),
        latent_mean=stage.latent_mean,
        latent_std=stage.latent_std,
        text_config=backbone.config.to_dict(),
        text=backbone.state_dict(),
        tokenizer=module.text_encoder.tokenizer,
        schedule=schedule_of(settings["process"]),
        scheduler=name,
        scheduler_options=told,
        resolution=module.resolution,
    )


def trained_stage(trained: Trained) -> dict[str, Any]:
    """The autoencoder's configuration."""
    plan = first_stage_plan(trained.cfg)
    assert plan is not None, "it has a first stage"
    settings: dict[str, Any] = plan.config["module"]["autoencoder"]
    return settings


def schedule_of(process: dict[str, Any]) -> Schedule:
    """The noise schedule.

    Raises:
        ConfigError: diffusers' scheduler has no such schedule or target.
    """
    known = process["schedule"] in ("linear", "scaled_linear") and process.get("shift", 1.0) == 1.0
    if not known or process.get("zero_terminal_snr"):
        raise ConfigError(
            f"schedule={process['schedule']} (shifted or with zero terminal SNR, too) is not "
            "written for diffusers, which would sample with another; linear and scaled_linear are."
        )
    low, high = process["betas"]
    return Schedule(
        process["schedule"], low, high, process["timesteps"], process["prediction_type"]
    )


def scheduler_of(process: DiffusionProcess, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The class of diffusers that takes the run's own steps, and what it is told.

    Raises:
        ConfigError: there is none.
    """
    solver, spacing = settings["solver"], process.spacing
    to_image = process.last_level == "image"
    if spacing not in SPACINGS or (solver == "dpm_solver_pp" and not to_image):
        raise ConfigError(
            f"solver={solver} with spacing={spacing} has no counterpart in diffusers that takes "
            "the same steps; give the run other defaults, or format=safetensors."
        )
    told: dict[str, Any] = {
        "timestep_spacing": SPACINGS[spacing],
        "steps_offset": process.timestep_offset,
    }
    if solver in ("ddim", "euler"):
        clip = {"clip_sample": process.clip, "set_alpha_to_one": to_image}
        return "DDIMScheduler", told | clip
    if solver == "dpm_solver_pp":
        return "DPMSolverMultistepScheduler", told | {
            "algorithm_type": "dpmsolver++",
            "solver_order": 2,
            "lower_order_final": True,
            "final_sigmas_type": "zero",
        }
    raise ConfigError(
        f"solver={solver} is not written for diffusers; ddim and dpm_solver_pp are: "
        "format=safetensors takes any run."
    )


def export_safetensors(trained: Trained, folder: Path) -> None:
    """The sampling weights, the configuration, and the text encoder where the run carries it."""
    shutil.copyfile(trained.run.weights, folder / "model.safetensors")
    shutil.copyfile(trained.run.path / "config.yaml", folder / "config.yaml")
    shutil.copyfile(trained.run.path / "vocabulary.json", folder / "vocabulary.json")
    carried = trained.run.path / TEXT_ENCODER
    if carried.is_dir():
        shutil.copytree(carried, folder / TEXT_ENCODER)


def model_card(trained: Trained, kind: str) -> str:
    """README.md of an export: what the run's own files say, nothing estimated."""
    run, cfg, module = trained.run, trained.cfg, trained.module
    manifest = read_json(run.path / "manifest.json")
    if kind == "diffusers":
        files = {
            "unet/": "the denoiser",
            "vae/": "the first stage, latent statistics folded in",
            "text_encoder/, tokenizer/": "CLIP's text tower",
            "scheduler/": "the noise schedule and the run's default solver",
        }
        use = (
            "from diffusers import StableDiffusionPipeline\n"
            'pipeline = StableDiffusionPipeline.from_pretrained("FOLDER")'
        )
    else:
        files = {
            "model.safetensors": "sampling weights",
            "config.yaml": "the run's whole configuration",
            "vocabulary.json": "words of a word-level text encoder, or null",
        }
        use = "from safetensors.torch import load_file\nweights = load_file('model.safetensors')"
    training: dict[str, Any] = {"data": manifest.get("data"), "seed": manifest.get("seed")}
    if "imported" in manifest:
        training["imported from"] = manifest["imported"]["file"]
    else:
        training |= {
            "images seen": f"{trained.clock.images_seen:,}",
            "FLOPs": f"{trained.clock.flops:.3e}",
            "FLOPs of what it stands on": f"{trained.clock.first_stage_flops:.3e}",
        }
    scores = run.path / "scores.json"
    facts = CardFacts(
        name=run.path.name,
        files=files,
        use=use,
        model={
            "family": module.family,
            "model": cfg.model.name,
            "text encoder": cfg.text.name,
            "conditioning": cfg.conditioning,
            "resolution": f"{module.resolution} px",
        },
        parameters=count_parameters(module.parts()),
        training=training,
        scores=tuple(RunScores.read(scores).chosen.scores.values()) if scores.exists() else (),
    )
    return card(facts)
