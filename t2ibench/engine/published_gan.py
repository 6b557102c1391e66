"""Import of a published GAN: a run folder with its configuration, its generator and its DAMSM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2ibench.core.errors import ConfigError
from t2ibench.core.files import write_json
from t2ibench.core.hashing import hash_json
from t2ibench.engine.assemble import assemble, content_of, folder_of_part
from t2ibench.engine.build import instantiate
from t2ibench.engine.context import Context
from t2ibench.engine.parts.damsm import KEPT, save_damsm
from t2ibench.engine.parts.text import VOCABULARY
from t2ibench.engine.spec import Trained
from t2ibench.interop.gan_files import PublishedGAN
from t2ibench.interop.gan_overrides import GENERATOR
from t2ibench.interop.text_folder import save_tensors
from t2ibench.runs.clock import Clock
from t2ibench.runs.folder import Run, write_config


def import_gan(published: PublishedGAN, context: Context, folder: Path) -> int:
    """Fills ``folder`` with the run of a published generator, which samples and is scored.

    Args:
        published: generator and encoders that were read from files.
        context: context of a specification in their layout (``interop.gan_overrides``).
        folder: an empty folder.

    Returns:
        Number of weights, including the encoders'.

    Raises:
        CheckpointError: a tensor is missing, surplus or of another shape.
        ConfigError: the specification does not fit the generator, or the text encoder does not.
    """
    spec = context.spec
    run = Run(folder, hash_json({"imported": published.facts, "config": spec.values(Trained)}, 16))
    count = keep_damsm(published, context, run) if published.text is not None else 0
    for name, part in spec.parts.items():
        context.modules[name] = part.restore(context, run)
    encoder: Any = spec.text.restore(context, None)
    context.modules["text_encoder"] = encoder
    check_text(published, context, encoder)
    with torch.device("meta"):
        module: Any = assemble(context, context.modules)
    tensors = published.generator.renamed(module.generator.state_dict())
    save_tensors({GENERATOR + name: t for name, t in tensors.items()}, run.weights, own=True)
    write_json(folder / VOCABULARY, None)
    write_config(folder / "config.yaml", spec.config())
    run.write_manifest(
        imported=published.facts, content=content_of(spec, context.modules), seed=spec.seed
    )
    run.set_status("trained", clock=Clock().state_dict())
    return count + parameters(tensors)


def check_text(published: PublishedGAN, context: Context, encoder: Any) -> None:
    """Refuses a text encoder that the generator was not made for.

    Raises:
        ConfigError: its vectors are of another width, or it has no weights of its own.
    """
    name, wanted = context.spec.text.name, published.layout.text_width
    if encoder.trainable:
        raise ConfigError(
            f"text={name} is trained with a generator, and {published.generator.path} was trained "
            f"with another; give text= of an encoder with weights, whose vectors are {wanted} wide."
        )
    if encoder.width != wanted:
        raise ConfigError(
            f"text={name} gives vectors of width {encoder.width} and {published.generator.path} "
            f"reads {wanted}; give the text encoder that it was trained with."
        )


def keep_damsm(published: PublishedGAN, context: Context, run: Run) -> int:
    """Writes the DAMSM's files into the run; returns the number of its weights."""
    part: Any = context.spec.parts["damsm"]
    words = list(published.vocabulary)
    with torch.device("meta"):
        network = instantiate(part.network, vocabulary=words)
    assert published.text is not None
    towers = {"text": published.text} | ({"image": published.image} if published.image else {})
    tensors: dict[str, Tensor] = {}
    for name, file in towers.items():
        own = getattr(network, name).state_dict()
        tensors |= {f"{name}.{n}": t for n, t in file.renamed(own).items()}
    card = {"imported": published.facts, "network": part.network.config()}
    save_damsm(tensors, words, folder_of_part(run, KEPT), card)
    return parameters(tensors)


def parameters(tensors: dict[str, Tensor]) -> int:
    """Number of weights."""
    return sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())
