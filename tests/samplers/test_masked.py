"""Masked sampling: the paper's rule, diffusers' scheduler, and who may draw what."""

import math

import diffusers.schedulers.scheduling_amused as amused
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy.stats import qmc

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import SeededNoise
from t2ibench.samplers.masked import (
    MASKED,
    draw_codes,
    gumbel,
    halton_ranks,
    least_confident,
    mask_rate,
    number_masked,
    radical_inverse,
    random_masks,
    rising_scale,
    sample_masked,
)

SCHEDULES = (
    "cosine",
    "linear",
    "square",
    "cubic",
    "square_root",
    "logarithmic",
    "exponential",
    "arccos",
)
N, V = 16, 11
PLAIN = {"num_steps": 5, "schedule": "cosine", "temperature": 1.0, "choice_temperature": 4.5}


def hidden(count, length=N):
    return torch.full((count, length), MASKED)


class Table:
    """Logits that depend on the position, the step and on what is known, and what was asked."""

    def __init__(self, length=N, vocabulary=V, seed=0):
        stream = torch.Generator().manual_seed(seed)
        self.base = torch.randn(length, vocabulary, generator=stream)
        self.turn = torch.randn(vocabulary + 1, vocabulary, generator=stream)
        self.seen, self.given = [], []

    def __call__(self, codes, step):
        known = self.turn[codes.where(codes >= 0, self.turn.shape[0] - 1)]
        logits = self.base + known.sum(1, keepdim=True) / 3 + 0.1 * step
        self.seen.append(codes)
        self.given.append(logits)
        return logits


# ---- schedules ----


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_falls_from_everything_to_nearly_nothing(schedule):
    ratio = torch.linspace(0, 1, 65, dtype=torch.float64)
    rate = mask_rate(ratio, schedule, 256)
    assert rate[0] == 1 or schedule == "exponential" and rate[0] == 1 - 1 / 256
    assert rate[-1] == pytest.approx(1e-6) and (rate.diff() <= 0).all()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", math.cos(math.pi * 0.3 / 2)),
        ("linear", 0.7),
        ("square", 0.91),
        ("cubic", 0.973),
        ("square_root", 1 - math.sqrt(0.3)),
        ("logarithmic", -math.log(0.3) / math.log(256)),
        ("exponential", 1 - 256**-0.7),
        ("arccos", math.acos(0.3) * 2 / math.pi),
    ],
)
def test_schedules_are_the_papers_formulas(schedule, expected):
    found = mask_rate(torch.tensor([0.3], dtype=torch.float64), schedule, 256)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_an_unknown_schedule_is_refused():
    with pytest.raises((ConfigError, TypeCheckError), match="sine"):
        mask_rate(torch.zeros(1), "sine", 4)


def test_rates_of_training_have_the_density_of_muse():
    """P(rate < x) = 2 / pi arcsin(x), with mean 2 / pi."""
    uniform = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    rates = mask_rate(uniform, "cosine", 256)
    assert rates.mean().item() == pytest.approx(2 / math.pi, abs=1e-6)
    for x in (0.1, 0.5, 0.9):
        share = (rates < x).double().mean().item()
        assert share == pytest.approx(2 / math.pi * math.asin(x), abs=1e-4)


@pytest.mark.parametrize(
    ("steps", "published"),
    [
        (8, [251, 236, 212, 181, 142, 97, 49]),
        (12, [253, 247, 236, 221, 203, 181, 155, 128, 97, 66, 33]),
    ],
)
def test_as_many_codes_stay_masked_as_published(steps, published):
    table = Table(256)
    sample_masked(table, hidden(2, 256), SeededNoise([1, 2]), **PLAIN | {"num_steps": steps})
    counts = [(codes == MASKED).sum(1).tolist() for codes in table.seen]
    assert counts == [[256, 256], *([n, n] for n in published)]


def test_random_masks_hide_as_many_as_asked_and_any():
    uniform = torch.rand(4000, 10, generator=torch.Generator().manual_seed(0))
    rates = torch.tensor([0.0, 0.1, 0.11, 1.0]).repeat(1000)
    masks = random_masks(rates, uniform)
    assert masks[:4].sum(1).tolist() == [0, 1, 2, 10]
    share = masks[2::4].double().mean(0)
    torch.testing.assert_close(share, torch.full_like(share, 0.2), atol=0.05, rtol=0)


# ---- one step ----


def decode_step(logits, current, drawn, noise, step, steps, unknown, temperature):
    """The rule of MaskGIT's decoding step in numpy, one image after the other."""
    after = current.copy()
    ratio = (step + 1) / steps
    for b in range(len(current)):
        confidence = np.full(current.shape[1], np.inf)
        masked = [i for i in range(current.shape[1]) if current[b, i] == -1]
        for i in masked:
            after[b, i] = drawn[b, i]
            probability = np.exp(logits[b, i]) / np.exp(logits[b, i]).sum()
            confidence[i] = np.log(probability[drawn[b, i]])
            confidence[i] += temperature * (1 - ratio) * noise[b, i]
        length = int(np.floor(unknown[b] * np.cos(np.pi / 2 * ratio)))
        length = max(1, min(len(masked) - 1, length))
        limit = np.sort(confidence)[length]
        for i in range(current.shape[1]):
            if step + 1 < steps and confidence[i] < limit:
                after[b, i] = -1
    return after


