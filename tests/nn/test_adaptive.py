"""Adaptive kernels, equalised layers and attention by distances, in closed form."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from t2ibench.core.errors import ConfigError
from t2ibench.nn.adaptive import AdaptiveConv, EqualisedConv, equalise
from t2ibench.nn.attention import TransformerBlock
from t2ibench.nn.l2_attention import L2SelfAttention, l2_attention


def per_sample(layer, x, style):
    """The same by a kernel of each sample's own: mixed, scaled, of unit norm per output."""
    bank = (layer.weight * layer.gain).unflatten(0, (layer.candidates, -1))
    rows = []
    for one, w in zip(x, style, strict=True):
        shares = torch.ones(1)
        if layer.selection is not None:
            shares = layer.selection(w[None])[0].softmax(0)
        kernel = sum(share * kernel for share, kernel in zip(shares, bank, strict=True))
        kernel = kernel * layer.scale(w[None])[0][None, :, None, None]
        if layer.demodulate:
            kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        rows.append(conv2d(one[None], kernel, padding=kernel.shape[-1] // 2))
    return torch.cat(rows)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("candidates, kernel", [(1, 3), (4, 3), (3, 1)])
def test_scaled_activations_are_kernels_of_each_samples_own(candidates, kernel, demodulate):
    torch.manual_seed(0)
    layer = AdaptiveConv(
        6, 5, kernel=kernel, style_width=7, candidates=candidates, demodulate=demodulate
    ).double()
    x = torch.randn(3, 6, 8, 9, dtype=torch.float64, requires_grad=True)
    style = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    wanted = [x, style, *layer.parameters()]
    ours, theirs = layer(x, style), per_sample(layer, x, style)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    weight = torch.randn_like(ours)
    found, expected = (
        torch.autograd.grad((y * weight).sum(), wanted, allow_unused=True) for y in (ours, theirs)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)  # norms are float32


def test_a_certain_selection_is_that_kernel_and_an_even_one_is_their_mean():
    layer = AdaptiveConv(3, 4, kernel=3, style_width=2, candidates=3)
    bank = (layer.weight * layer.gain).unflatten(0, (3, -1))
    with torch.no_grad():
        layer.selection.weight.zero_()
        torch.testing.assert_close(layer.kernels(torch.randn(1, 2))[0], bank.mean(0))
        layer.selection.bias.copy_(torch.tensor([0.0, 60.0, 0.0]))
        torch.testing.assert_close(layer.kernels(torch.randn(1, 2))[0], bank[1])


def test_demodulated_outputs_of_noise_have_unit_variance():
    layer = AdaptiveConv(32, 16, kernel=3, style_width=8, candidates=4)
    y = layer(torch.randn(4, 32, 64, 64), 3 * torch.randn(4, 8))[..., 1:-1, 1:-1]
    torch.testing.assert_close(y.var((2, 3)), torch.ones(4, 16), atol=0.25, rtol=0)


def test_equalising_changes_no_function_and_the_rate_of_every_layer():
    torch.manual_seed(0)
    block, x = TransformerBlock(16, 2), torch.randn(2, 5, 16)
    before = block(x)
    stored = block.mlp[0].weight.detach().clone()
    assert equalise(block) is block
    torch.testing.assert_close(block(x), before)
    torch.testing.assert_close(block.mlp[0].weight, 4 * stored)
    assert not any(type(layer) is nn.Linear for layer in block.modules())


def test_an_equalised_convolution_keeps_the_variance():
    y = EqualisedConv(64, 64, 3)(torch.randn(2, 64, 32, 32))
    assert y.std().item() == pytest.approx(1.0, abs=0.1)


# ---- attention by distances ----


def test_attention_by_distances_is_its_formula():
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.float64) for _ in range(3))
    distances = (q[:, :, :, None] - k[:, :, None]).square().sum(-1)
    expected = (-distances / 2).softmax(-1) @ v
    torch.testing.assert_close(l2_attention(q, k, v), expected)
    moved = torch.randn(4, dtype=torch.float64)
    torch.testing.assert_close(l2_attention(q + moved, k + moved, v), expected)


def inverse_phi(n):
    """The v with v e^(v + 1) = n, by bisection."""
    low, high = 0.0, math.log(n) + 1
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if middle * math.exp(middle + 1) < n else (low, middle)
    return low


def spread(x):
    """Each row's sum over j of P_ij |x_i - x_j|^2 / sqrt(E), with P read off by values e_j."""
    count, width = x.shape
    shares = l2_attention(*(t[None, None] for t in (x, x, x)))  # of the values x: only its shape
    assert shares.shape == (1, 1, count, width)
    distances = (x[:, None] - x[None]).square().sum(-1) / math.sqrt(width)
    return ((-distances).softmax(1) * distances).sum(1)


@pytest.mark.parametrize("count", [2, 8, 64])
def test_the_lipschitz_bound_of_distances_holds_and_is_reached(count):
    """Kim et al. 2021: no row exceeds v, and one whose others are 1 + v away attains it."""
    bound = inverse_phi(count - 1)
    for scale in (0.1, 1.0, 10.0, 1000.0):
        x = scale * torch.randn(count, 4, dtype=torch.float64)
        assert spread(x).max() <= bound + 1e-9
    away = math.sqrt((1 + bound) * math.sqrt(count))
    x = torch.cat([torch.zeros(1, count), away * torch.eye(count)[1:]]).double()
    assert spread(x)[0].item() == pytest.approx(bound, rel=1e-9)


def test_the_jacobian_stays_bounded_where_that_of_scalar_products_grows():
    def by_products(x):
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    torch.manual_seed(0)
    x = torch.randn(1, 1, 6, 1, dtype=torch.float64)
    norms = {"distances": [], "products": []}
    for scale in (1, 10, 100, 1000):
        # One token at zero, the others far away: what makes products unbounded.
        far = scale * x.abs() * torch.tensor([0.0, 1, -1, 1, -1, 1])[:, None]
        kinds = {"distances": lambda t: l2_attention(t, t, t), "products": by_products}
        for name, call in kinds.items():
            jacobian = torch.autograd.functional.jacobian(call, far).reshape(6, 6)
            norms[name].append(torch.linalg.matrix_norm(jacobian, 2).item())
    bound = math.sqrt(6) * (4 * inverse_phi(5) + 1)
    assert max(norms["distances"]) <= bound
    assert norms["products"][-1] > 100 * bound


def test_attention_over_a_map_knows_no_order_of_positions():
    torch.manual_seed(0)
    layer, x = L2SelfAttention(8, 2, 0.5), torch.randn(2, 8, 3, 4)
    turned = layer(x.flip(2, 3)).flip(2, 3)
    torch.testing.assert_close(layer(x), turned)
    with pytest.raises(ConfigError, match="heads=3"):
        L2SelfAttention(8, 3, 0.5)
