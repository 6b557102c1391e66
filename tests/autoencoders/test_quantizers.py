"""Quantisers: codes and vectors are one another's inverse, gradients are what was derived."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from golden import vqgan as recipe
from golden.attn_gan import sketch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from t2ibench.autoencoders.codebook_health import (
    DEAD_AFTER,
    CodebookHealth,
    codebook_alarms,
    perplexity,
    usage,
)
from t2ibench.autoencoders.codebooks import CosineCodebook, LearnedCodebook, VectorQuantizer
from t2ibench.autoencoders.finite_scalar import FiniteScalarQuantizer
from t2ibench.autoencoders.published import PublishedQuantized
from t2ibench.autoencoders.quantizer import as_vectors, rotated
from t2ibench.autoencoders.vq import QuantizedAutoencoder
from t2ibench.core.errors import ConfigError
from t2ibench.core.ranks import gathered

LEVELS = [5, 4, 3, 2]


def learned(gradient="straight_through", **changes):
    given = {"codebook_size": 24, "width": 4, "beta": 0.25, "legacy_beta": False}
    return LearnedCodebook(**(given | {"gradient": gradient} | changes))


def averaged(gradient="straight_through"):
    return VectorQuantizer(
        codebook_size=24, width=4, decay=0.9, revive_below=0.02, gradient=gradient
    )


def cosine(gradient="straight_through"):
    return CosineCodebook(codebook_size=24, width=4, beta=0.25, gradient=gradient)


def scalar():
    return FiniteScalarQuantizer(levels=LEVELS)


QUANTIZERS = {"learned": learned, "averaged": averaged, "cosine": cosine, "scalar": scalar}


def latents(count=3, scale=1.0):
    generator = torch.Generator().manual_seed(7)
    return scale * torch.randn(count, 4, 3, 3, generator=generator)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_code_is_the_nearest_to_its_vector(name):
    torch.manual_seed(0)
    quantizer = QUANTIZERS[name]()
    codes = torch.arange(quantizer.codebook_size)
    vectors = quantizer.lookup(codes)
    assert vectors.shape == (len(codes), quantizer.width)
    if name == "scalar":
        # Code vectors are rounded numbers; what is rounded to them is unbounded.
        half = quantizer.sizes // 2
        assert torch.equal(quantizer.index(vectors * half), codes)
        shift = (0.5 * (1 - quantizer.sizes % 2) / ((quantizer.sizes - 1) * 0.999 / 2)).tan()
        inverse = (vectors * half + 0.5 * (1 - quantizer.sizes % 2)) / (
            (quantizer.sizes - 1) * 0.999 / 2
        )
        vectors = inverse.clamp(-0.9999, 0.9999).atanh() - shift
    assert torch.equal(quantizer.nearest(vectors), codes)
    assert len(quantizer.lookup(codes).unique(dim=0)) == quantizer.codebook_size


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_pass_gives_the_code_vectors_in_raster_order(name):
    torch.manual_seed(0)
    quantizer = QUANTIZERS[name]().eval()
    z = latents()
    made = quantizer(z)
    vectors, codes = quantizer.quantise(z)
    assert torch.equal(made.codes, codes) and codes.shape == (3, 9)
    torch.testing.assert_close(made.latents, vectors)
    expected = quantizer.lookup(codes).unflatten(1, (3, 3)).permute(0, 3, 1, 2)
    torch.testing.assert_close(vectors, expected)
    assert len(codes.unique()) > 3
    alone = quantizer(z[1:2])
    assert torch.equal(alone.codes[0], codes[1])


@pytest.mark.parametrize("make", [learned, averaged, cosine])
def test_straight_through_hands_the_gradient_on(make):
    torch.manual_seed(0)
    quantizer, z = make().eval(), latents().requires_grad_()
    probe = torch.randn(z.shape)
    (quantizer(z).latents * probe).sum().backward()
    # On the sphere it is handed to the normalised latents.
    reference = latents().requires_grad_()
    start = normalize(reference, dim=1) if make is cosine else reference
    (start * probe).sum().backward()
    torch.testing.assert_close(z.grad, reference.grad)


@given(st.integers(0, 1000), st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_the_rotation_is_one(seed, length):
    """Its Jacobian is a rotation of z to e, times the ratio of their lengths."""
    generator = torch.Generator().manual_seed(seed)
    z, e = torch.randn(2, 1, 3, 1, 1, generator=generator, dtype=torch.float64)
    e = length * e
    jacobian = torch.autograd.functional.jacobian(lambda x: rotated(x, e).flatten(), z)
    scale = e.norm() / z.norm()
    turn = jacobian.reshape(3, 3) / scale
    torch.testing.assert_close(turn @ turn.T, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(turn).item() == pytest.approx(1)
    torch.testing.assert_close(scale * turn @ z.flatten(), e.flatten())
    torch.testing.assert_close(rotated(z, e), e, rtol=1e-14, atol=0)


def test_a_rotation_from_or_to_nothing_and_to_the_opposite_is_finite():
    for z, e in ((0.0, 1.0), (1.0, 0.0), (1.0, -1.0)):
        given = torch.full((1, 2, 1, 1), z, requires_grad=True)
        made = rotated(given, torch.full((1, 2, 1, 1), e))
        made.sum().backward()
        assert torch.equal(made, torch.full((1, 2, 1, 1), e)) and given.grad.isfinite().all()


def test_fsq_bounds_rounds_and_passes_the_gradient_of_its_bound():
    quantizer = scalar()
    far = torch.tensor([[-50.0] * 4, [50.0] * 4])
    assert quantizer.bounded(far).round().tolist() == [[-2, -2, -1, -1], [2, 1, 1, 0]]
    assert quantizer.nearest(far).tolist() == [0, quantizer.codebook_size - 1]
    assert quantizer.lookup(torch.tensor([0])).tolist() == [[-1, -1, -1, -1]]
    z = latents(scale=0.5).requires_grad_()
    probe = torch.randn(z.shape)
    made = quantizer(z)
    (made.latents * probe).sum().backward()
    half = (quantizer.sizes - 1) * 0.999 / 2
    offset = 0.5 * (1 - quantizer.sizes % 2)
    inner = z.detach().permute(0, 2, 3, 1) + (offset / half).tan()
    slope = half * (1 - inner.tanh().square()) / (quantizer.sizes // 2)
    torch.testing.assert_close(z.grad, probe * slope.permute(0, 3, 1, 2))
    assert made.penalty.item() == 0 and list(quantizer.state_dict()) == []


@given(st.lists(st.integers(2, 9), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_fsq_indices_count_all_digits(levels):
    quantizer = FiniteScalarQuantizer(levels=levels)
    codes = torch.arange(quantizer.codebook_size)
    vectors = quantizer.lookup(codes)
    assert vectors.abs().max() <= 1 and vectors.shape == (len(codes), len(levels))
    assert torch.equal(quantizer.index((vectors * (quantizer.sizes // 2)).round()), codes)


def test_fsq_indices_do_not_depend_on_autocast():
    quantizer = FiniteScalarQuantizer(levels=[8, 8, 8, 8])
    expected = quantizer(latents()).codes
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(latents()).codes, expected)
        assert torch.equal(quantizer.quantise(latents())[1], expected)


def test_the_greatest_cosine_is_the_nearest_on_the_sphere():
    torch.manual_seed(0)
    quantizer = cosine()
    vectors = as_vectors(latents(20))
    unit = normalize(vectors, dim=1)
    expected = torch.cdist(unit, quantizer.lookup(torch.arange(24))).argmin(1)
    assert torch.equal(quantizer.nearest(5 * vectors), expected)
    torch.testing.assert_close(quantizer.embedding.weight.norm(dim=1), torch.ones(24))


def test_a_learned_codebook_starts_as_published():
    torch.manual_seed(0)
    weight = learned(codebook_size=1000).embedding.weight
    assert weight.abs().max() <= 1 / 1000
    assert weight.std().item() == pytest.approx(2 / 1000 / 12**0.5, rel=0.05)


@pytest.mark.parametrize("which", ["legacy", "corrected", "llama_gen"])
def test_learned_codebooks_are_the_authors(which):
    expected = recipe.expected()[which]
    z, codebook, *_ = (x.double() for x in recipe.inputs())
    if which == "llama_gen":
        quantizer = CosineCodebook(
            codebook_size=16, width=4, beta=recipe.BETA, gradient="straight_through"
        ).double()
    else:
        quantizer = learned(codebook_size=16, legacy_beta=which == "legacy").double()
    quantizer.embedding.weight.data.copy_(codebook)
    z.requires_grad_()
    made = quantizer(z)
    assert made.codes.flatten().tolist() == expected["codes"]
    assert made.penalty.item() == pytest.approx(expected["loss"], rel=1e-6)
    probe = torch.arange(z.numel(), dtype=torch.float64).sin().reshape(z.shape)
    (made.penalty + (made.latents * probe).sum() / 10).backward()
    assert sketch(z.grad) == pytest.approx(expected["latents_grad"], rel=1e-5, abs=1e-6)
    found = sketch(quantizer.embedding.weight.grad)
    assert found == pytest.approx(expected["codebook_grad"], rel=1e-5, abs=1e-6)


def test_vqgans_networks_over_short_codes_are_llama_gens_tokenizer():
    with torch.device("meta"):
        quantizer = CosineCodebook(
            codebook_size=16384, width=8, beta=0.25, gradient="straight_through"
        )
        model = PublishedQuantized(
            quantizer=quantizer, z_channels=256, channels=[128, 128, 256, 256, 512], blocks=2,
            attention_levels=[4], middle_attention=True, groups=32,
        )  # fmt: skip
    expected = recipe.expected()["parameters"]["llama_gen_vq_16"]
    assert sum(p.numel() for p in model.parameters()) == expected == 71_883_403


def test_impossible_quantisers_are_refused():
    for make, message in (
        (lambda: learned(codebook_size=0), "codebook_size=0"),
        (lambda: learned(beta=-1.0), "beta=-1"),
        (lambda: FiniteScalarQuantizer(levels=[]), "levels=\\[\\]"),
        (lambda: FiniteScalarQuantizer(levels=[8, 1]), "at least 2 levels"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()


# ---- in an autoencoder ----


def project(quantizer):
    return QuantizedAutoencoder(
        channels=[8, 8], blocks=1, stem_factor=2, encoder_kernel_size=3, quantizer=quantizer
    )


def published(quantizer):
    return PublishedQuantized(
        quantizer=quantizer, z_channels=8, channels=[8, 8, 16], blocks=1, attention_levels=[2],
        middle_attention=True, groups=4,
    )  # fmt: skip


@pytest.mark.parametrize("network", [project, published])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_any_quantiser_in_any_network(network, name):
    torch.manual_seed(0)
    model = network(QUANTIZERS[name]())
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    made = model.reconstruct(images)
    ((made.images - images).abs().mean() + made.penalty).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None]
    assert silent == [] and model.last_layer.grad.any()
    model.eval()
    with torch.no_grad():
        codes = model.codes(images)
        assert codes.shape == (2, 16) and codes.max() < model.codebook_size
        direct = model.decode(model.encode(images))
        torch.testing.assert_close(model.decode_codes(codes), direct, atol=1e-5, rtol=1e-5)
        made = model.reconstruct(images)
        torch.testing.assert_close(made.images, direct, atol=1e-5, rtol=1e-5)
    assert torch.equal(made.codes, codes)
    assert made.logs["codebook_usage"].item() == pytest.approx(
        len(codes.unique()) / model.codebook_size
    )


# ---- health ----


def test_a_code_is_dead_once_it_was_not_used_for_long():
    health = CodebookHealth(4)
    batch = torch.tensor([[0, 1, 2, 2]])
    for _ in range(DEAD_AFTER):
        assert health(batch).item() == 0
    assert health(batch).item() == 0.25
    assert health(torch.tensor([[3, 3, 3, 3]])).item() == 0
    assert list(health.state_dict()) == []


@pytest.mark.parametrize("name", QUANTIZERS)
def test_alarms_name_the_quantisers_own_settings(name):
    quantizer = QUANTIZERS[name]()
    key = "parts.first_stage.module.autoencoder"
    well = {"codebook_dead": 0.68, "codebook_perplexity": 5.0}
    assert codebook_alarms(well, key, quantizer.remedy) == {}
    ill = {"codebook_dead": 0.9, "codebook_perplexity": 1.2}
    told = codebook_alarms(ill, key, quantizer.remedy)
    assert set(told) == {"dead codes", "collapsed codebook"}
    assert "90% of the codes" in told["dead codes"] and quantizer.remedy in told["dead codes"]
    word = {"averaged": "revive_below", "scalar": "levels"}.get(name, "codebook_size")
    assert word in quantizer.remedy


# ---- two processes ----


def facts(rows, count):
    """What a process with these rows of the batch computes, its loss a mean over its rows."""
    found = {}
    for name, make in QUANTIZERS.items():
        torch.manual_seed(0)
        quantizer = make().train()
        z = latents(4)[rows].requires_grad_()
        for _ in range(2):
            made = quantizer(z)
        (made.penalty + made.latents.sin().mean()).backward()
        chosen = gathered(made.codes)
        found[f"{name} codes"], found[f"{name} grad"] = made.codes, z.grad
        found[f"{name} perplexity"] = perplexity(chosen, quantizer.codebook_size)
        found[f"{name} usage"] = usage(chosen, quantizer.codebook_size)
        found |= {f"{name} {n}": b.clone() for n, b in quantizer.named_buffers()}
        found |= {f"{name} {n} grad": p.grad for n, p in quantizer.named_parameters()}
    return found


def work(folder, rank):
    """One of the two processes."""
    rank = int(rank)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(facts(slice(2 * rank, 2 * rank + 2), 2), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_quantise_as_one_does(tmp_path):
    command = [sys.executable, __file__, str(tmp_path)]
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join(map(str, (tests.parent, tests)))
    root = {"cwd": tests.parent, "env": os.environ | {"PYTHONPATH": paths}}
    first = subprocess.Popen([*command, "0"], **root)
    subprocess.run([*command, "1"], check=True, **root)
    assert first.wait() == 0
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    whole = facts(slice(0, 4), 4)
    for name, expected in whole.items():
        if name.endswith(" codes"):
            assert torch.equal(torch.cat([one[name], other[name]]), expected), name
        elif name.count(" ") == 1 and name.endswith(" grad"):
            torch.testing.assert_close(torch.cat([one[name], other[name]]) / 2, expected)
        elif name.endswith("grad"):
            torch.testing.assert_close((one[name] + other[name]) / 2, expected)
        else:
            torch.testing.assert_close(one[name], expected)
            assert torch.equal(one[name], other[name]), name


if __name__ == "__main__":
    work(*sys.argv[1:])
