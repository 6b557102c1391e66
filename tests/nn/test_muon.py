import copy

import pytest
import torch
from torch import nn

from t2ibench.nn.muon import Muon, orthogonalise


def optimiser(parameters, **changes):
    settings = {
        "lr": 0.02,
        "momentum": 0.9,
        "adam_lr": 0.01,
        "adam_betas": (0.9, 0.99),
        "weight_decay": 0.0,
        "least_side": 4,
    }
    return Muon(parameters, **(settings | changes))


def test_orthogonalise_keeps_the_singular_vectors_and_levels_the_values():
    torch.manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(3, 8, 8))
    v, _ = torch.linalg.qr(torch.randn(3, 20, 8))
    values = torch.logspace(0, -1.5, 8)
    out = orthogonalise(u * values @ v.mT)
    inside = u.mT @ out @ v
    diagonal = inside.diagonal(dim1=1, dim2=2)
    assert float(diagonal.min()) > 0.6 and float(diagonal.max()) < 1.25
    torch.testing.assert_close(inside, torch.diag_embed(diagonal), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(16, 20), (16, 80)])
@pytest.mark.parametrize("rank", [3, 16])
def test_both_forms_give_the_plain_iteration(shape, rank):
    torch.manual_seed(0)
    matrix = torch.randn(2, shape[0], rank) @ torch.randn(2, rank, shape[1])
    x = matrix.double() / matrix.double().norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalise(matrix), x.float(), atol=2e-4, rtol=0)


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 4, 3, 3)])
def test_one_step_moves_a_matrix_along_its_orthogonalised_gradient(shape):
    torch.manual_seed(0)
    w = nn.Parameter(torch.zeros(shape))
    w.grad = torch.randn(shape)
    optimiser([w]).step()
    matrix = w.grad.flatten(1)
    turned = matrix.shape[0] > matrix.shape[1]
    wide = matrix.mT if turned else matrix
    update = orthogonalise(wide[None])[0]
    expected = -0.02 * 0.2 * max(matrix.shape) ** 0.5 * (update.mT if turned else update)
    torch.testing.assert_close(w.detach().flatten(1), expected, atol=1e-5, rtol=1e-4)


def test_everything_else_follows_adamw():
    torch.manual_seed(0)
    start = [torch.randn(7), torch.randn(2, 9)]
    ours = [nn.Parameter(x.clone()) for x in start]
    theirs = [nn.Parameter(x.clone()) for x in start]
    mine = optimiser(ours, weight_decay=0.1)
    adam = torch.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        mine.step()
        adam.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8))


def train(net, optimizer, steps, start=0):
    for i in range(start, start + steps):
        x = torch.randn(32, 12, generator=torch.Generator().manual_seed(i))
        loss = (net(x) - x[:, :8].sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_it_learns_and_weight_decay_shrinks():
    net = network()
    before = train(net, optimiser(net.parameters()), 1)
    assert train(net, optimiser(net.parameters()), 60) < 0.5 * before
    w = nn.Parameter(torch.eye(5))
    w.grad = torch.zeros(5, 5)
    optimiser([w], weight_decay=0.1).step()
    torch.testing.assert_close(w.detach(), torch.eye(5) * (1 - 0.02 * 0.1))


def test_resumed_equals_uninterrupted():
    whole = network()
    train(whole, optimiser(whole.parameters()), 6)
    first = network()
    optimizer = optimiser(first.parameters())
    train(first, optimizer, 3)
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second = network()
    resumed = optimiser(second.parameters())
    second.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    train(second, resumed, 3, start=3)
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_step_takes_a_closure():
    w = nn.Parameter(torch.ones(5, 5))
    optimizer = optimiser([w])

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 25.0 and w.detach().square().sum() < 25.0