def test_decoding_is_the_papers_rule_step_by_step():
    table, start = Table(), hidden(3)
    start[1, :7] = torch.arange(7)
    start[2] = 3
    start[2, 5] = MASKED
    found = sample_masked(table, start, SeededNoise([4, 5, 6]), **PLAIN)
    stream = SeededNoise([4, 5, 6])
    unknown = (start == MASKED).sum(1).numpy()
    states = [*table.seen, found]
    for step in range(5):
        uniform = stream.uniform(2, N)
        logits = table.given[step]
        cumulative = logits.double().softmax(-1).cumsum(-1)
        drawn = (cumulative <= uniform[:, 0, :, None]).sum(-1)
        expected = decode_step(
            logits.double().numpy(),
            states[step].numpy(),
            drawn.numpy(),
            -np.log(-np.log(uniform[:, 1].double().numpy())),
            step,
            5,
            unknown,
            4.5,
        )
        np.testing.assert_array_equal(states[step + 1].numpy(), expected)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_decoding_is_that_of_the_scheduler_of_amused(schedule, monkeypatch):
    """Ids and masks of every step on given logits, codes known from the start among them."""
    steps, count, length = 7, 3, 64
    scheduler = amused.AmusedScheduler(mask_token_id=V, masking_schedule=schedule)
    scheduler.set_timesteps(steps, temperature=(2, 0))
    stream = torch.Generator().manual_seed(0)
    codes = hidden(count, length)
    codes[:, :16] = torch.randint(V, (count, 16), generator=stream)
    at_start = (codes == MASKED).sum(1)
    for i, timestep in enumerate(scheduler.timesteps.tolist()):
        logits = 2 * torch.randn(count, length, V, generator=stream)
        uniform = torch.rand(2, count, length, generator=stream)
        drawn, log_probability = draw_codes(logits, uniform[0], 1.0)
        monkeypatch.setattr(torch, "multinomial", lambda *a, **k: drawn.reshape(-1, 1))  # noqa: B023
        monkeypatch.setattr(amused, "gumbel_noise", lambda *a, **k: gumbel(uniform[1]))  # noqa: B023
        theirs = scheduler.step(
            logits, timestep, codes.where(codes >= 0, V), starting_mask_ratio=48 / 64
        )
        monkeypatch.undo()
        masked = codes == MASKED
        found = torch.where(masked, drawn, codes)
        assert torch.equal(found, theirs.pred_original_sample)
        if timestep > 0:
            rate = mask_rate(torch.tensor((i + 1) / steps, dtype=torch.float64), schedule, 64)
            confidence = log_probability + float(scheduler.temperatures[i]) * gumbel(uniform[1])
            left = number_masked(float(rate), at_start, masked.sum(1))
            again = least_confident(confidence.masked_fill(~masked, torch.inf), left)
            assert again.sum(1).tolist() == left.tolist()
            found = found.masked_fill(again, MASKED)
        codes = found
        assert torch.equal(codes.where(codes >= 0, V), theirs.prev_sample)
    assert (codes >= 0).all()


@given(st.floats(1e-6, 1), st.integers(0, 40), st.integers(0, 40))
def test_a_step_keeps_one_code_and_leaves_one(rate, now, kept_before):
    found = number_masked(rate, torch.tensor([now + kept_before]), torch.tensor([now])).item()
    assert found >= 1
    assert found == max(1, min(now - 1, math.floor((now + kept_before) * rate)))


def test_drawing_follows_the_distribution_and_gives_its_probability():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(1, 20_000, 4)
    uniform = torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0))
    codes, log_probability = draw_codes(logits, uniform, 1.0)
    share = torch.bincount(codes[0], minlength=4) / 20_000
    torch.testing.assert_close(share, logits[0, 0].exp(), atol=0.01, rtol=0)
    torch.testing.assert_close(log_probability, logits[0, 0][codes])
    cold, _ = draw_codes(logits, uniform, 0.5)
    expected = logits[0, 0].mul(2).softmax(0)
    torch.testing.assert_close(torch.bincount(cold[0]) / 20_000, expected, atol=0.01, rtol=0)
    assert (draw_codes(logits, uniform, 0.0)[0] == 0).all()


@given(st.integers(0, 30), st.sampled_from([0.0, 1 - 2**-24]))
def test_a_code_without_probability_is_never_drawn(seed, uniform):
    logits = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(seed))
    logits[..., 0] = logits[..., 3] = -torch.inf
    codes, log_probability = draw_codes(logits, torch.full((1, 3), uniform), 1.0)
    assert log_probability.isfinite().all() and not ((codes == 0) | (codes == 3)).any()


