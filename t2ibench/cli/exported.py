"""What `t2ibench export` writes of a run: diffusers' parts, or the run without its history."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2ibench.autoencoders.published import PublishedKL
from t2ibench.cli.build import first_stage_plan
from t2ibench.cli.pipeline import TEXT_ENCODER, Trained
from t2ibench.core.errors import ConfigError
from t2ibench.core.files import read_json
from t2ibench.core.types import Score
from t2ibench.evaluation.cost import count_parameters
from t2ibench.evaluation.results import RunScores
from t2ibench.families.diffusion.module import Diffusion
from t2ibench.families.diffusion.unet import PublishedUNet
from t2ibench.interop.card import CardFacts, card
from t2ibench.interop.diffusers_writer import ExportedModel
from t2ibench.interop.layouts import FirstStageLayout, unet_from_own_names
from t2ibench.interop.published import Schedule
from t2ibench.text.clip import CLIPTextEncoder

KEPT = (
    "config.yaml",
    "vocabulary.json",
    "manifest.json",
    "status.json",
    "scores.json",
    "checkpoints/model.safetensors",
    TEXT_ENCODER,
    "clip",
)
"""Of a run's folder: what sampling needs, where it came from and what it scored."""

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
"""Switches of ``PublishedUNet`` that Stable Diffusion v1 has so."""

PROCESS = {"shift": 1.0, "zero_terminal_snr": False, "clip_sample": False, "threshold": 0.0}
"""Options of ``DiffusionProcess`` that diffusers' pipeline has so."""

TEXT = {"tokens": "last", "pooled": "hidden", "padding": "max_length"}
"""How diffusers' pipeline encodes prompts."""

SPACINGS = {"uniform": "leading", "trailing": "trailing"}
"""Ours -> diffusers'."""


def diffusers_model(trained: Trained) -> ExportedModel:
    """The parts of a run in Stable Diffusion v1's layout.

    Raises:
        ConfigError: the run has another network, first stage, text encoder, process or solver.
    """
    module = trained.module
    if not isinstance(module, Diffusion) or not isinstance(module.network, PublishedUNet):
        raise not_exported(
            f"model={trained.cfg.model.name}", "a run of model=diffusion/stable_diffusion_v1"
        )
    stage, encoder = module.first_stage, module.text_encoder
    if stage is None or not isinstance(stage.autoencoder, PublishedKL):
        raise not_exported(f"model.first_stage={trained.cfg.model.first_stage}", "kl_f8 or kl_f4")
    if not isinstance(encoder, CLIPTextEncoder):
        raise not_exported(f"text={trained.cfg.text.name}", "text=clip_vit_l14")
    own = trained.cfg.model.module
    require("model.module.network", own.network, NETWORK)
    require("model.module.process", own.process, PROCESS)
    require("text.encoder", trained.cfg.text.encoder, TEXT)
    if not own.network.heads:
        raise not_exported("model.module.network.heads=0", "a number of heads")
    unet = module.network.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.items()}
    scheduler, options = scheduler_of(own.process)
    backbone: Any = encoder.backbone
    return ExportedModel(
        unet_layout=unet_from_own_names(shapes, own.network.heads, own.network.groups),
        unet=unet,
        first_stage_layout=first_stage_layout(trained),
        first_stage=stage.autoencoder.state_dict(),
        latent_mean=stage.latent_mean,
        latent_std=stage.latent_std,
        text_config=backbone.config.to_dict(),
        text=backbone.state_dict(),
        tokenizer=encoder.tokenizer,
        schedule=schedule_of(own.process),
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


def first_stage_layout(trained: Trained) -> FirstStageLayout:
    """From the configuration that it was built with.

    Raises:
        ConfigError: its middle has no attention.
    """
    plan = first_stage_plan(trained.cfg)
    assert plan is not None, "the run has a first stage"
    own = plan.config["module"]["autoencoder"]
    require(f"{plan.name}.module.autoencoder", own, {"middle_attention": True})
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


def export_safetensors(trained: Trained, folder: Path) -> None:
    """The run without its checkpoints of training and its samples; still a run."""
    for name in KEPT:
        source = trained.run.path / name
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, folder / name)
        elif source.exists():
            shutil.copyfile(source, folder / name)


def model_card(trained: Trained, kind: str) -> str:
    """README.md of an exported folder.

    Args:
        trained: the run.
        kind: ``diffusers`` or ``safetensors``.
    """
    module, cfg = trained.module, trained.cfg
    defaults = {knob.name: knob.default for knob in module.knobs}
    parts = module.parts()
    backbone = getattr(module.text_encoder, "backbone", None)
    if backbone is not None:
        # Frozen, so not among the module's own weights.
        parts |= {"text_encoder": backbone}
    counts = {name: count for name, count in count_parameters(parts).items() if count}
    model = {
        "model": f"`{cfg.model.name}` ({module.family})",
        "text encoder": f"`{cfg.text.name}`, conditioning by {cfg.conditioning}",
        "first stage": f"`{cfg.model.first_stage}`",
        "resolution": f"{module.resolution} px",
        "sampling": ", ".join(f"`{name}` {value:g}" for name, value in defaults.items()),
    }
    return card(
        CardFacts(
            name=trained.run.path.name,
            files=DIFFUSERS_FILES if kind == "diffusers" else RUN_FILES,
            use=(DIFFUSERS_USE if kind == "diffusers" else RUN_USE).format(**defaults),
            model=model,
            parameters=counts,
            training=training_facts(trained),
            scores=scores_of(trained),
        )
    )


def training_facts(trained: Trained) -> dict[str, Any]:
    """Where the weights came from and what they cost."""
    imported = read_json(trained.run.path / "manifest.json").get("imported")
    if imported is not None:
        hashes = imported["sha256"]
        files = hashes if isinstance(hashes, dict) else {imported["file"]: hashes}
        source = f"`{imported['file']}` ({imported['format']}), whose licence holds"
        return {"imported from": source} | {f"sha256 of `{n}`": f"`{h}`" for n, h in files.items()}
    clock = trained.clock
    return {
        "data": f"`{trained.cfg.data.name}`",
        "images seen": f"{clock.images_seen:,}",
        "counted FLOPs": f"{clock.flops + clock.parts_flops:.3g}, the first stage's included",
        "seed": trained.cfg.seed,
    }


def scores_of(trained: Trained) -> list[Score]:
    """At the run's operating point; none where it was not scored."""
    if not trained.run.scores.exists():
        return []
    return list(RunScores.read(trained.run.scores).chosen.scores.values())


DIFFUSERS_FILES = {
    "model_index.json": "the pipeline's parts",
    "unet/": "the denoiser",
    "vae/": "the first stage, with the latent scale",
    "text_encoder/, tokenizer/": "CLIP text",
    "scheduler/": "noise schedule and solver",
}

DIFFUSERS_USE = """
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("FOLDER")
pipe("a prompt", guidance_scale={guidance_scale:g}, num_inference_steps={num_steps:g})
"""

RUN_FILES = {
    "checkpoints/model.safetensors": "the weights that sample (averaged where training averaged)",
    "config.yaml": "the whole configuration",
    "vocabulary.json": "words of a word-level text encoder, or null",
    "manifest.json, status.json": "code, packages, data; what training spent",
}

RUN_USE = """
t2ibench sample FOLDER "a prompt" out=pictures
"""
