"""What changes results stands in YAML: no constructor of a component falls back on a default."""

import inspect

import pytest

from t2ibench.cli.compose import compose_spec, config_files
from t2ibench.engine.components import Component, parameters_of

OPTIMISERS = {"Adam": {"betas", "eps"}, "AdamW": {"betas", "eps", "weight_decay"}}
"""Arguments of torch's optimisers that their papers report."""

CHOICES = [
    *([f"model={name}"] for name in config_files("model")),
    *([f"autoencoder={name}"] for name in config_files("autoencoder") if name != "none"),
    *([f"text={name}"] for name in config_files("text") if name not in ("base", "run")),
    *(["data=" + name] for name in config_files("data") if name not in ("folder", "pictures")),
    *([f"data={name}", "data.root=."] for name in ("folder", "pictures")),
    ["model=diffusion/fast_unclip", "prior=autoregressive"],
    ["model=diffusion/fast_unclip", "clip=published"],
    *([f"evaluator={name}"] for name in config_files("evaluator")),
    *(
        [f"{group}=[{name}]"]
        for group in ("evaluator/extractor", "evaluator/dual_encoder")
        for name in config_files(group)
    ),
]


def components(value):
    """Every component below a value."""
    if isinstance(value, Component):
        yield value
        value = value.arguments
    if isinstance(value, dict):
        for inner in value.values():
            yield from components(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from components(inner)
    elif hasattr(value, "model_fields"):
        for name in type(value).model_fields:
            yield from components(getattr(value, name))


def unsaid(component):
    """Parameters of a component's class that are left to a default."""
    given = set(component.arguments)
    if component.target.startswith("torch.optim."):
        return OPTIMISERS.get(component.cls.__name__, set()) - given
    return {
        name
        for name, p in parameters_of(component.cls).items()
        if p.default is not inspect.Parameter.empty and name not in given
    }


# Given by the module that makes the network, where the model wants them.
INJECTED = {
    "extra_channels", "vector_width", "text_width", "inputs",
    "first_stage", "clip", "damsm", "backbone",
}  # fmt: skip
# Where published files lie and what they are called; their content is hashed.
FILES = {"weights", "folder", "name", "styles", "labels"}


@pytest.mark.parametrize("words", CHOICES, ids=" ".join)
def test_no_component_is_left_to_defaults(words):
    spec = compose_spec(words)
    found = {
        f"{component.key}.{name}"
        for component in components(spec)
        for name in unsaid(component) - INJECTED - FILES
    }
    assert not found
