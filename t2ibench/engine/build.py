"""Instantiation of components: the one place that makes objects from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from t2ibench.core.errors import ConfigError, T2IBenchError
from t2ibench.core.hashing import derive_seed
from t2ibench.engine.components import Component, parameters_of

if TYPE_CHECKING:
    from t2ibench.engine.spec import RunSpec
    from t2ibench.families.contract import TextToImageModule


def instantiate(component: Component, **given: Any) -> Any:
    """The object that a component describes; for a partial one a callable that makes it.

    Args:
        component: a component that was checked when it was read.
        given: further arguments that the configuration does not hold.

    Raises:
        ConfigError: the class refuses its arguments.
    """
    arguments = {
        name: instantiate_nested(value) for name, value in component.arguments.items()
    } | given
    if component.partial:
        return partial(construct, component, arguments)
    return construct(component, arguments)


def instantiate_nested(value: Any) -> Any:
    """A value with the components inside it instantiated."""
    if isinstance(value, Component):
        return instantiate(value)
    if isinstance(value, Mapping):
        return {name: instantiate_nested(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [instantiate_nested(inner) for inner in value]
    return value


def construct(component: Component, arguments: Mapping[str, Any], *args: Any, **more: Any) -> Any:
    """Calls a component's class; its errors become one sentence."""
    try:
        return component.cls(*args, **{**arguments, **more})
    except T2IBenchError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{component.key}: {component.target} cannot be made from its configuration: {error}."
        ) from error


def check_parts(spec: RunSpec) -> None:
    """Checks that the model takes all chosen parts and gets all that it needs.

    Raises:
        ConfigError: a part is not used, or one is missing.
    """
    module = spec.model.module
    takes = parameters_of(module.cls)
    for name, part in spec.parts.items():
        if name not in takes:
            raise ConfigError(
                f"model={spec.model.name} has no use for parts.{name} ({part.name}): "
                f"{module.cls.__name__} takes no {name}; leave that choice out, or choose another "
                "model."
            )
    if spec.base is not None and "base" not in spec.parts:
        raise ConfigError(
            f"base={spec.base}: model={spec.model.name} stands on no other run; leave base out, or "
            "choose a stage of a cascade (model=diffusion/fast_imagen_sr)."
        )
    given = {*spec.parts, *module.arguments, "text_encoder"}
    lacking = [n for n, p in takes.items() if p.default is p.empty and n not in given]
    if lacking:
        raise ConfigError(
            f"model={spec.model.name} needs {lacking[0]}, which neither parts.{lacking[0]} nor "
            f"model.module.{lacking[0]} gives; choose {group_of(lacking[0])}=NAME, a file of "
            f"conf/{group_of(lacking[0])}."
        )


def group_of(part: str) -> str:
    """Group of conf/ whose files give a part."""
    return {"first_stage": "autoencoder"}.get(part, part)


def build_module(
    spec: RunSpec, text_encoder: nn.Module, parts: Mapping[str, nn.Module]
) -> TextToImageModule:
    """Builds the family's module with initial weights, a function of specification and seed.

    Convolutions are channels_last, the layout that their fastest kernels have on every device.
    """
    torch.manual_seed(derive_seed("init", spec.seed))
    module = instantiate(spec.model.module, text_encoder=text_encoder, **parts)
    return module.to(memory_format=torch.channels_last)
