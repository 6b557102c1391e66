"""`t2ibench info` tells of every model what it is, from shapes alone, without an image."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import t2ibench.data.shapes.source as shapes_source
from t2ibench.cli.compose import config_dir, untrained_context
from t2ibench.cli.main import main
from t2ibench.core.noise import SeededNoise
from t2ibench.engine.assemble import untrained_module
from t2ibench.evaluation.flops import count_flops
from t2ibench.evaluation.repeated_calls import RepeatedCalls

MODELS = sorted(
    str(path.relative_to(config_dir() / "model").with_suffix(""))
    for path in Path(config_dir() / "model").rglob("*.yaml")
)


PIXEL_BY_PIXEL = ("autoregressive/image_gpt", "autoregressive/pixel_cnn")


@pytest.fixture(autouse=True)
def no_image(monkeypatch, tmp_path):
    """Nothing is rendered and nothing is written."""

    def refuse(*_):
        raise AssertionError("an image was rendered for a description")

    monkeypatch.setattr(shapes_source, "render", refuse)
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path / "cache"))
    yield
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_described(model, capsys):
    # Of pixels that are drawn one by one each is counted.
    fewer = ["data.resolution=8"] if model in PIXEL_BY_PIXEL else []
    assert main(["info", f"model={model}", "--json", *fewer]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"] == model
    assert facts["sample_flops_per_image"] > 0
    assert sum(facts["parameters"].values()) > 10_000
    assert sum(knob["fidelity_alignment"] for knob in facts["knobs"]) == 1


@pytest.mark.parametrize("model", ["diffusion/imagen_sr", "diffusion/sr3"])
def test_a_stage_of_published_size_has_an_example_of_a_base_that_has_none(model, capsys):
    assert main(["info", f"model={model}", "size=paper", "knobs.num_steps=2"]) == 0
    assert "size paper" in capsys.readouterr().out


@pytest.mark.parametrize(("size", "weights"), [("paper", 26_290_080), ("coco", 37_130_480)])
def test_a_text_encoder_of_a_stage_is_that_of_its_example(size, weights, capsys):
    words = ["model=gan/stack_gan_2", "text=char_cnn_rnn", "data.resolution=256", f"size={size}"]
    assert main(["info", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["generator"] == weights


@pytest.mark.parametrize(
    "model", ["diffusion/fast_unet", "diffusion/fast_unclip", "autoregressive/fast_gpt"]
)
def test_calls_made_once_count_as_all_of_them(model):
    context = replace(untrained_context([f"model={model}"]), device=torch.device("meta"))
    with torch.device("meta"):
        module = untrained_module(context)
    names = {knob.name for knob in module.knobs} & {"num_steps", "prior_num_steps"}
    knobs = dict.fromkeys(names, 3.0)

    def call():
        module.generate(["a large red ring"], SeededNoise([0], "meta"), knobs)

    calls = RepeatedCalls([module, *module.guarded_parts().values()])
    assert calls.count(call) == calls.count(call) == count_flops(call) > 0
    layers = [layer for part in module.guarded_parts().values() for layer in part.modules()]
    assert not any("forward" in layer.__dict__ for layer in layers)
