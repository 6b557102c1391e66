"""Folders as diffusers writes them, read: a folder a network, its config.json and its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from t2ibench.core.errors import CheckpointError
from t2ibench.core.files import read_json
from t2ibench.core.hashing import hash_file
from t2ibench.interop.files import read_tensors
from t2ibench.interop.layouts import first_stage_from_config, unet_from_config
from t2ibench.interop.published import Component, Published, Schedule, TextTower
from t2ibench.interop.tensor_names import POSITION_MAP, clip_parts, modern_name

FOLDERS = {
    "unet": ("unet",),
    "first_stage": ("vae", "vqvae"),
    "text": ("text_encoder", "bert"),
    "tokenizer": ("tokenizer",),
    "scheduler": ("scheduler",),
}
"""Folders of each part: Stable Diffusion's name, then LDM's."""

PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
"""Our name of each ``prediction_type`` of a scheduler."""


def read_folder(folder: str | Path, tokenizer: Path | None) -> Published:
    """A diffusers folder of Stable Diffusion v1's or LDM text-to-image's layout.

    Args:
        folder: with ``unet/``, ``vae/``, ``text_encoder/``, ``tokenizer/`` and ``scheduler/``.
        tokenizer: in place of its own.

    Raises:
        CheckpointError: a part is missing or damaged, or is of another layout.
    """
    folder = Path(folder)
    unet, first_stage, text = (part(folder, name) for name in ("unet", "first_stage", "text"))
    unet_config, stage_config = read_config(unet), read_config(first_stage)
    files = {path: weight_files(path) for path in (unet, first_stage, text)}
    stage_tensors = {modern_name(n): t for n, t in read_weights(files[first_stage]).items()}
    return Published(
        source=folder,
        unet_layout=unet_from_config(unet_config, str(unet / "config.json")),
        unet=Component.of("unet.", read_weights(files[unet]), None),
        first_stage_layout=first_stage_from_config(stage_config, str(first_stage / "config.json")),
        first_stage=Component.of(f"{first_stage.name}.", stage_tensors, None),
        text=read_text(text, files[text], tokenizer or part(folder, "tokenizer")),
        latent_scale=float(stage_config.get("scaling_factor", 0.18215)),
        schedule=read_schedule(part(folder, "scheduler") / "scheduler_config.json"),
        facts={
            "format": "diffusers",
            "file": folder.name,
            "sample_size": unet_config.get("sample_size"),
            "sha256": {
                str(file.relative_to(folder)): hash_file(file)
                for component in files.values()
                for file in component
            },
        },
    )


def part(folder: Path, name: str) -> Path:
    """The folder of one part.

    Raises:
        CheckpointError: there is none.
    """
    for candidate in FOLDERS[name]:
        if (folder / candidate).is_dir():
            return folder / candidate
    raise CheckpointError(
        f"{folder} has no {' or '.join(f'{c}/' for c in FOLDERS[name])}; give a whole diffusers "
        "folder of a text-to-image pipeline, with unet/, vae/, text_encoder/, tokenizer/ and "
        "scheduler/."
    )


def read_config(folder: Path) -> dict[str, Any]:
    """A network's config.json.

    Raises:
        CheckpointError: it is missing or not JSON.
    """
    return read_json_file(folder / "config.json")


def read_json_file(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: the file is missing or not JSON.
    """
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is missing or not JSON; download the folder again."
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """A network's weights: one file or its shards; safetensors before pickles, whole before half.

    Raises:
        CheckpointError: there are none.
    """
    names = ("diffusion_pytorch_model", "model", "pytorch_model")
    for kind in ("safetensors", "fp16.safetensors", "bin", "fp16.bin"):
        for name in names:
            if (folder / f"{name}.{kind}").is_file():
                return [folder / f"{name}.{kind}"]
            if shards := sorted(folder.glob(f"{name}-*-of-*.{kind}")):
                return shards
    raise CheckpointError(
        f"{folder} has no weights (diffusion_pytorch_model.safetensors or model.safetensors); "
        "download the folder again."
    )


def read_weights(files: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of one file or of all shards."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= read_tensors(file)
    return tensors


def read_text(folder: Path, files: Sequence[Path], tokenizer: Path) -> TextTower:
    """CLIP's text tower, or LDM's own transformer (``LDMBertModel``).

    Raises:
        CheckpointError: it is another network.
    """
    config, tensors = read_config(folder), read_weights(files)
    prefix = f"{folder.name}."
    kind = config.get("model_type")
    if kind == "ldmbert":
        tensors = {n: t for n, t in tensors.items() if not n.startswith("to_logits.")}
        layout = {
            "width": config["d_model"],
            "max_length": config["max_position_embeddings"],
            "depth": config["encoder_layers"],
            "heads": config["encoder_attention_heads"],
            "head_width": config["head_dim"],
        }
        return TextTower("ldm_bert", layout, Component.of(prefix, tensors, None), tokenizer)
    if kind != "clip_text_model":
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type={kind} is neither clip_text_model nor ldmbert; "
            "only their text encoders are imported."
        )
    tensors = {n: t for n, t in tensors.items() if not n.endswith(POSITION_MAP)}
    # transformers 4 wrote text_model. before every name, transformers 5 does not.
    parts = clip_parts(tensors) if any(n.startswith("text_model.") for n in tensors) else None
    return TextTower("clip", config, Component.of(prefix, tensors, parts), tokenizer)


def read_schedule(path: Path) -> Schedule:
    """The noise schedule of a scheduler's configuration, whichever solver it names.

    Raises:
        CheckpointError: it is another schedule or prediction.
    """
    config = read_json_file(path)
    name, prediction = config.get("beta_schedule"), config.get("prediction_type", "epsilon")
    if name not in ("scaled_linear", "linear") or config.get("trained_betas") is not None:
        raise CheckpointError(
            f"{path}: the noise schedule {name} (or trained_betas) is not imported; it must be "
            "scaled_linear or linear."
        )
    if prediction not in PREDICTIONS:
        raise CheckpointError(
            f"{path}: prediction_type={prediction} is unknown; it must be one of "
            f"{', '.join(PREDICTIONS)}."
        )
    return Schedule(
        name=name,
        beta_start=float(config["beta_start"]),
        beta_end=float(config["beta_end"]),
        timesteps=int(config["num_train_timesteps"]),
        prediction_type=PREDICTIONS[prediction],
    )


def scheduler_config(schedule: Schedule) -> Mapping[str, Any]:
    """The schedule's part of a scheduler's configuration: the inverse of ``read_schedule``."""
    published = {ours: name for name, ours in PREDICTIONS.items()}
    return {
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": schedule.name,
        "num_train_timesteps": schedule.timesteps,
        "prediction_type": published[schedule.prediction_type],
    }
