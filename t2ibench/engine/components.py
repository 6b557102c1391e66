"""Components of a configuration: a class by its import path, and its arguments.

A component is a mapping with ``_target_`` (``t2ibench.families.diffusion.dit.DiT``), further keys
as arguments, and ``_partial_: true`` where the class is called later with further arguments (a
network by its module, an optimiser with its parameters). It is read once: the target must be a
class that a configuration may name, its arguments must be the class's own and of their types.

What a configuration may name is limited, because configurations travel with run folders: classes
of t2ibench, of ``torch.nn`` and ``torch.optim``, of registered plugins, and of the packages in the
environment variable T2IBENCH_TRUSTED. A class lists in ``sampling_arguments`` and
``neutral_arguments`` which of its arguments are not part of a run's identity.
"""

from __future__ import annotations

import importlib
import inspect
import os
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Union

from pydantic import ConfigDict, TypeAdapter, ValidationError

from t2ibench.core.errors import ConfigError
from t2ibench.engine.plugins import plugin_packages

TARGET, PARTIAL = "_target_", "_partial_"

TRUSTED = "T2IBENCH_TRUSTED"
"""Environment variable with further packages whose classes may be named, joined by commas."""

TORCH = ("torch.nn", "torch.optim")
"""Packages of torch whose classes may be named."""

NEUTRAL_OF_TORCH = frozenset({"fused", "foreach", "capturable"})
"""Arguments of torch's optimisers that change speed alone."""


class Effect(Enum):
    """Results that a setting changes.

    Attributes:
        TRAINED: the trained weights; part of a run's identity by its value.
        CONTENT: the trained weights, through what it points to; part of the identity by the
            content found there.
        SAMPLING: generated images or their scores; part of a sample set's key.
        NEITHER: no result (paths, devices, loggers, names).
    """

    TRAINED = "trained"
    CONTENT = "content"
    SAMPLING = "sampling"
    NEITHER = "neither"


@dataclass(frozen=True)
class Component:
    """A class and its arguments, checked.

    Attributes:
        key: its key in the configuration.
        target: import path of the class.
        arguments: plain values and components.
        partial: True where the class is called later.
    """

    key: str
    target: str
    arguments: Mapping[str, Any]
    partial: bool = False

    @cached_property
    def cls(self) -> type:
        """The class at the import path."""
        return find_class(self.target, self.key)

    def effect(self, argument: str) -> Effect:
        """Effect of an argument: on the trained weights, unless the class lists another."""
        if argument in getattr(self.cls, "sampling_arguments", ()):
            return Effect.SAMPLING
        if argument in getattr(self.cls, "neutral_arguments", ()):
            return Effect.NEITHER
        if self.target.startswith("torch.optim.") and argument in NEUTRAL_OF_TORCH:
            return Effect.NEITHER
        return Effect.TRAINED

    def effects(self) -> Iterator[tuple[str, Effect]]:
        """Every configuration key below the component with its effect."""
        yield f"{self.key}.{TARGET}", Effect.TRAINED
        if self.partial:
            yield f"{self.key}.{PARTIAL}", Effect.NEITHER
        for name, value in self.arguments.items():
            own = self.effect(name)
            for key, effect in effects_within(f"{self.key}.{name}", value):
                yield key, own if own is not Effect.TRAINED else effect

    def values(self, effect: Effect) -> dict[str, Any]:
        """Arguments of one effect, JSON-ready; those of ``TRAINED`` include the target."""
        found: dict[str, Any] = {TARGET: self.target} if effect is Effect.TRAINED else {}
        for name, value in self.arguments.items():
            own = self.effect(name)
            if own is effect:
                kept = plain(value, effect)
            elif own is Effect.TRAINED:
                kept = nested(value, effect)
            else:
                continue
            if kept is not NOTHING:
                found[name] = kept
        return found

    def config(self) -> dict[str, Any]:
        """Mapping that the component was read from."""
        head: dict[str, Any] = {TARGET: self.target}
        if self.partial:
            head[PARTIAL] = True
        return head | {name: to_config(value) for name, value in self.arguments.items()}


NOTHING = object()
"""Marker for the absence of a value with the wanted effect."""


