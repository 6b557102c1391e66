"""Progressive training: a run that begins with another's weights."""

import pytest
import torch
from by_words import run_of, trained
from safetensors.torch import load_file

from t2ibench.core.errors import CheckpointError, ConfigError
from t2ibench.core.noise import SeededNoise


def words(root, *extra):
    return [
        "model=diffusion/fast_unet",
        "data.source.num_train=32",
        "data.source.num_val=32",
        "data.source.num_test=8",
        f"paths.cache={root}/cache",
        f"paths.runs={root}/runs",
        "trainer=cpu",
        "trainer.progress=false",
        "budget.first_stage_images=16",
        "budget=images",
        "budget.amount=32",
        *extra,
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("start")


@pytest.fixture(scope="module")
def small(root):
    return trained(words(root, "data.resolution=16"))


def test_a_larger_resolution_begins_with_the_weights_of_a_smaller(small, root):
    still = ["model.module.optimizer.lr=0.0", "model.module.optimizer.adam_lr=0.0"]
    large = trained(words(root, f"start={small.run.path.name}", "data.resolution=32", *still))
    theirs = load_file(small.run.weights)
    mine = load_file(large.run.weights)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], msg=name)
    assert large.clock.parts_flops == pytest.approx(small.clock.flops + small.clock.parts_flops)
    assert large.module.generate(["a ring"], SeededNoise([0])).shape == (1, 3, 32, 32)


def test_what_it_begins_with_is_part_of_its_identity(small, root):
    by_name = run_of(words(root, f"start={small.run.path.name}"))
    by_hash = run_of(words(root, f"start={small.run.identity}"))
    assert by_name.identity == by_hash.identity != run_of(words(root)).identity


def test_mistakes_are_one_sentence(small, root):
    with pytest.raises(ConfigError, match="start=nowhere is no run in"):
        trained(words(root, "start=nowhere"))
    with pytest.raises(CheckpointError, match=r"start=.* does not fit .* tensors differ"):
        trained(words(root, f"start={small.run.identity}", "model.module.network.channels=16"))
