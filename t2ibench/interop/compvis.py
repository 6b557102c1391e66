"""Single files as CompVis wrote them: UNet, first stage and text encoder in one state dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2ibench.core.errors import CheckpointError
from t2ibench.core.hashing import hash_file
from t2ibench.interop.files import read_tensors
from t2ibench.interop.layouts import (
    STABLE_DIFFUSION_HEADS,
    clip_config_from_shapes,
    first_stage_from_shapes,
    number,
    shape,
    unet_from_shapes,
)
from t2ibench.interop.published import Component, Published, Schedule, TextTower
from t2ibench.interop.tensor_names import (
    POSITION_MAP,
    averaged,
    clip_parts,
    first_stage_parts,
    ldm_bert_parts,
    unet_parts,
)

UNET = "model.diffusion_model."
AVERAGES = "model_ema."
FIRST_STAGE = "first_stage_model."
TEXT = "cond_stage_model.transformer."
OTHER_VERSIONS = {
    "cond_stage_model.model.": "Stable Diffusion v2 (an open_clip text encoder)",
    "conditioner.embedders.": "Stable Diffusion XL (two text encoders)",
}

SCHEDULE_BUFFERS = frozenset(
    [
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "scale_factor",
        "logvar",
    ]
)
"""Tensors beside the networks: the schedule's, the latent scale, a loss's constant."""

LATENT_SCALE = 0.18215
"""Latent scale of the kl-f8 text-to-image models (released configurations); few files hold it."""


def read_single_file(path: str | Path, tokenizer: Path | None, use_ema: bool) -> Published:
    """A CompVis checkpoint, ``.ckpt`` or ``.safetensors``.

    Args:
        path: the file.
        tokenizer: of the text encoder; single files have none. None is CLIP's own vocabulary.
        use_ema: where the file has both, take the running average (``model_ema.``), not the
            weights that training went on with.

    Raises:
        CheckpointError: the file cannot be read, a network is missing, or it is another version.
    """
    path = Path(path)
    tensors = read_tensors(path)
    source = str(path)
    refuse_other_versions(tensors, source)
    unet = under(tensors, UNET, "UNet", source)
    has_average = any(name.startswith(AVERAGES) for name in tensors)
    if use_ema and has_average:
        averages = {n.removeprefix(AVERAGES): t for n, t in tensors.items() if AVERAGES in n}
        unet = averaged(unet, averages, "diffusion_model.")
    first_stage = under(tensors, FIRST_STAGE, "first stage", source)
    first_stage = {n: t for n, t in first_stage.items() if not n.startswith("loss.")}
    unet_layout = unet_from_shapes(shapes_of(unet), source)
    first_stage_layout = first_stage_from_shapes(shapes_of(first_stage), source)
    scale = tensors.get("scale_factor")
    networks = (UNET, AVERAGES, FIRST_STAGE, TEXT)
    return Published(
        source=path,
        unet_layout=unet_layout,
        unet=Component.of(UNET, unet, unet_parts(unet_layout.levels)),
        first_stage_layout=first_stage_layout,
        first_stage=Component.of(
            FIRST_STAGE, first_stage, first_stage_parts(first_stage_layout.levels)
        ),
        text=text_tower(under(tensors, TEXT, "text encoder", source), tokenizer, source),
        latent_scale=LATENT_SCALE if scale is None else round(float(scale), 6),
        schedule=read_schedule(tensors.get("betas"), source),
        facts={
            "format": "CompVis",
            "file": path.name,
            "sha256": hash_file(path),
            "weights": "running average" if use_ema and has_average else "as trained",
        },
        surplus={
            name: tuple(tensor.shape)
            for name, tensor in tensors.items()
            if not name.startswith(networks) and name not in SCHEDULE_BUFFERS
        },
    )


def refuse_other_versions(names: Iterable[str], source: str) -> None:
    """Refuses later versions, which have other text encoders under names of their own.

    Raises:
        CheckpointError: it is one of them.
    """
    for name in names:
        for prefix, version in OTHER_VERSIONS.items():
            if name.startswith(prefix):
                raise CheckpointError(
                    f"{source} is a checkpoint of {version}; only Stable Diffusion v1 and LDM "
                    "text-to-image checkpoints are imported: give one of them."
                )


def under(
    tensors: Mapping[str, Tensor], prefix: str, network: str, source: str
) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, named without it.

    Raises:
        CheckpointError: there are none.
    """
    inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    if not inside:
        raise CheckpointError(
            f"{source} has no {network}: none of its {len(tensors)} tensors begins with {prefix}; "
            "give a whole checkpoint, not a part or an adapter."
        )
    return inside


def text_tower(tensors: Mapping[str, Tensor], tokenizer: Path | None, source: str) -> TextTower:
    """CLIP's text tower or LDM's own transformer.

    Raises:
        CheckpointError: a tensor that the layout is read from is missing, or LDM's transformer
            has no tokeniser.
    """
    if "token_emb.weight" in tensors:
        return ldm_bert(tensors, tokenizer, source)
    tensors = {n: t for n, t in tensors.items() if not n.endswith(POSITION_MAP)}
    parts = clip_parts(tensors)
    weights = Component.of(TEXT, tensors, parts)
    config = clip_config_from_shapes(shapes_of(weights.tensors), source)
    return TextTower("clip", config, weights, tokenizer)


def ldm_bert(tensors: Mapping[str, Tensor], tokenizer: Path | None, source: str) -> TextTower:
    """LDM's text transformer; ``to_logits``, a head that text-to-image does not use, is dropped.

    Raises:
        CheckpointError: there is no tokeniser, or a tensor is missing.
    """
    if tokenizer is None:
        raise CheckpointError(
            f"{source} has LDM's text transformer, which reads BERT's word pieces; give them with "
            "tokenizer=vocab.txt (`hf download bert-base-uncased vocab.txt`)."
        )
    tensors = {n: t for n, t in tensors.items() if not n.startswith("to_logits.")}
    shapes = shapes_of(tensors)
    layers = [number(name, 2) for name in tensors if name.startswith("attn_layers.layers.")]
    depth = (max(layers, default=-1) + 1) // 2
    inner = shape(shapes, "attn_layers.layers.0.1.to_q.weight", source)[0]
    config = {
        "width": shape(shapes, "token_emb.weight", source)[1],
        "max_length": shape(shapes, "pos_emb.emb.weight", source)[0],
        "depth": depth,
        "heads": STABLE_DIFFUSION_HEADS,
        "head_width": inner // STABLE_DIFFUSION_HEADS,
    }
    weights = Component.of(TEXT, tensors, ldm_bert_parts(depth))
    return TextTower("ldm_bert", config, weights, tokenizer)


def read_schedule(betas: Tensor | None, source: str) -> Schedule:
    """The schedule of the file's own betas; that of the published text models where it has none.

    Raises:
        CheckpointError: the betas are neither linear nor linear in their square roots.
    """
    if betas is None:
        return Schedule("scaled_linear", 0.00085, 0.012, 1000, "epsilon")
    betas = betas.double()
    start, end = (float(f"{float(beta):.5g}") for beta in (betas[0], betas[-1]))
    shapes = {
        "scaled_linear": torch.linspace(start**0.5, end**0.5, len(betas)).square(),
        "linear": torch.linspace(start, end, len(betas)),
    }
    for name, values in shapes.items():
        if torch.allclose(betas, values.double(), rtol=1e-3):
            return Schedule(name, start, end, len(betas), "epsilon")
    raise CheckpointError(
        f"{source}: its {len(betas)} betas are neither linear nor linear in their square roots; "
        "such a schedule is not imported."
    )


def shapes_of(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
