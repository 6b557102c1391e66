"""A perfect conditional model scores at the floor: on the procedural world, where one exists."""

import random
from collections import defaultdict

import pytest
import torch

from t2ibench.data.shapes.source import ShapesSource
from t2ibench.evaluation.evaluator import Evaluator
from t2ibench.evaluation.protocol import Protocol
from t2ibench.evaluation.results import by_metric
from t2ibench.metrics.dual_encoder import DualEncoder

N = 300


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world, and fresh renders of the captions of its test prompts: a perfect model's images."""
    source = ShapesSource(
        level="L1", resolution=32, num_train=4000, num_val=2, num_test=2 * N,
        cache_dir=tmp_path_factory.mktemp("world"),
    )  # fmt: skip
    fresh, chance = source.split("train"), random.Random(0)
    by_caption = defaultdict(list)
    for index in chance.sample(range(len(fresh)), len(fresh)):
        by_caption[fresh.records[index].captions[0]].append(index)
    prompts = Protocol("quick", "test", N, 0).prompts(source.split("test"))
    chosen = [by_caption[caption].pop() for caption in prompts.captions]
    return source, prompts.answered_by(fresh.pixels(chosen))


def scorer(source, records):
    torch.manual_seed(0)
    return Evaluator(
        protocol=Protocol("quick", "test", N, 0, reference_records=records),
        reference=source.split("test"),
        dual_encoders=[DualEncoder.load("shapes-clip-v1")],
    )


@pytest.mark.parametrize("metric", ["fd", "cmmd-style"])
def test_a_perfect_model_scores_at_the_floor(world, metric):
    source, perfect = world
    evaluator = scorer(source, "auto")
    floor = by_metric(evaluator.floor(source.split("test"), source.split("train")))[metric]
    model = by_metric(evaluator.unprompted(perfect).scores)[metric]
    assert floor.ci_low < model.value < floor.ci_high
    assert model.ci_low < floor.value < model.ci_high


def test_under_a_shared_reference_it_scores_below(world):
    """So that there the floor is no bound, which the tables say."""
    source, perfect = world
    evaluator = scorer(source, "shared")
    floor = by_metric(evaluator.floor(source.split("test"), source.split("train")))["fd"]
    assert by_metric(evaluator.unprompted(perfect).scores)["fd"].value < 0.5 * floor.value
