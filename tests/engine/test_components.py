"""Components: what a configuration may name, and what it may say of it."""

import pytest
import torch

from t2ibench.core.errors import ConfigError, MissingWeightsError
from t2ibench.engine.build import instantiate
from t2ibench.engine.components import TRUSTED, Component, Effect, read_component


def component(target, **arguments):
    return read_component({"_target_": target, **arguments}, "part")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "pathlib.Path",
        "builtins.eval",
        "subprocess.Popen",
        "torch.load",
        "torch.hub.load",
        "torch.utils.cpp_extension.load",
        "numpy.load",
        "t2ibench.core.files.os",
        "t2ibench.core.files.shutil.rmtree",
        "t2ibench.core.files.write_json",  # ours, but no class
        "t2ibench.runs.folder.subprocess.run",
        "t2ibench.engine.build.torch.nn.Linear",
        "t2ibench.nowhere.Thing",
        "t2ibench.nn.muon.Nothing",
        "torch.nn.functional.linear",
        "torch.nn",
        "Thing",
        "",
        "t2ibench..muon",
    ],
)
def test_what_may_not_be_named_is_refused_in_one_sentence(target):
    with pytest.raises(ConfigError) as error:
        component(target)
    assert "part._target_" in str(error.value) and "\n" not in str(error.value)


def test_torch_and_our_classes_may_be_named():
    assert component("torch.nn.Linear", in_features=2, out_features=3).cls is torch.nn.Linear
    assert component("torch.optim.Adam", lr=1e-3, betas=[0.5, 0.9]).cls is torch.optim.Adam
    assert component("t2ibench.nn.muon.Muon", lr=1.0).cls.__name__ == "Muon"


def test_a_package_can_be_trusted_by_the_machine_alone(monkeypatch):
    monkeypatch.setenv(TRUSTED, "collections, fractions")
    assert instantiate(component("fractions.Fraction", numerator=3, denominator=2)) == 1.5


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"lr": "fast"}, "part.lr=fast must be a number"),
        ({"momentum": None}, "part.momentum=null must be a number"),
        ({"adam_betas": 0.9}, "part.adam_betas=0.9 must be a list"),
        ({"adam_betas": ["a", "b"]}, "must be a number"),
        ({"least_side": 2.5}, "part.least_side=2.5 must be a whole number"),
        ({"colour": 1}, "part.colour is no argument of Muon; it has params, lr, momentum"),
    ],
)
def test_arguments_are_the_classes_own_and_of_their_types(arguments, sentence):
    with pytest.raises(ConfigError, match="part") as error:
        component("t2ibench.nn.muon.Muon", **arguments)
    assert sentence in str(error.value)


def test_a_partial_component_is_called_later_with_what_is_then_known():
    layer = {"_target_": "torch.nn.Linear", "_partial_": True, "in_features": 2}
    make = instantiate(read_component(layer, "part"))
    assert make(out_features=5).weight.shape == (5, 2)
    with pytest.raises(ConfigError, match="part: torch.nn.Linear cannot be made"):
        make()


def test_our_own_errors_pass_through():
    extractor = component(
        "t2ibench.metrics.extractors.inception.InceptionV3",
        resize="tf1-bilinear",
        weights="/nowhere/at/all",
    )
    with pytest.raises(MissingWeightsError, match="/nowhere/at/all"):
        instantiate(extractor)


def test_components_nest_and_come_back_as_they_were():
    node = {
        "_target_": "t2ibench.families.diffusion.module.Diffusion",
        "guidance_scale": 2.0,
        "process": {
            "_target_": "t2ibench.families.diffusion.process.DiffusionProcess",
            "schedule": "linear",
            "solver": "ddim",
        },
        "network": {
            "_target_": "t2ibench.families.diffusion.unet.PublishedUNet",
            "_partial_": True,
            "channels": [8, 16],
            "checkpointing": True,
        },
    }
    read = read_component(node, "model.module")
    assert isinstance(read, Component) and read.config() == node
    trained, sampling = read.values(Effect.TRAINED), read.values(Effect.SAMPLING)
    assert "solver" not in trained["process"] and trained["process"]["schedule"] == "linear"
    assert "checkpointing" not in trained["network"] and "guidance_scale" not in trained
    assert sampling == {"guidance_scale": 2.0, "process": {"solver": "ddim"}}
    effects = dict(read.effects())
    assert effects["model.module.network.checkpointing"] is Effect.NEITHER
    assert effects["model.module.process.solver"] is Effect.SAMPLING