def test_gumbel_noise_has_its_mean_and_is_finite_at_the_ends():
    uniform = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    assert gumbel(uniform).mean().item() == pytest.approx(0.5772, abs=0.01)
    assert gumbel(torch.tensor([0.0, 1 - 2**-24, 1.0])).isfinite().all()


# ---- the whole loop ----


@pytest.mark.parametrize("ranks", [None, halton_ranks(4, 4)])
@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_known_codes_are_kept_and_all_others_drawn(ranks, steps):
    start = hidden(3)
    start[0, ::2] = 7
    start[1] = torch.arange(N) % V
    knobs = PLAIN | {"num_steps": steps}
    found = sample_masked(Table(), start, SeededNoise([1, 2, 3]), ranks=ranks, **knobs)
    assert torch.equal(found[start >= 0], start[start >= 0])
    assert (found >= 0).all() and (found < V).all()


@pytest.mark.parametrize("ranks", [None, halton_ranks(4, 4)])
def test_a_sample_depends_on_its_seed_alone(ranks):
    start = hidden(4)
    start[1, 3:9] = 2
    together = sample_masked(Table(), start, SeededNoise([5, 6, 7, 8]), ranks=ranks, **PLAIN)
    alone = sample_masked(Table(), start[1:2], SeededNoise([6]), ranks=ranks, **PLAIN)
    assert torch.equal(alone[0], together[1])
    other = sample_masked(Table(), start, SeededNoise([15, 16, 17, 18]), ranks=ranks, **PLAIN)
    assert not torch.equal(other, together)


def test_codes_that_are_kept_never_change():
    table = Table()
    found = sample_masked(table, hidden(3), SeededNoise([1, 2, 3]), **PLAIN)
    for before, after in zip(table.seen, [*table.seen[1:], found], strict=True):
        assert torch.equal(after[before >= 0], before[before >= 0])


def test_independent_codes_have_their_distribution():
    """Where codes do not hang on each other, what is kept first must not change what is drawn."""
    logits = torch.tensor([0.7, 0.2, 0.1]).log()

    def independent(codes, step):
        return logits.expand(*codes.shape, 3)

    order = {"ranks": halton_ranks(2, 2)}
    codes = sample_masked(independent, hidden(4000, 4), SeededNoise(range(4000)), **PLAIN | order)
    share = torch.bincount(codes.flatten(), minlength=3) / codes.numel()
    torch.testing.assert_close(share, logits.exp(), atol=0.015, rtol=0)


def test_without_noise_the_most_confident_come_first():
    table = Table()
    knobs = PLAIN | {"temperature": 0.0, "choice_temperature": 0.0, "num_steps": 4}
    sample_masked(table, hidden(1), SeededNoise([1]), **knobs)
    certain = table.given[0][0].softmax(-1).amax(-1)
    kept = table.seen[1][0] >= 0
    assert 0 < kept.sum() < N and certain[kept].min() > certain[~kept].max()


def test_guidance_rises_to_its_scale():
    assert rising_scale(5.0, 1.0) == 5 and rising_scale(5.0, 0.0) == 1
    assert rising_scale(5.0, 0.25) == 2 and rising_scale(1.0, 0.3) == 1


# ---- the Halton order ----


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (8, 8), (16, 16), (32, 32), (5, 9)])
def test_the_halton_order_is_that_of_scipys_sequence(height, width):
    points = qmc.Halton(d=2, scramble=False).random(24 * height * width + 1)[1:]
    met = np.floor(points * [height, width] + 1e-12).astype(int)
    order = list(dict.fromkeys((met[:, 0] * width + met[:, 1]).tolist()))
    ranks = halton_ranks(height, width)
    assert sorted(ranks.tolist()) == list(range(height * width))
    assert ranks.argsort().tolist() == order


def test_the_first_positions_are_those_of_the_authors_code():
    """valeoai/Halton-MaskGIT, build_halton_mask(16): the first rows and columns."""
    first = halton_ranks(16, 16).argsort()[:8]
    assert [(int(i) // 16, int(i) % 16) for i in first] == [
        (8, 5), (4, 10), (12, 1), (2, 7), (10, 12), (6, 3), (14, 8), (1, 14),
    ]  # fmt: skip


def test_mirrored_digits():
    assert radical_inverse(torch.tensor([0, 1, 2, 3, 4]), 3).tolist() == pytest.approx(
        [0, 1 / 3, 2 / 3, 1 / 9, 4 / 9]
    )


def test_by_halton_each_step_keeps_the_next_positions():
    table, ranks = Table(), halton_ranks(4, 4)
    sample_masked(table, hidden(2), SeededNoise([1, 2]), ranks=ranks, **PLAIN)
    for codes in table.seen:
        known = int((codes[0] >= 0).sum())
        assert torch.equal(codes >= 0, (ranks < known).expand(2, -1))
