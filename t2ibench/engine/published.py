"""Import of a published model: a run folder with its configuration and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2ibench.core.files import write_json
from t2ibench.core.hashing import hash_json
from t2ibench.engine.assemble import assemble, content_of, folder_of_part
from t2ibench.engine.build import instantiate
from t2ibench.engine.context import Context
from t2ibench.engine.parts.text import CARRIED, VOCABULARY
from t2ibench.engine.spec import Trained
from t2ibench.families.contract import TextToImageModule
from t2ibench.interop.published import Published
from t2ibench.interop.text_folder import save_tensors, text_network, text_width, write_text_folder
from t2ibench.runs.clock import Clock
from t2ibench.runs.folder import Run, write_config


def import_run(published: Published, context: Context, folder: Path) -> int:
    """Fills ``folder`` with the run of a published model.

    Args:
        published: model that was read from a file or a folder.
        context: context of a specification in its layout (``interop.run_overrides``).
        folder: an empty folder.

    Returns:
        Number of weights, including the text encoder's.

    Raises:
        CheckpointError: a tensor is missing, surplus or of another shape.
        ConfigError: the specification does not fit the model.
    """
    spec = context.spec
    own = own_tensors(published, context)
    published.check(own)
    trained = {"imported": published.facts, "config": spec.values(Trained)}
    run = Run(folder, hash_json(trained, length=16))
    # The text encoder lies in the run; its folder is found when the run is opened.
    write_text_folder(published.text, folder_of_part(run, CARRIED))
    write_json(folder / VOCABULARY, None)
    context.modules["text_encoder"] = spec.text.restore(context, run)
    with torch.device("meta"):
        context.modules["first_stage"] = spec.parts["first_stage"].restore(context, run)
        module = assemble(context, context.modules)
    save_tensors(run_weights(published, module), run.weights, own=True)
    write_config(folder / "config.yaml", spec.config())
    encoder: Any = context.modules["text_encoder"]
    run.write_manifest(
        imported=published.facts,
        content=content_of(spec, {"text_encoder": encoder}),
        seed=spec.seed,
    )
    run.set_status("trained", clock=Clock().state_dict())
    return sum(tensor.numel() for part in own.values() for tensor in part.values())


def own_tensors(published: Published, context: Context) -> dict[str, dict[str, Tensor]]:
    """Our networks' tensors by component and name, without storage: for ``Published.check``.

    Raises:
        ConfigError: the layout cannot be built.
        MissingWeightsError: LDM's word pieces are not in the tokeniser's folder.
    """
    spec = context.spec
    with torch.device("meta"):
        text = text_network(published.text)
        network = instantiate(spec.model.module.arguments["network"])(
            latent_channels=published.first_stage_layout.latent_channels,
            text_width=text_width(published.text),
        )
        stage: Any = spec.parts["first_stage"].restore(context, None)
    return {
        "unet": network.state_dict(),
        "first_stage": stage.autoencoder.state_dict(),
        "text": text.state_dict(),
    }


def run_weights(published: Published, module: TextToImageModule) -> dict[str, Tensor]:
    """State dict of the module, filled with the published tensors."""
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
