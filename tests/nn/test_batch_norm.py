"""Batch normalisation: PyTorch's on one process, and the same on two with half the batch each."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from t2ibench.core.types import TextFeatures
from t2ibench.families.gan.pairs import first_with_second_half, next_rows
from t2ibench.nn.batch_norm import BatchNorm


def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 4, 4, generator=generator), torch.randn(8, 5, generator=generator)


def layer():
    """A layer with gains and shifts of its own."""
    torch.manual_seed(0)
    made = BatchNorm(3)
    with torch.no_grad():
        made.weight.normal_(1.0, 0.2)
        made.bias.normal_(0.0, 0.2)
    return made


def facts(rows, count):
    """What a process with these rows of the batch computes, its loss a mean over its rows."""
    images, conditions = (x[rows] for x in inputs())
    made, x = layer(), images.clone().requires_grad_()
    y = made(x)
    y.sin().sum((1, 2, 3)).mean().backward()
    text = TextFeatures(conditions[:, None], torch.ones(count, 1, dtype=torch.bool), conditions)
    following, pairs, share = next_rows(conditions)
    return {
        "y": y.detach(),
        "x_grad": x.grad,
        "weight_grad": made.weight.grad,
        "running_mean": made.running_mean,
        "running_var": made.running_var,
        "halved": first_with_second_half(text).pooled,
        "pairs_mean": share * (conditions[:pairs] * following).mean(),
    }


def work(folder, rank):
    """One of the two processes."""
    rank = int(rank)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(facts(slice(4 * rank, 4 * rank + 4), 4), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_normalise_as_one_does(tmp_path):
    command = [sys.executable, __file__, str(tmp_path)]
    root = {"cwd": Path(__file__).parents[2]}
    first = subprocess.Popen([*command, "0"], **root)
    subprocess.run([*command, "1"], check=True, **root)
    assert first.wait() == 0
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    whole = facts(slice(0, 8), 8)
    for name in ("y", "halved"):
        torch.testing.assert_close(torch.cat([one[name], other[name]]), whole[name])
    # Of the mean of the two losses, each a mean over half of the batch.
    found = torch.cat([one["x_grad"], other["x_grad"]]) / 2
    torch.testing.assert_close(found, whole["x_grad"], rtol=1e-4, atol=1e-6)
    for name in ("weight_grad", "pairs_mean"):
        torch.testing.assert_close((one[name] + other[name]) / 2, whole[name], rtol=1e-4, atol=1e-6)
    for name in ("running_mean", "running_var"):
        assert torch.equal(one[name], other[name])
        torch.testing.assert_close(one[name], whole[name])


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 2, 2)])
def test_one_process_has_pytorchs(shape):
    x, kind = torch.randn(shape), torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d
    ours, theirs = layer(), kind(3)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(*sys.argv[1:])
