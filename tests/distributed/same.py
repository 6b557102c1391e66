"""What two trainings have in common that differ in the order of their sums alone."""

import pytest
import torch
from safetensors.torch import load_file


def curves(run):
    header, *rows = [line.split(",") for line in (run.path / "metrics.csv").read_text().split()]
    kept = [i for i, name in enumerate(header) if name != "seconds"]
    return [header[i] for i in kept], torch.tensor(
        [[float(row[i] or 0) for i in kept] for row in rows]
    )


def assert_same_training(found, wanted, images=96, flops=1e-3):
    """Equal but for the order of sums: curves, counted FLOPs and weights.

    Adam turns rounding into steps of full length where gradients are all but zero (a bias before
    a normalisation), so that weights are compared as one vector.
    """
    assert found.path.name == wanted.path.name
    (names, one), (same, two) = curves(wanted), curves(found)
    assert names == same
    # Later norms of gradients are those of weights that rounding has moved: 1 % by threads alone.
    norms = torch.tensor([name.endswith("gradient_norm") for name in names])
    one[1:, norms] = two[1:, norms] = 0
    torch.testing.assert_close(two, one, rtol=max(flops, 1e-3), atol=1e-5)
    clocks = [run.status()["clock"] for run in (wanted, found)]
    assert clocks[0]["images_seen"] == clocks[1]["images_seen"] == images
    # Each rank encodes the null caption for itself.
    assert clocks[1]["flops_by_part"] == pytest.approx(clocks[0]["flops_by_part"], rel=0.01)
    assert clocks[1]["flops_per_image"] == pytest.approx(clocks[0]["flops_per_image"], rel=flops)
    weights, others = load_file(wanted.weights), load_file(found.weights)
    assert {n: t.shape for n, t in weights.items()} == {n: t.shape for n, t in others.items()}
    one, two = (torch.cat([w[n].double().flatten() for n in weights]) for w in (weights, others))
    assert (two - one).norm() < 1e-3 * one.norm()