def effects_within(key: str, value: Any) -> Iterator[tuple[str, Effect]]:
    """Keys below a trained argument's value, each with its effect."""
    if isinstance(value, Component):
        yield from value.effects()
    elif isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from effects_within(f"{key}.{name}", inner)
    else:
        yield key, Effect.TRAINED


def plain(value: Any, effect: Effect) -> Any:
    """A plain value in which components are reduced to their values of the wanted effect."""
    if isinstance(value, Component):
        return value.values(effect) if effect is Effect.TRAINED else value.config()
    if isinstance(value, Mapping):
        return {name: plain(inner, effect) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, effect) for inner in value]
    return value


def nested(value: Any, effect: Effect) -> Any:
    """Values of another effect in the components inside a trained value, or ``NOTHING``."""
    found: Any = NOTHING
    if isinstance(value, Component):
        found = value.values(effect)
    elif isinstance(value, Mapping):
        inner = {name: nested(v, effect) for name, v in value.items()}
        found = {name: v for name, v in inner.items() if v is not NOTHING}
    return found if found else NOTHING


def to_config(value: Any) -> Any:
    """A value with components replaced by the mappings that they were read from."""
    if isinstance(value, Component):
        return value.config()
    if isinstance(value, Mapping):
        return {name: to_config(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_config(inner) for inner in value]
    return value


# ---- reading ----


def read_component(node: Any, key: str) -> Component:
    """Reads and checks a component of a configuration.

    Raises:
        ConfigError: no mapping with ``_target_``, a target that may not be named or is no class,
            an argument that the class does not have, or one of another type.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get(TARGET), str):
        raise ConfigError(
            f"{key}={node if not isinstance(node, Mapping) else dict(node)} must be a mapping with "
            f"{TARGET}, the import path of a class."
        )
    arguments = {
        name: read_value(value, f"{key}.{name}")
        for name, value in node.items()
        if name not in (TARGET, PARTIAL)
    }
    component = Component(key, node[TARGET], arguments, bool(node.get(PARTIAL, False)))
    check_arguments(component)
    return component


def read_value(value: Any, key: str) -> Any:
    """A configuration's value with the components inside it read."""
    if isinstance(value, Mapping):
        if TARGET in value:
            return read_component(value, key)
        return {name: read_value(inner, f"{key}.{name}") for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [read_value(inner, f"{key}.{i}") for i, inner in enumerate(value)]
    return value


def find_class(target: str, key: str) -> type:
    """The class of an import path that a configuration may name.

    Raises:
        ConfigError: it may not be named, does not exist, or is not a class.
    """
    package = target.split(".", 1)[0]
    if package == "torch":
        allowed = target.startswith(tuple(f"{name}." for name in TORCH))
    else:
        allowed = package in nameable_packages()
    if not allowed:
        raise ConfigError(
            f"{key}.{TARGET}={target} is refused: a configuration may name classes of "
            f"{', '.join(sorted({*nameable_packages(), *TORCH}))} only; if you trust "
            f"{package}, install it as a plugin (entry point t2ibench.plugins) or set "
            f"{TRUSTED}={package}."
        )
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}.{TARGET}={target} is not there ({error}).") from error
    # Only what the package itself defines: a module's imports are not its classes.
    if not inspect.isclass(found) or found.__module__.split(".", 1)[0] != package:
        raise ConfigError(f"{key}.{TARGET}={target} is no class of {package}; name one.")
    return found


def nameable_packages() -> set[str]:
    """Top-level packages, besides torch's, whose classes a configuration may name."""
    trusted = os.environ.get(TRUSTED, "").split(",")
    return {"t2ibench", *plugin_packages(), *(name.strip() for name in trusted if name.strip())}


def check_arguments(component: Component) -> None:
    """Checks names, plain types and ranges of a component's arguments.

    Raises:
        ConfigError: an argument that the class does not have, or one of another type or range.
    """
    parameters = parameters_of(component.cls)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = hints_of(component.cls)
    for name, value in component.arguments.items():
        if name not in parameters and not open_ended:
            known = [n for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD]
            raise ConfigError(
                f"{component.key}.{name} is no argument of {component.cls.__name__}; it has "
                f"{', '.join(known)}."
            )
        check_type(f"{component.key}.{name}", value, hints.get(name))
        check_range(f"{component.key}.{name}", value)


def parameters_of(cls: type) -> dict[str, inspect.Parameter]:
    """Parameters of a constructor by name; with ``**kwargs`` also those of its bases."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        own = list(inspect.signature(base.__init__).parameters.items())[1:]  # type: ignore[misc]
        found |= {name: parameter for name, parameter in own if name not in found}
        if all(parameter.kind is not parameter.VAR_KEYWORD for _, parameter in own):
            return {n: p for n, p in found.items() if p.kind is not p.VAR_KEYWORD}
    return found


def hints_of(cls: type) -> dict[str, Any]:
    """Annotations of a constructor's parameters, including those that its bases take."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base):
            try:
                found |= typing.get_type_hints(base.__init__)  # type: ignore[misc]
            except NameError:  # names that only a type checker sees
                continue
    return found


def check_type(key: str, value: Any, annotation: Any) -> None:
    """Checks that a plain value has the annotated plain type.

    Raises:
        ConfigError: it has another type.
    """
    wanted = plain_type(annotation)
    if wanted is None or holds_component(value):
        return
    try:
        strict = ConfigDict(strict=True, allow_inf_nan=False)
        TypeAdapter(wanted, config=strict).validate_json(to_json(value))
    except ValidationError as error:
        raise ConfigError(sentence_of(error, key)) from None


def check_range(key: str, value: Any) -> None:
    """Checks what an argument's name says of its range, the same for all classes.

    Weights of losses (``…_weight``, ``…_gamma``) are not negative, probabilities
    (``…_probability``) lie in [0, 1].

    Raises:
        ConfigError: it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if key.endswith(("_weight", "_gamma")) and value < 0:
        raise ConfigError(f"{key}={value:g} is a weight and must not be negative; 0 leaves it out.")
    if key.endswith("_probability") and not 0 <= value <= 1:
        raise ConfigError(f"{key}={value:g} is a probability; choose a value from 0 to 1.")


def holds_component(value: Any) -> bool:
    """True where a value is a component or contains one."""
    if isinstance(value, Mapping):
        return any(map(holds_component, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(holds_component, value))
    return isinstance(value, Component)


def to_json(value: Any) -> str:
    """JSON of a value; in it a list may stand for a tuple and a whole number for a float."""
    import json

    return json.dumps(value)


PLAIN = (int, float, str, bool, type(None), Path)


def plain_type(annotation: Any) -> Any:
    """The part of an annotation that plain values can satisfy: numbers, words, lists; else None.

    Members of a union that no configuration can give (a tensor) are left out.
    """
    if annotation in PLAIN:
        return annotation
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return annotation
    if origin in (Union, types.UnionType):
        kept = [found for found in map(plain_type, inner) if found is not None]
        return Union[tuple(kept)] if kept else None  # noqa: UP007
    if origin in (list, tuple, Sequence):
        members = [member for member in inner if member is not Ellipsis]
        if members and all(plain_type(member) == member for member in members):
            return annotation if origin in (list, tuple) else list[members[0]]  # type: ignore[valid-type]
    return None


# ---- sentences ----

WANTED = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a word",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys",
    "model_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
    "none_required": "must be null",
    "path_type": "must be a path",
}
"""Sentences for pydantic's kinds of errors."""


def sentence_of(error: ValidationError, key: str = "") -> str:
    """The first of pydantic's errors as one sentence that names key, value and remedy."""
    first = error.errors(include_url=False)[0]
    # A union tells each of its members; keys of the configuration are what is left.
    where = [str(part) for part in first["loc"] if not _names_a_type(str(part))]
    named = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in where)
    path = f"{key}{named}".lstrip(".") or "the configuration"
    kind, value = first["type"], first.get("input")
    if kind == "missing":
        return f"{path} is missing; give it a value."
    if kind == "extra_forbidden":
        return f"{path} is not a configuration key; `t2ibench train --cfg job` lists all keys."
    shown = "null" if value is None else value
    if kind == "literal_error":
        choices = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        return f"{path}={shown} is unknown; choose {choices}."
    if kind in WANTED:
        return f"{path}={shown} {WANTED[kind]}."
    message = str(first.get("ctx", {}).get("error", first["msg"]))
    if message.startswith("Input should be "):
        return f"{path}={shown} must be {message.removeprefix('Input should be ')}."
    return f"{path}={shown}: {message}."


def _names_a_type(part: str) -> bool:
    return part in ("int", "float", "str", "bool", "none") or "[" in part
