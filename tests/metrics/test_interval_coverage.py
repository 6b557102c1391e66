"""Simulations: a 95% interval holds what it claims to hold in 93 to 97% of all worlds.

Seeds are fixed, so a test passes or fails for good; with 1000 worlds the share itself is known
to 0.7 percentage points.
"""

import numpy as np
import pytest
import torch

from t2ibench.core.types import Score
from t2ibench.metrics.bootstrap import bootstrap_mean
from t2ibench.metrics.diversity import inception_estimate, inception_score
from t2ibench.metrics.frechet import frechet_distance, frechet_estimate
from t2ibench.metrics.kernel import kid, kid_estimate
from t2ibench.metrics.prompt_resampling import PromptSums, resampled_means
from t2ibench.reporting.statistics.differences import MetricDifference, holm
from t2ibench.reporting.statistics.groups import aggregate

WORLDS = 1000


def covered(intervals, truth) -> float:
    return float(np.mean([found.ci_low <= truth <= found.ci_high for found in intervals]))


def prompts(rng, count=150, images=3):
    """Scores of images whose prompts differ in difficulty: clustered, skewed, mean 1.5."""
    hard = np.repeat(rng.exponential(1.0, count), images)
    return hard + rng.uniform(0, 1, count * images), np.repeat(np.arange(count), images).tolist()


def test_means_clustered_by_prompt():
    rng = np.random.default_rng(0)
    found, naive = [], []
    for world in range(WORLDS):
        values, keys = prompts(rng)
        found.append(bootstrap_mean(values, keys, replicates=400, seed=world))
        naive.append(bootstrap_mean(values, None, replicates=400, seed=world))
    assert 0.93 <= covered(found, 1.5) <= 0.97
    assert covered(naive, 1.5) < 0.85, "images of one prompt are not independent"


def test_paired_differences():
    rng = np.random.default_rng(1)
    found = []
    for world in range(WORLDS):
        values, keys = prompts(rng)
        other = values - 0.3 + rng.normal(0, 0.5, len(values))
        means = resampled_means(PromptSums.of([values, other], keys), 400, seed=world)
        found.append(np.quantile(means[:, 0] - means[:, 1], [0.025, 0.975]))
    assert 0.93 <= np.mean([low <= 0.3 <= high for low, high in found]) <= 0.97


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_means_over_training_seeds(seeds):
    rng = np.random.default_rng(seeds)
    hits = 0
    for values in rng.normal(7, 2, (WORLDS, seeds)):
        cell = aggregate([Score(v, 500, v - 0.1, v + 0.1, "fd[x]", "") for v in values.tolist()])
        hits += cell.low <= 7 <= cell.high
    assert 0.93 <= hits / WORLDS <= 0.97


def sets(world, shift, count=200, width=4):
    stream = torch.Generator().manual_seed(world)
    return torch.randn(count, width, generator=stream, dtype=torch.float64) + shift


@pytest.mark.parametrize(
    ("distance", "estimate"), [(frechet_distance, frechet_estimate), (kid, kid_estimate)]
)
def test_distances_cover_their_expectation_at_that_number_of_images(distance, estimate):
    """Not the distance of unlimited images: a Fréchet distance is biased by N for every model."""
    worlds = 400
    reference = torch.randn(1000, 4, generator=torch.Generator().manual_seed(10**6)).double()
    values = [distance(sets(world + 10**4, 0.5), reference) for world in range(worlds)]
    found = [estimate(sets(world, 0.5), reference, seed=world) for world in range(worlds)]
    assert 0.93 <= covered(found, np.mean(values)) <= 0.98


def class_logits(world, count=1000, classes=30):
    stream = torch.Generator().manual_seed(world)
    shown = torch.randint(0, classes, (count,), generator=stream)
    noise = torch.randn(count, classes, generator=stream)
    return noise + 3 * torch.nn.functional.one_hot(shown, classes)


def test_inception_scores_cover_their_expectation_at_that_number_of_images():
    worlds = 400
    values = [inception_score(class_logits(world + 10**5))[0] for world in range(worlds)]
    found = [inception_estimate(class_logits(world), seed=world) for world in range(worlds)]
    assert 0.93 <= covered(found, np.mean(values)) <= 0.98


def test_holm_keeps_the_family_wise_error_below_five_percent():
    rng = np.random.default_rng(4)
    false_alarms = 0
    for p_values in rng.uniform(size=(WORLDS, 6)):
        rows = [
            MetricDifference(f"m{i}[x]", 0, 0, 0, 0, 0, p, "intervals")
            for i, p in enumerate(p_values.tolist())
        ]
        false_alarms += any(row.distinguishable for row in holm(rows))
    assert 0.03 <= false_alarms / WORLDS <= 0.07
