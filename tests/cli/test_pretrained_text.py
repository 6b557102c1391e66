"""A text encoder that is trained with images first: found by content, shared, carried, resumed."""

import os
import shutil
import signal

import pytest
import torch
from by_words import module_of, run_of
from by_words import trained as loaded

from t2ibench.core.errors import ConfigError
from t2ibench.core.files import read_json
from t2ibench.core.noise import SeededNoise
from t2ibench.data.stream import BatchStream
from t2ibench.engine.interrupt import Interrupted
from t2ibench.runs.folder import Run

PROMPTS = ["a large red ring", "a small blue moon"]
SMALL = [
    "text=char_cnn_rnn",
    "text.training.images=160",
    "budget=images",
    "budget.amount=64",
    "data.source.num_train=64",
    "data.source.num_val=32",
    "data.source.num_test=40",
    "trainer=cpu",
    "trainer.progress=false",
]


def trained(words):
    return loaded(words).run


def words(model, *extra):
    return [f"model=gan/{model}", *SMALL, "data.resolution=16", *extra]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretrained")
    before = {k: os.environ.get(k) for k in ("T2IBENCH_RUNS", "T2IBENCH_CACHE")}
    os.environ |= {"T2IBENCH_RUNS": str(root / "runs"), "T2IBENCH_CACHE": str(root / "cache")}
    yield root
    for key, value in before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


@pytest.fixture(scope="module")
def run(root):
    return trained(words("stack_gan_1"))


def test_generators_share_one_encoder_and_its_cost_is_charged(root, run):
    (encoder,) = (root / "runs").glob("text-char_cnn_rnn-*")
    written = read_json(encoder / "status.json")
    other = trained(words("gan_int_cls", "seed=3"))
    assert list((root / "runs").glob("text-char_cnn_rnn-*")) == [encoder]
    assert read_json(encoder / "status.json") == written and written["state"] == "finished"
    found = [read_json(r.path / "manifest.json")["parts"]["text_encoder"] for r in (run, other)]
    assert found[0] == found[1] and found[0]["run"] == encoder.name
    clock = read_json(run.path / "status.json")["clock"]
    assert clock["parts_flops"] == pytest.approx(160 * written["clock"]["flops_per_image"])
    fewer = run_of(words("stack_gan_1", "text.training.images=80"))
    assert fewer.identity != run.identity


def test_a_run_carries_its_encoder(run, tmp_path):
    moved = shutil.copytree(run.path, tmp_path / run.path.name)
    here, there = (module_of(Run.at(path)) for path in (run.path, moved))
    assert here.text_encoder.fingerprint == there.text_encoder.fingerprint
    untrained = module_of(run).text_encoder.encode(PROMPTS).pooled
    assert torch.equal(*(m.generate(PROMPTS, SeededNoise([1, 2])) for m in (here, there)))
    assert untrained.shape == (2, 128)
    assert not any(name.startswith("text_encoder") for name in here.state_dict())


def test_stage_two_takes_the_encoder_of_its_base(run):
    stage = trained(["model=gan/stack_gan_2", f"base={run.path}", *SMALL[2:], "data.resolution=64"])
    module, base = module_of(stage), module_of(run)
    assert module.text_encoder.fingerprint == base.text_encoder.fingerprint
    assert module.generate(PROMPTS, SeededNoise([1, 2])).shape == (2, 3, 64, 64)
    for extra, told in ((["text=char_cnn_rnn"], "shares the text encoder"), ([], "makes 16 px")):
        side = 64 if extra else 32
        chosen = [f"base={run.path}", *SMALL[2:], f"data.resolution={side}", *extra]
        with pytest.raises(ConfigError, match=told):
            trained(["model=gan/stack_gan_2", *chosen])


def test_an_interrupted_encoder_goes_on_to_the_same_weights(root, run, tmp_path, monkeypatch):
    (encoder,) = (root / "runs").glob("text-char_cnn_rnn-*")
    whole = (encoder / "checkpoints" / "encoder.safetensors").read_bytes()
    elsewhere = words("stack_gan_1", f"paths.runs={tmp_path}")
    following = BatchStream.__next__
    drawn = []

    def interrupting(stream):
        drawn.append(1)
        if len(drawn) == 2:
            os.kill(os.getpid(), signal.SIGUSR1)
        return following(stream)

    with monkeypatch.context() as patched:
        patched.setattr(BatchStream, "__next__", interrupting)
        with pytest.raises(Interrupted):
            trained(elsewhere)
    (cut,) = tmp_path.glob("text-char_cnn_rnn-*")
    assert not (cut / "checkpoints" / "encoder.safetensors").exists()
    trained(elsewhere)
    assert (cut / "checkpoints" / "encoder.safetensors").read_bytes() == whole
    # A damaged file is made again, from the checkpoint at its end.
    (cut / "checkpoints" / "encoder.safetensors").write_bytes(b"no tensors")
    trained([*elsewhere, "seed=1"])
    assert (cut / "checkpoints" / "encoder.safetensors").read_bytes() == whole
