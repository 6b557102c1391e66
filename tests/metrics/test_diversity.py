"""Vendi score and Inception Score: closed forms, invariances, torch-fidelity."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t2ibench.core.errors import ScoreError
from t2ibench.metrics.diversity import (
    inception_estimate,
    inception_score,
    vendi_by_prompt,
    vendi_estimate,
    vendi_score,
)


@given(st.integers(1, 8), st.integers(1, 6), st.integers(8, 40))
def test_equal_orthogonal_clusters_count_as_many(clusters, copies, width):
    x = torch.eye(width)[:clusters].repeat(copies, 1) * 3
    assert vendi_score(x) == pytest.approx(clusters, rel=1e-9)


@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 99))
def test_both_forms_agree_with_the_definition(n, width, seed):
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).double()
    unit = x / x.norm(dim=1, keepdim=True)
    shares = np.linalg.eigvalsh((unit @ unit.T).numpy() / n)
    shares = shares[shares > 1e-14]
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert vendi_score(x) == pytest.approx(expected, rel=1e-9)
    assert vendi_score(x.flip(0) * 7) == pytest.approx(expected, rel=1e-9)
    assert 1 - 1e-9 <= vendi_score(x) <= min(n, width) + 1e-9


def test_diversity_by_prompt_is_the_mean_over_prompts():
    x = torch.eye(6)[[0, 0, 1, 2, 3, 4, 5]]
    found = vendi_by_prompt(x, ["a", "a", "b", "b", "c", "c", "alone"])
    assert found.value == pytest.approx((1 + 2 + 2) / 3)
    with pytest.raises(ScoreError, match="several images of a prompt"):
        vendi_by_prompt(x, list(range(7)))


def test_the_interval_holds_the_value_and_bad_features_are_refused():
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    found = vendi_estimate(x)
    assert found.ci_low < found.value < found.ci_high
    with pytest.raises(ScoreError, match="all zero"):
        vendi_score(torch.zeros(3, 2))
    with pytest.raises(ScoreError, match="NaN"):
        vendi_score(torch.full((3, 2), torch.nan))
    with pytest.raises(ScoreError, match="no images"):
        vendi_score(torch.zeros(0, 2))


def test_inception_score_of_sure_and_balanced_logits_is_the_number_of_classes():
    logits = 1e3 * torch.eye(10).repeat(10, 1)
    assert inception_score(logits) == pytest.approx((10.0, 0.0))
    assert inception_score(torch.zeros(100, 10)) == pytest.approx((1.0, 0.0))
    with pytest.raises(ScoreError, match="10 images or more"):
        inception_score(torch.zeros(5, 10))


def test_inception_score_equals_torch_fidelity():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = torch.randn(103, 20, generator=torch.Generator().manual_seed(0)) * 2
    theirs = isc_features_to_metric(logits, splits=10, shuffle=False)
    mean, sd = inception_score(logits)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert sd == pytest.approx(theirs["inception_score_std"], rel=1e-5)


def test_inception_estimate_ignores_the_order_of_the_images_and_their_classes():
    stream = torch.Generator().manual_seed(1)
    classes = torch.arange(400) // 40  # sorted: consecutive parts would hold one class each
    logits = torch.randn(400, 10, generator=stream) + 4 * torch.nn.functional.one_hot(classes, 10)
    keys = [f"prompt {i // 2}" for i in range(400)]
    assert inception_score(logits)[0] < 2
    found = inception_estimate(logits, clusters=keys)
    assert 3 < found.value < 10 and found.ci_low < found.value < found.ci_high
    assert found.note.startswith("sd of 10 splits 0.")
    turned = torch.arange(400).view(-1, 2).flip(0).reshape(-1)
    again = inception_estimate(logits[turned], clusters=[keys[i] for i in turned.tolist()])
    assert again[:3] == pytest.approx(found[:3])
