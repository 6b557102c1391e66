import numpy as np
import pytest

from t2ibench.data.check import check_source
from t2ibench.data.records import PreparedSplit, Record


class ToySource:
    name = "toy"
    resolution = 4
    fingerprint = "f"
    splits = ("train", "test")
    world = None

    def __init__(self, train, test, pixels=None):
        self.records = {"train": train, "test": test}
        self.pixels = pixels or {"train": [1, 2], "test": [3, 4]}

    def count(self, name):
        return len(self.records[name])

    def captions_with_every_word(self, name):
        return [caption for record in self.records[name] for caption in record.captions]

    def split_fingerprint(self, name):
        return self.split(name).fingerprint

    def split(self, name):
        values = np.array(self.pixels[name], dtype=np.uint8)
        images = np.broadcast_to(values[:, None, None, None], (len(values), 3, 4, 4)).copy()
        return PreparedSplit(f"toy/{name}", images, self.records[name])


def record(key, captions=("fine",), group=None):
    return Record(key, captions, group or key, "s")


GOOD = [record("c"), record("d")]


def test_a_good_source_is_ok():
    report = check_source(ToySource([record("a"), record("b")], GOOD))
    assert report.ok and report.counts == {"train": 2, "test": 2}
    assert "toy: train 2, test 2" in str(report) and str(report).endswith("ok")


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ([record("a"), record("a")], "1 keys occur more than once (first: a)"),
        ([record("a"), record("b", ())], "train: 1 images have no caption (first: b)"),
        ([record("a"), record("b", ("x\ty",))], "control"),
        ([record("a"), record("b", ("cafe\u0301",))], "control"),
        ([record("a"), record("b", ("",))], "empty"),
        ([record("a"), record("b", group="d")], "1 groups are in more than one split"),
    ],
)
def test_each_broken_promise_is_one_sentence(train, sentence):
    report = check_source(ToySource(train, GOOD))
    assert not report.ok and len(report.problems) == 1
    assert sentence in report.problems[0]


def test_an_identical_image_in_two_splits_is_a_problem_in_one_a_note():
    train = [record("a"), record("b")]
    shared = check_source(ToySource(train, GOOD, {"train": [1, 2], "test": [2, 3]}))
    assert "1 identical images are in more than one split (first: b and c)" in shared.problems[0]
    repeated = check_source(ToySource(train, GOOD, {"train": [1, 1], "test": [2, 3]}))
    assert repeated.ok and "1 images repeat another of their own split" in repeated.notes


def test_groups_may_cross_where_the_source_says_so():
    source = ToySource([record("a"), record("b", group="d")], GOOD)
    source.groups_cross_splits = True
    assert check_source(source).ok
