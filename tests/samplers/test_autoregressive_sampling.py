import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ibench.core.noise import SeededNoise
from t2ibench.samplers.autoregressive import (
    draw_token,
    filter_logits,
    guided_logits,
    sample_tokens,
)

MARKOV = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}


def markov_logits(token, position):
    """A chain whose every probability is known; token None starts at state 0."""
    rows = markov_logits.rows
    state = torch.zeros(rows, dtype=torch.int64) if token is None else token
    return MARKOV.log()[state]


def chain(seeds, **knobs):
    markov_logits.rows = len(seeds)
    return sample_tokens(markov_logits, 3, SeededNoise(seeds), **(PLAIN | knobs))


def test_samples_follow_the_chains_distribution():
    tokens = chain(range(20_000))
    first = torch.bincount(tokens[:, 0], minlength=3) / 20_000
    third = torch.bincount(tokens[:, 2], minlength=3) / 20_000
    torch.testing.assert_close(first, MARKOV[0], atol=0.012, rtol=0)
    expected = torch.linalg.matrix_power(MARKOV, 3)[0]
    torch.testing.assert_close(third, expected, atol=0.012, rtol=0)


def test_a_sample_depends_on_its_seed_alone():
    together = chain([5, 6, 7, 8])
    assert torch.equal(chain([7])[0], together[2])
    assert torch.equal(chain([8, 7])[1], together[2])


def test_temperature_zero_is_the_mode_and_low_temperature_nears_it():
    assert chain(range(4), temperature=0.0).tolist() == [[0, 0, 0]] * 4
    cold = chain(range(2000), temperature=0.2)
    share = (MARKOV[0] ** 5 / (MARKOV[0] ** 5).sum())[0].item()
    assert (cold[:, 0] == 0).float().mean().item() == pytest.approx(share, abs=0.01)


def test_top_k_and_top_p_keep_what_they_name():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = filter_logits(logits, top_k=2).isfinite()
    assert kept.tolist() == [[True, True, False, False]]
    # The nucleus is the smallest set whose mass reaches p.
    assert filter_logits(logits, top_p=0.5).isfinite().sum() == 1
    assert filter_logits(logits, top_p=0.6).isfinite().sum() == 2
    assert filter_logits(logits, top_p=0.96).isfinite().sum() == 4
    assert filter_logits(logits, top_p=1e-6).isfinite().tolist() == [[True, False, False, False]]
    assert torch.equal(filter_logits(logits), logits)


@given(st.floats(0, 0.999999), st.integers(0, 50))
def test_drawing_inverts_the_distribution_function(uniform, seed):
    logits = torch.randn(1, 6, generator=torch.Generator().manual_seed(seed))
    logits[0, 2] = -torch.inf
    u = torch.tensor([uniform])
    token = draw_token(logits, u).item()
    cumulative = logits.double().softmax(-1).cumsum(-1)[0]
    below = cumulative[token - 1].item() if token else 0.0
    assert token != 2
    assert below - 1e-6 <= u.item() <= cumulative[token].item() + 1e-6


def test_guidance_is_linear_in_the_logits():
    c, u = torch.randn(2, 5), torch.randn(2, 5)
    torch.testing.assert_close(guided_logits(c, u, 1.0), c)
    torch.testing.assert_close(guided_logits(c, u, 0.0), u)
    torch.testing.assert_close(guided_logits(c, u, 3.0), 3 * c - 2 * u)
