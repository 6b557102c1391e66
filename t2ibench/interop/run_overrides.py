"""The configuration of a published model, as words of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t2ibench.interop.published import Published, TextTower

MODEL = "diffusion/stable_diffusion_v1"
RESOLUTIONS = {"clip": 512, "ldm_bert": 256}
"""Training resolution in pixels of the published models, by their text encoder."""


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
        "autoencoder=kl_f8",
        f"parts.first_stage.spatial_factor={factor}",
        *assign("parts.first_stage.module.autoencoder", autoencoder),
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
