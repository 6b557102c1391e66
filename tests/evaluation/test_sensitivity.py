"""The same images under several conventions: one row each, none mixed."""

import csv
import io

import pytest
from toy_networks import Projection, make_split

from t2ibench.evaluation.evaluator import Evaluator
from t2ibench.evaluation.protocol import Protocol
from t2ibench.evaluation.sensitivity import (
    COLUMNS,
    conventions,
    sensitivity,
    to_csv,
    to_markdown,
    to_text,
)

SPLITS = {name: make_split(name, 160, 1000 * i) for i, name in enumerate(("test", "train"))}
OWN = Protocol("quick", "test", 120, 0)


class Wider(Projection):
    name = "wider"


def extractors():
    return [Projection(), Wider(seed=1, width=12)]


@pytest.fixture(scope="module")
def samples():
    prompts = OWN.prompts(SPLITS["test"])
    pixels = SPLITS["test"].pixels(prompts.indices)
    return prompts.answered_by(pixels.clamp(max=170), {"protocol": OWN.to_dict()})


@pytest.fixture(scope="module")
def table(samples):
    small = Protocol("small", "test", 40, 0)
    large = Protocol("large", "test", 500, 0)
    other = Protocol("other", "test", 40, 7)
    asked = conventions([OWN, small, large, other], extractors(), train=True)
    return sensitivity(samples, asked, SPLITS.__getitem__)


def test_each_row_is_what_the_evaluator_says_under_that_protocol(table, samples):
    rows, _ = table
    labels = [(row.convention.label, row.convention.extractor.name) for row in rows]
    assert labels == [
        ("quick", "projection"), ("quick", "wider"), ("small", "projection"), ("small", "wider"),
        ("quick, 1/2 of the images", "projection"), ("quick, 1/4 of the images", "projection"),
        ("quick, training images", "projection"),
    ]  # fmt: skip
    for row in rows:
        protocol = row.convention.protocol
        alone = Evaluator(
            protocol=protocol,
            reference=SPLITS[protocol.reference_split],
            extractors=[row.convention.extractor],
        )
        assert row.scores == alone.evaluate(samples.take(protocol.num_images)).scores
    assert len({row.distance.key for row in rows}) == len(rows)


def test_fewer_images_are_compared_with_the_same_reference_and_score_worse(table):
    whole, *_, half, quarter, train = table[0]
    assert whole.distance.value < half.distance.value < quarter.distance.value
    assert quarter.distance.key.endswith("|30/120]") and "toy/test" in quarter.distance.key
    assert "toy/train" in train.distance.key


def test_what_does_not_fit_is_one_sentence(table):
    refused = table[1]
    assert len(refused) == 4
    assert sum("large" in text and "scores 500 images" in text for text in refused) == 2
    assert sum("other" in text and "sampling_seed=0" in text for text in refused) == 2


def test_a_protocol_that_names_its_network_is_scored_with_it_alone():
    named = Protocol("named", "test", 40, 0, extractor=extractors()[1].key)
    found = conventions([OWN, named], extractors(), train=False)
    assert [c.extractor.name for c in found if c.label == "named"] == ["wider"]
    assert conventions([Protocol("x", "test", 9, 0, extractor="no")], extractors(), True) == []


def test_the_three_forms_carry_the_same_numbers(table):
    rows, refused = table
    parsed = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert list(parsed[0]) == list(COLUMNS) and len(parsed) == len(rows)
    markdown, text = to_markdown(rows, refused), to_text(rows, refused)
    for line, row in zip(parsed, rows, strict=True):
        assert float(line["value"]) == pytest.approx(row.distance.value, abs=5e-4)
        assert line["key"] == row.distance.key
        assert line["value"] in markdown and line["value"] in text
    assert parsed[0]["of the first"] == "1.000"
    widths = {line.count("|") for line in markdown.splitlines() if line.startswith("|")}
    assert widths == {len(COLUMNS)}
    assert all(reason in markdown and reason in text for reason in refused)
