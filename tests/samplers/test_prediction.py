import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.core.errors import ConfigError
from t2ibench.samplers.prediction import (
    add_noise,
    check_prediction,
    split_prediction,
    training_target,
)

KINDS = ["epsilon", "v", "x0", "flow"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(alpha=st.floats(0.01, 1), sigma=st.floats(0.01, 1))
def test_prediction_is_the_inverse_of_target_at_any_level(kind, alpha, sigma):
    x0, eps = torch.randn(2, 3, 4, dtype=torch.float64)
    x = add_noise(x0, eps, alpha, sigma)
    found = split_prediction(training_target(x0, eps, alpha, sigma, kind), x, alpha, sigma, kind)
    torch.testing.assert_close(found[0], x0)
    torch.testing.assert_close(found[1], eps)


@pytest.mark.parametrize("kind", ["v", "x0", "flow"])
def test_pure_noise_still_tells_the_image(kind):
    x0, eps = torch.randn(2, 3, 4)
    found = split_prediction(training_target(x0, eps, 0.0, 1.0, kind), eps, 0.0, 1.0, kind)
    torch.testing.assert_close(found[0], x0)
    torch.testing.assert_close(found[1], eps)


def test_targets_are_their_closed_forms():
    x0, eps = torch.full((1, 2), 3.0), torch.full((1, 2), -2.0)
    alpha, sigma = 0.6, 0.8
    expected = {"epsilon": -2.0, "x0": 3.0, "v": 0.6 * -2 - 0.8 * 3, "flow": -5.0}
    for kind, value in expected.items():
        target = training_target(x0, eps, alpha, sigma, kind)
        torch.testing.assert_close(target, torch.full((1, 2), value))
    torch.testing.assert_close(add_noise(x0, eps, alpha, sigma), torch.full((1, 2), 0.2))


def test_unknown_prediction_is_refused():
    with pytest.raises(ConfigError, match="prediction_type=score is unknown; choose epsilon"):
        check_prediction("score")
