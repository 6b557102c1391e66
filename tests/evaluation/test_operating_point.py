"""The choice of a knob's value: by paired tests, by a distance that wants real diversity."""

import numpy as np
import pytest
import torch

from t2ibench.core.errors import ConfigError, ScoreError
from t2ibench.core.knobs import Knob
from t2ibench.evaluation.measures import Evaluation, extractor_distances
from t2ibench.evaluation.operating_point import Candidate, choose_point
from t2ibench.evaluation.results import by_metric
from t2ibench.metrics.frechet import frechet_estimate
from t2ibench.metrics.kernel import kid_estimate

N, WIDTH = 240, 16
NETWORK = "net@16|native"
KNOB = Knob("guidance_scale", default=2.0, low=0.0, high=20.0, fidelity_alignment=True)
KEYS = [f"p{i:04d}" for i in range(N)]


def rng(seed):
    return torch.Generator().manual_seed(seed)


def candidate(value, x, y, clip, metric="fd"):
    """A point whose features are x and whose CLIP-score image by image is clip."""
    found = Evaluation()
    extractor_distances(found, metric, f"{NETWORK}|x", x, y, KEYS)
    found.add_mean("clip_score[clip|x]", clip, KEYS)
    return Candidate(value, found)


@pytest.fixture(scope="module")
def world():
    """A reference, a set of images near it, and how hard each prompt is."""
    y = torch.randn(400, WIDTH, generator=rng(0))
    x = torch.randn(N, WIDTH, generator=rng(1))
    hard = np.random.default_rng(2).normal(80, 10, N)
    return x, y, hard


def choose(*candidates, metric="kid"):
    return choose_point(candidates, KEYS, metric, NETWORK, KNOB)


def shifted(x, by):
    """The images at another value of the knob: the same prompts and seeds, moved a little."""
    return x + by / WIDTH**0.5


def test_a_distance_that_lies_in_the_other_interval_is_still_worse_in_pairs(world):
    """Unpaired intervals call the two equal, and the higher CLIP-score then wins by its mean."""
    x, y, hard = world
    near, far = candidate(1.0, x, y, hard), candidate(4.0, shifted(x, 0.15), y, hard + 1)
    low, high = (by_metric(c.evaluation.scores)["kid"] for c in (near, far))
    assert low.value < high.value < low.ci_high, "unpaired they are equal"
    choice = choose(near, far)
    assert choice.row == 0 and "at guidance_scale=1" in choice.reason


def test_noise_in_alignment_does_not_move_the_knob(world):
    x, y, hard = world
    noise = np.random.default_rng(5).normal(0, 8, N)
    lucky = hard + noise - noise.mean() + 0.4
    assert lucky.mean() > hard.mean()
    assert choose(candidate(1.0, x, y, hard), candidate(2.0, x, y, lucky)).row == 0


def test_a_distinguishable_gain_at_no_cost_in_distance_is_taken(world):
    x, y, hard = world
    jitter = torch.randn(N, WIDTH, generator=rng(9)) * 0.02
    points = [candidate(w, x - jitter * w, y, hard + w) for w in (1.0, 2.0, 3.0)]
    choice = choose(*points)
    assert (
        choice.row == 2
        and "guidance_scale=1;" in choice.reason
        and "clip_score is 2.00 higher" in choice.reason
    )
    assert choice.edge == "highest"


def test_without_alignment_the_lowest_distance_is_chosen(world):
    x, y, _ = world
    points = []
    for value, by in [(1.0, 1.0), (2.0, 0.0), (3.0, 0.8)]:
        found = Evaluation()
        extractor_distances(found, "fd", f"{NETWORK}|x", shifted(x, by), y, KEYS)
        points.append(Candidate(value, found))
    choice = choose(*points, metric="fd")
    assert (choice.row, choice.edge) == (1, "")


def test_the_named_network_decides_and_not_another_of_that_metric(world):
    """With Inception first, its ``fid`` decides, whatever a dual encoder's ``fd`` says."""
    x, y, hard = world
    good, bad = (candidate(w, shifted(x, by), y, hard, "fid") for w, by in ((1.0, 0.0), (2.0, 1.5)))
    for point, value in ((good, 9.0), (bad, 1.0)):
        point.evaluation.add("fd[clip|x]", frechet_estimate(x * value, y), N)
    assert choose(bad, good, metric="fid").row == 1
    with pytest.raises(ScoreError, match=r"choose_by=fd is not measured by net@16.*choose_by=null"):
        choose(good, bad, metric="fd")


def test_a_frechet_distance_prefers_images_less_diverse_than_reality_and_kid_does_not():
    """With fewer images than features the Fréchet distance is lowest below real diversity."""
    width, images = 1280, 250
    scale = torch.linspace(2, 0.05, width)
    real = torch.randn(2 * images, width, generator=rng(3)) * scale
    x, y = real[:images], real[images:]
    less = x.mean(0) + 0.9 * (x - x.mean(0))
    assert frechet_estimate(less, y).value < frechet_estimate(x, y).value
    assert kid_estimate(less, y).value > kid_estimate(x, y).value
    found = Evaluation()
    found.add(f"fd[{NETWORK}|x]", frechet_estimate(x, y), images)
    with pytest.raises(ScoreError, match=r"underdetermined .N=250.*choose_by=kid"):
        choose_point([Candidate(1.0, found)], range(images), "fd", NETWORK, KNOB)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["protocol.choose_by=fd"], r"1280 features of evaluator.extractors.efficientnet.*has 256"),
        (["protocol.choose_by=fd", "protocol.front.num_images=2000"], "front has 256"),
    ],
)
def test_an_underdetermined_choice_is_refused_before_any_work(words, said):
    from t2ibench.cli.compose import compose_spec

    with pytest.raises(ConfigError, match=said):
        compose_spec(words)
    enough = ["protocol.front.num_images=1281", "protocol.front.reference_size=-1"]
    assert compose_spec(["protocol.choose_by=fd", *enough]).protocol.choose_by == "fd"
