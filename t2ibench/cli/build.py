"""From configuration to objects: the one place that instantiates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.cli.compose import config_dir, to_container
from t2ibench.core.errors import ConfigError, T2IBenchError
from t2ibench.core.hashing import derive_seed
from t2ibench.data.records import DataSource, PreparedSplit
from t2ibench.families.contract import TextToImageModule
from t2ibench.families.frozen_clip import FrozenClip
from t2ibench.runs.clock import Budget
from t2ibench.text.contract import TextEncoder
from t2ibench.text.word import build_vocabulary
from t2ibench.training.fit import TrainingOptions


@dataclass(frozen=True)
class FirstStagePlan:
    """What the first stage of a model is and how it is trained.

    Attributes:
        name: its file in conf/autoencoder/.
        config: that file's content, resolved.
        images: its budget.
    """

    name: str
    config: dict[str, Any]
    images: int


def create(node: Any, **kwargs: Any) -> Any:
    """Hydra's instantiate with our own errors passed through and others in one sentence.

    Raises:
        ConfigError: the ``_target_`` refuses its arguments.
    """
    try:
        return instantiate(node, **kwargs)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, T2IBenchError):
            raise cause from None
        target = node.get("_target_", "?") if hasattr(node, "get") else "?"
        raise ConfigError(
            f"{target} cannot be made from its configuration: {cause or error}."
        ) from error


def build_source(cfg: DictConfig) -> DataSource:
    """The data set of ``data.source``."""
    return create(cfg.data.source)


def build_text_encoder(cfg: DictConfig, vocabulary: list[str] | None) -> TextEncoder:
    """The text encoder; word-level ones get the vocabulary of the training captions."""
    torch.manual_seed(derive_seed("init text", cfg.seed))
    if cfg.text.needs_vocabulary:
        return create(cfg.text.encoder, vocabulary=vocabulary)
    return create(cfg.text.encoder)


def training_vocabulary(cfg: DictConfig, train: PreparedSplit) -> list[str] | None:
    """Words of the training captions, or None where the encoder brings its own."""
    if not cfg.text.needs_vocabulary:
        return None
    return list(build_vocabulary(c for record in train.records for c in record.captions))


def first_stage_plan(cfg: DictConfig) -> FirstStagePlan | None:
    """The first stage that ``model.first_stage`` names, or None for pixel models.

    Raises:
        ConfigError: there is no such file in conf/autoencoder/, or ``first_stage.override`` has
            a key that the file has not.
    """
    name = cfg.model.first_stage
    if name is None:
        return None
    path = config_dir() / "autoencoder" / f"{name}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise ConfigError(f"model.first_stage={name} is unknown; choose {', '.join(known)}.")
    own = OmegaConf.load(path)
    OmegaConf.set_struct(own, True)
    try:
        own = OmegaConf.merge(own, cfg.first_stage.get("override") or {})
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"first_stage.override does not fit conf/autoencoder/{name}.yaml: "
            f"{str(error).splitlines()[0].rstrip('.')}; override keys that the file has."
        ) from error
    node = OmegaConf.merge({"data": cfg.data, "size": cfg.size}, {"autoencoder": own})
    config: Any = OmegaConf.to_container(node.autoencoder, resolve=True)
    images = cfg.first_stage.images or config["training"]["images"]
    return FirstStagePlan(name, config, int(images))


def build_module(
    cfg: DictConfig,
    text_encoder: TextEncoder,
    first_stage: FrozenFirstStage | None,
    clip: FrozenClip | None = None,
    base: TextToImageModule | None = None,
) -> TextToImageModule:
    """The family with its initial weights: a function of the configuration and the seed.

    Convolutions are channels_last, the layout that their fastest kernels have on every device.
    """
    torch.manual_seed(derive_seed("init", cfg.seed))
    kwargs: dict[str, Any] = {"text_encoder": text_encoder}
    if first_stage is not None:
        kwargs["first_stage"] = first_stage
    if clip is not None:
        kwargs["clip"] = clip
    if base is not None:
        kwargs["base"] = base
    return create(cfg.model.module, **kwargs).to(memory_format=torch.channels_last)


def build_budget(cfg: DictConfig) -> Budget:
    """The budget, checked."""
    return Budget(cfg.budget.unit, float(cfg.budget.amount), bool(cfg.budget.include_parts))


def training_options(cfg: DictConfig, training: Any) -> TrainingOptions:
    """Trainer settings joined with the model's (or first stage's) own recipe."""
    return TrainingOptions(
        warmup_images=int(training["warmup_images"]),
        decay=training["decay"],
        ema_half_life_images=float(training["ema_half_life_images"]),
        log_every_images=int(cfg.trainer.log_every_images),
        checkpoint_every_seconds=float(cfg.trainer.checkpoint_every_seconds),
        accelerator=cfg.trainer.accelerator,
        devices=int(cfg.trainer.devices),
        precision=str(cfg.trainer.precision),
        progress=bool(cfg.trainer.progress),
        validate_every_images=int(cfg.trainer.validate_every_images),
        compile=bool(cfg.trainer.compile),
        strategy=cfg.trainer.strategy,
        num_nodes=int(cfg.trainer.num_nodes),
    )


def cache_root(cfg: DictConfig) -> Path:
    """Where content-addressed caches lie."""
    return Path(cfg.paths.cache)


def check_config(cfg: DictConfig) -> None:
    """Everything that can be known to be impossible before any work.

    Raises:
        ConfigError: see the sentences.
    """
    to_container(cfg)
    build_budget(cfg)
    kinds = ("concat", "modulation", "cross_attention", "none")
    if cfg.conditioning not in kinds:
        raise ConfigError(f"conditioning={cfg.conditioning} is unknown; choose {', '.join(kinds)}.")
    if not isinstance(cfg.seed, int) or cfg.seed < 0:
        raise ConfigError(f"seed={cfg.seed} must be a whole number from 0.")
    by = cfg.protocol.choose_by
    if by not in (None, "fd", "kid"):
        raise ConfigError(f"protocol.choose_by={by} is unknown; choose fd, kid or null.")
    if by is not None and not cfg.evaluator.extractors:
        raise ConfigError(
            f"protocol.choose_by={by} needs an extractor and evaluator.extractors is empty; set "
            "protocol.choose_by=null."
        )
    plan = first_stage_plan(cfg)
    factor = cfg.model.get("resolution_multiple", 1)
    factor *= plan.config["spatial_factor"] if plan else 1
    if cfg.data.resolution % factor:
        raise ConfigError(
            f"data.resolution={cfg.data.resolution} is not a multiple of {factor}, which "
            f"model={cfg.model.name} needs; choose such a resolution."
        )
