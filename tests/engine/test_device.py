"""The device is chosen once and handed down: every verb's networks work on the accelerator."""

import pytest
import torch
from by_words import context_of, trained
from engine.faked_gpu import GPU, faked_gpu
from torch import nn

from t2ibench.cli.main import main
from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import SeededNoise
from t2ibench.engine.assemble import untrained_module
from t2ibench.engine.device import chosen_device, facts, prepare_device, training_precision
from t2ibench.engine.fitting import cached_targets, cached_text, options_of
from t2ibench.engine.load import open_run

FEW = ["data.source.num_train=32", "data.source.num_val=16", "data.source.num_test=16"]
ASKED = [
    "protocol.test.num_images=16", "protocol.test.reference_size=16",
    "protocol.front.num_images=8", "protocol.front.reference_size=8", "protocol.knob_sweep=[2]",
    "protocol.cost_seconds=0.01", "knobs.num_steps=2", "trainer.progress=false",
]  # fmt: skip
SMALL = [
    *FEW, *ASKED, "budget=images", "budget.amount=16", "budget.first_stage_images=16",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory, shared_cache):
    """A run that a CPU trained, as a user moves one to a machine with a GPU."""
    place = [f"paths.runs={tmp_path_factory.mktemp('runs')}", f"paths.cache={shared_cache}"]
    return trained(["model=diffusion/fast_unet", "trainer=cpu", *SMALL, *place]).run


@pytest.fixture
def home(tmp_path, shared_cache, monkeypatch):
    """A folder of runs, and the session's cache but for features, which nothing computed yet."""
    for folder in shared_cache.iterdir():
        if folder.name not in ("features", "latents", "clip", "text"):
            (tmp_path / "cache").mkdir(exist_ok=True)
            (tmp_path / "cache" / folder.name).symlink_to(folder)
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("T2IBENCH_RUNS", str(tmp_path / "runs"))
    return tmp_path


def test_the_rule(monkeypatch):
    assert chosen_device("auto") == chosen_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="trainer.accelerator=tpu is unknown"):
        chosen_device("tpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="devices=2 needs as many GPUs, and this process sees 1"):
        chosen_device("gpu", 2)
    with faked_gpu(monkeypatch):
        assert chosen_device("auto") == chosen_device("gpu") == GPU
        assert chosen_device("cpu") == torch.device("cpu")


def test_one_rule_of_precision_stands_in_the_manifest(monkeypatch):
    before = torch.get_float32_matmul_precision()
    try:
        prepare_device(torch.device("cpu"))
        told = facts(torch.device("cpu"), "auto")
        assert (told["training_precision"], told["float32_matmul_precision"]) == (
            "32-true",
            "highest",
        )
        with faked_gpu(monkeypatch):
            prepare_device(GPU)
            assert facts(GPU, "auto") == {
                "device": "faked",
                "training_precision": "bf16-mixed",
                "float32_matmul_precision": "high",
            }
            assert training_precision("32-true", GPU) == "32-true"
            words = ["model=diffusion/fast_unet", *FEW]
            context = context_of(words)
            options = options_of(context, context.spec.model.training)
            assert (options.accelerator, options.precision) == ("gpu", "bf16-mixed")
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_network_that_stays_behind_is_seen(monkeypatch):
    with faked_gpu(monkeypatch) as gpu:
        moved, left = nn.Linear(2, 2).to(GPU), nn.Conv2d(1, 1, 1)
        moved(torch.zeros(1, 2, device=GPU))
        left(torch.zeros(1, 1, 1, 1))
    assert gpu.ran == {"Linear"} and gpu.elsewhere == {"Conv2d"}


@pytest.mark.parametrize(
    ("verb", "networks"),
    [
        (["sample", "RUN", "a red ring"], {"Conv2d", "Linear", "Embedding"}),
        # An extractor, the dual encoder and the first stage of the ceiling besides.
        (["score", "RUN", *ASKED], {"Conv2d", "BatchNorm2d"}),
        (["bench", "model=gan/fast_painter", "rounds=2", *FEW], {"Conv2d", "Linear"}),
    ],
)
def test_every_verb_works_on_the_device(run, home, monkeypatch, verb, networks):
    words = [str(run.path) if word == "RUN" else word for word in verb]
    monkeypatch.chdir(home)
    with faked_gpu(monkeypatch) as gpu:
        assert main(words) == 0
    assert networks <= gpu.ran and not gpu.elsewhere


def test_a_run_that_is_loaded_is_on_the_device(run, monkeypatch):
    with faked_gpu(monkeypatch) as gpu:
        module = open_run(run).module
        module.generate(["a red ring"], SeededNoise([0], GPU), {"num_steps": 2})
    assert gpu.ran and not gpu.elsewhere


def test_caches_and_the_clip_of_a_part_are_computed_on_the_device(home, monkeypatch):
    tiny = ["parts.clip.network.embed_dim=16", "parts.clip.network.vision.width=8",
            "parts.clip.network.text.width=16", "parts.clip.network.text.layers=1",
            "parts.clip.training.steps=2", "parts.clip.training.batch_size=8"]  # fmt: skip
    with faked_gpu(monkeypatch) as gpu:
        context = context_of(["model=diffusion/fast_unclip", *tiny, *SMALL])
        part = context.spec.parts["clip"]
        part.prepare(context, part.run(context))
        assert gpu.ran and not gpu.elsewhere
        module = untrained_module(context).to(context.device)
        gpu.ran.clear()
        found = cached_targets(context, module, context.source.split("train"))
        assert found and "Conv2d" in gpu.ran and not gpu.elsewhere
        cached_text(context, module.text_encoder, context.source.split("train"))
        assert not gpu.elsewhere
