import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.samplers.guidance import Guidance, dynamic_threshold, guided, rescale_guided


def test_guidance_is_one_batch_and_none_at_scale_one():
    rows = []

    def predict(x, t):
        rows.append((len(x), len(t)))
        return torch.cat([x[:3] * 2, x[3:] * 5])

    x, t = torch.randn(3, 2), torch.full((3,), 7.0)
    torch.testing.assert_close(guided(predict, 1.0)(x, t), x * 2)
    torch.testing.assert_close(guided(predict, 0.0)(x, t), x * 5)
    torch.testing.assert_close(guided(predict, 3.0)(x, t), x * (5 + 3 * (2 - 5)))
    assert rows == [(3, 3), (6, 6), (6, 6)]


def test_the_interval_is_open_below_and_closed_above():
    guide = Guidance(3.0, low=0.2, high=0.8)
    assert [guide.active(s) for s in (0.1, 0.2, 0.3, 0.8, 0.9)] == [False, False, True, True, False]
    assert not Guidance(1.0).active(0.5)
    assert Guidance(0.0).active(1.0) and Guidance(2.0).active(1e-6)


@settings(max_examples=50, deadline=None)
@given(phi=st.floats(0, 1), scale=st.floats(-3, 9), seed=st.integers(0, 99))
def test_rescaling_moves_each_samples_deviation_towards_the_conditional_one(phi, scale, seed):
    draw = torch.Generator().manual_seed(seed)
    c, u = torch.randn(2, 3, 4, 5, 5, generator=draw, dtype=torch.float64)
    c = c * torch.tensor([1.0, 4.0, 0.2])[:, None, None, None].double()
    plain = Guidance(scale).combine(c, u)
    found = Guidance(scale, rescale=phi).combine(c, u)

    def deviation(x):
        return x.flatten(1).std(1)

    expected = phi * deviation(c) + (1 - phi) * deviation(plain)
    torch.testing.assert_close(deviation(found), expected)
    # The direction of each sample stays.
    cosine = torch.cosine_similarity(found.flatten(1), plain.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(3).double())


def test_rescaling_is_none_at_zero():
    c, mixed = torch.randn(2, 2, 3, 4)
    assert torch.equal(rescale_guided(mixed, c, 0.0), mixed)


def test_dynamic_threshold_is_each_samples_own_percentile():
    ramp = torch.linspace(-4, 4, 401).view(1, 1, 401)
    x0 = torch.cat([ramp, ramp / 8])
    found = dynamic_threshold(x0, 0.9)
    # |ramp| is uniform on [0, 4], so s = 3.6; the second sample stays within [-1, 1].
    torch.testing.assert_close(found[0], ramp[0].clamp(-3.6, 3.6) / 3.6, atol=2e-3, rtol=0)
    assert torch.equal(found[1], x0[1])


def test_dynamic_threshold_against_torch_on_odd_sizes():
    x0 = torch.randn(3, 3, 7, 5) * torch.tensor([0.1, 1.0, 5.0])[:, None, None, None]
    s = torch.quantile(x0.abs().flatten(1), 0.995, dim=1).clamp(min=1)[:, None, None, None]
    torch.testing.assert_close(dynamic_threshold(x0, 0.995), (x0 / s).clamp(-1, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dynamic_threshold_keeps_the_type_and_takes_whole_images(dtype):
    x0 = torch.ones(5, 3, 1100, 1100, dtype=dtype) * 2
    x0[:, 0, 0, 0] = 9
    found = dynamic_threshold(x0, 0.5)
    assert found.dtype == dtype and bool((found == 1).all())
