import numpy as np
import pytest
import torch

from t2ibench.core.errors import DataError
from t2ibench.data.shapes.source import ShapesSource
from t2ibench.evaluation.evaluator import Evaluator
from t2ibench.evaluation.protocol import Protocol
from t2ibench.evaluation.results import by_metric
from t2ibench.evaluation.shapes_grading import ShapesGrader


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    return ShapesSource(
        level="L1+L2", resolution=32, num_train=8, num_val=8, num_test=60, cache_dir=folder
    )


def test_ground_truth_is_right_and_wrong_captions_are_not(source):
    grader = ShapesGrader(source.world)
    protocol = Protocol("dev", "test", 60, 0)
    evaluator = Evaluator(protocol=protocol, reference=source.split("test"), grader=grader)
    truth = by_metric(evaluator.ground_truth(source.split("test")))
    for skill in ("grader_colour", "grader_shape", "grader_exact", "grader_relation"):
        assert truth[skill].value >= 0.95, skill
    assert truth["grader_colour"].n == 60 > truth["grader_relation"].n > 0
    prompts = protocol.prompts(source.split("test"))
    turned = torch.flip(source.split("test").pixels(prompts.indices), (0,))
    evaluation = evaluator.evaluate(prompts.answered_by(turned))
    assert by_metric(evaluation.scores)["grader_exact"].value < 0.2


def test_exact_grades_are_split_by_the_number_of_objects(source):
    protocol, split = Protocol("dev", "test", 60, 0), source.split("test")
    evaluator = Evaluator(protocol=protocol, reference=split, grader=ShapesGrader(source.world))
    prompts = protocol.prompts(split)
    # Every third image is another one, so that some grades are wrong.
    rows = [i if n % 3 else prompts.indices[0] for n, i in enumerate(prompts.indices)]
    found = evaluator.evaluate(prompts.answered_by(split.pixels(rows)))
    scenes = [split.records[i].meta["scene"] for i in prompts.indices]
    numbers = [len(scene["objects"]) for scene in scenes]
    column = next(v for k, v in found.columns.items() if k.startswith("grader_exact["))
    assert [point.objects for point in found.atomicity] == sorted(set(numbers)) and len(
        set(numbers)
    ) > 1
    for point in found.atomicity:
        mine = column[np.array(numbers) == point.objects]
        assert (point.value, point.n) == (pytest.approx(mine.mean()), len(mine))
        assert point.ci_low <= point.value <= point.ci_high


def test_paraphrases_mean_the_same(source):
    grader = ShapesGrader(source.world)
    first = grader.meaning("a large red circle on a white background")
    assert first == grader.meaning("a white background with a big red circle")
    assert first != grader.meaning("a large blue circle on a white background")


def test_skills_that_are_not_asked_are_nan(source):
    grader = ShapesGrader(source.world)
    answers = grader.grade(source.split("test").pixels([0]), ["a red circle"])
    assert np.isnan(answers["size"]).all() and not np.isnan(answers["colour"]).any()


def test_foreign_words_are_named(source):
    with pytest.raises(DataError, match="unicorn"):
        ShapesGrader(source.world).meaning("a red unicorn")
