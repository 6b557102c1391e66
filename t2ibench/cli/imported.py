"""A published model as a run: its configuration, its folder, its weights under our names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from t2ibench.cli.build import build_module, build_source, build_text_encoder, create
from t2ibench.cli.compose import compose_config, identifying, resolve_conditioning, to_yaml
from t2ibench.cli.pipeline import carry_text_encoder, skeleton_stage
from t2ibench.core.files import atomic_path, write_json
from t2ibench.core.hashing import hash_json
from t2ibench.families.contract import TextToImageModule
from t2ibench.interop.published import Published, TextTower
from t2ibench.interop.text_folder import save_tensors, text_network, text_width, write_text_folder
from t2ibench.runs.clock import Clock
from t2ibench.runs.folder import Run

MODEL = "diffusion/stable_diffusion_v1"
RESOLUTIONS = {"clip": 512, "ldm_bert": 256}
"""What the published models were trained at, by their text encoder."""


def import_run(published: Published, overrides: Sequence[str], folder: Path) -> int:
    """Fills ``folder`` with the run of a published model.

    Args:
        published: from a file or a folder.
        overrides: the user's own, of any configuration key.
        folder: empty.

    Returns:
        How many weights there are, the text encoder's included.

    Raises:
        CheckpointError: a tensor is missing, surplus or of another shape.
        ConfigError: an override that does not fit.
    """
    cfg = compose_config([*model_overrides(published), *overrides])
    resolve_conditioning(cfg)
    source = build_source(cfg)
    own = own_tensors(published, cfg, source.resolution)
    published.check(own)
    identity = hash_json({"imported": published.facts, "config": identifying(cfg)}, length=16)
    # The text encoder lies in the run; its folder is found when the run is opened.
    config_yaml = to_yaml(cfg)
    run = Run(folder, identity)
    write_text_folder(published.text, carry_text_encoder(run, cfg))
    encoder = build_text_encoder(cfg, None)
    with torch.device("meta"):
        module = build_module(cfg, encoder, skeleton_stage(cfg, source.resolution))
    save_tensors(run_weights(published, module), run.weights)
    write_json(folder / "vocabulary.json", None)
    with atomic_path(folder / "config.yaml") as aside:
        aside.write_text(config_yaml, encoding="utf-8")
    run.write_manifest(
        imported=published.facts,
        data=source.fingerprint,
        text_encoder=encoder.fingerprint,
        seed=cfg.seed,
    )
    run.set_status("trained", clock=Clock().state_dict())
    return sum(tensor.numel() for part in own.values() for tensor in part.values())


def model_overrides(published: Published) -> list[str]:
    """The configuration of a published layout, as Hydra overrides."""
    unet, stage = published.unet_layout, published.first_stage_layout
    factor = 2 ** (len(stage.channels) - 1)
    size = published.facts.get("sample_size")
    resolution = size * factor if size else RESOLUTIONS[published.text.kind]
    network = {
        "channels": list(unet.channels),
        "blocks_per_level": unet.blocks,
        "attention_levels": list(unet.attention_levels),
        "heads": unet.heads,
        "groups": unet.groups,
        "depth": unet.depth,
        "extra_channels": unet.in_channels - unet.out_channels,
    }
    autoencoder = {
        "latent_channels": stage.latent_channels,
        "channels": list(stage.channels),
        "blocks": stage.blocks,
        "attention_levels": list(stage.attention_levels),
        "groups": stage.groups,
    }
    schedule = published.schedule
    process = {
        "schedule": schedule.name,
        "timesteps": schedule.timesteps,
        "prediction_type": schedule.prediction_type,
        "betas": [schedule.beta_start, schedule.beta_end],
    }
    return [
        f"model={MODEL}",
        "size=paper",
        f"data.resolution={resolution}",
        "model.first_stage=kl_f8",
        f"first_stage.override.spatial_factor={factor}",
        *assign("first_stage.override.module.autoencoder", autoencoder),
        *assign("model.module.network", network),
        *assign("model.module.process", process),
        *text_overrides(published.text),
    ]


def text_overrides(text: TextTower) -> list[str]:
    """The text encoder's configuration."""
    if text.kind == "clip":
        return ["text=clip_vit_l14", "text.encoder.padding=max_length"]
    return ["text=ldm_bert", *assign("text.encoder", text.config)]


def assign(key: str, values: Mapping[str, Any]) -> list[str]:
    """``key.name=value`` for every value."""
    return [f"{key}.{name}={str(value).replace(' ', '')}" for name, value in values.items()]


def own_tensors(
    published: Published, cfg: DictConfig, resolution: int
) -> dict[str, dict[str, Tensor]]:
    """Our networks' tensors by component and name, on no device: for ``Published.check``.

    Raises:
        ConfigError: the layout cannot be built.
        MissingWeightsError: LDM's word pieces are not in the tokeniser's folder.
    """
    with torch.device("meta"):
        text = text_network(published.text)
        network = create(cfg.model.module.network)(
            latent_channels=published.first_stage_layout.latent_channels,
            text_width=text_width(published.text),
        )
        stage = skeleton_stage(cfg, resolution)
    assert stage is not None, "the model has a first stage"
    return {
        "unet": network.state_dict(),
        "first_stage": stage.autoencoder.state_dict(),
        "text": text.state_dict(),
    }


def run_weights(published: Published, module: TextToImageModule) -> dict[str, Tensor]:
    """The module's state dict, filled with the published tensors."""
    weights = {f"network.{name}": tensor for name, tensor in published.unet.tensors.items()}
    for name, tensor in published.first_stage.tensors.items():
        weights[f"first_stage.autoencoder.{name}"] = tensor
    channels = published.first_stage_layout.latent_channels
    weights["first_stage.latent_mean"] = torch.zeros(channels)
    weights["first_stage.latent_std"] = torch.full((channels,), 1 / published.latent_scale)
    if module.text_encoder.trainable:
        for name, tensor in published.text.weights.tensors.items():
            weights[f"text_encoder.{name}"] = tensor
    own = set(module.state_dict())
    assert own == set(weights), sorted(own ^ set(weights))[:3]
    return weights
