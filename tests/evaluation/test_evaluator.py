from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_networks import BrightnessGrader, PictureAligner, Projection, make_split

from t2ibench.core.errors import ScoreError
from t2ibench.data.records import PreparedSplit
from t2ibench.evaluation.evaluator import NO_CAPTIONS, NO_JUDGE_OF_ALIGNMENT, Evaluator
from t2ibench.evaluation.measures import HardNegatives
from t2ibench.evaluation.protocol import Protocol
from t2ibench.evaluation.results import by_metric
from t2ibench.metrics.bootstrap import bootstrap_mean
from t2ibench.metrics.frechet import frechet_distance
from t2ibench.metrics.kernel import kid
from t2ibench.metrics.memorisation import nearest_training

N = 120
PROTOCOL = Protocol("dev", "test", N, 0)


@pytest.fixture(scope="module")
def test_split():
    return make_split("test", 160)


def evaluator(split, **changes):
    fields = {
        "protocol": PROTOCOL,
        "reference": split,
        "extractors": [Projection()],
        "dual_encoders": [PictureAligner()],
        "grader": BrightnessGrader(),
    }
    return Evaluator(**(fields | changes))


def drawn(split, noise=0):
    prompts = PROTOCOL.prompts(split)
    pixels = split.pixels(prompts.indices).int()
    blur = torch.randint(0, noise + 1, pixels.shape, generator=torch.Generator().manual_seed(1))
    return prompts.answered_by((pixels + blur).clamp(0, 255).to(torch.uint8))


def test_scores_equal_the_metrics_on_the_same_features(test_split):
    samples = drawn(test_split, noise=60)
    extractor = Projection()
    found = by_metric(evaluator(test_split).evaluate(samples).scores)
    x = extractor.features(samples.pixels)
    y = extractor.features(test_split.pixels(PROTOCOL.reference(test_split)))
    assert found["fd"].value == pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert found["kid"].value == pytest.approx(kid(x, y), rel=1e-9)
    image = PictureAligner().image_features(samples.pixels)
    text = PictureAligner().text_features(samples.captions)
    cosine = torch.nn.functional.cosine_similarity(image, text).double()
    assert found["clip_score"].value == pytest.approx(100 * float(cosine.mean()), rel=1e-5)
    expected = bootstrap_mean(100 * cosine.numpy(), samples.keys)
    assert found["clip_score"].ci_low == pytest.approx(expected.ci_low, rel=1e-5)


def test_every_score_has_its_interval_count_and_key(test_split):
    evaluation = evaluator(test_split).evaluate(drawn(test_split, noise=60))
    names = {key.split("[")[0] for key in evaluation.scores}
    assert names == {
        "fd", "kid", "precision", "recall", "density", "coverage",
        "cmmd-style", "vendi", "clip_score", "r_precision", "grader_colour",
    }  # fmt: skip
    for key, score in evaluation.scores.items():
        assert score.key == key and score.ci_low <= score.value <= score.ci_high
        assert score.n == (N if "grader" not in key else score.n) and score.n <= N
    fd = by_metric(evaluation.scores)["fd"]
    fingerprint = Projection().fingerprint[:8]
    assert fd.key == (
        f"fd[projection@6|native-8|{fingerprint}|toy/test:{test_split.fingerprint[:8]}|{N}]"
    )
    assert all(len(column) == N for column in evaluation.columns.values())


def test_a_skill_counts_only_the_images_that_were_asked(test_split):
    samples = drawn(test_split)
    evaluation = evaluator(test_split).evaluate(samples)
    skill = by_metric(evaluation.scores)["grader_colour"]
    asked = ["red" in caption for caption in samples.captions]
    assert 0 < skill.n == sum(asked) < N
    np.testing.assert_array_equal(~np.isnan(evaluation.columns[skill.key]), asked)


def test_scores_grow_with_damage_and_show_misalignment(test_split):
    scorer = evaluator(test_split)
    values = [by_metric(scorer.evaluate(drawn(test_split, n)).scores) for n in (10, 60, 150)]
    for metric in ("fd", "kid", "cmmd-style"):
        assert values[0][metric].value < values[1][metric].value < values[2][metric].value
    right = drawn(test_split)
    rolled = type(right)(
        right.pixels, right.captions[7:] + right.captions[:7], right.keys, right.seeds
    )
    wrong = by_metric(scorer.evaluate(rolled).scores)
    assert values[0]["r_precision"].value == 1.0
    assert wrong["r_precision"].value < 0.1
    assert wrong["fd"].value == pytest.approx(0, abs=1e-6)


def test_chunks_do_not_change_scores(test_split, monkeypatch):
    samples = drawn(test_split, noise=60)
    whole = evaluator(test_split).evaluate(samples).scores
    for file in ("evaluator", "real_features", "caption_features"):
        monkeypatch.setattr(f"t2ibench.evaluation.{file}.CHUNK", 17)
    pieces = evaluator(test_split).evaluate(samples).scores
    assert whole.keys() == pieces.keys()
    for key in whole:
        assert whole[key].value == pytest.approx(pieces[key].value, rel=1e-5, abs=1e-9)


def test_the_floor_uses_other_real_images(test_split):
    scorer = evaluator(test_split)
    train = make_split("train", 300, offset=5000)
    floor = by_metric(scorer.floor(train))
    damaged = by_metric(scorer.evaluate(drawn(test_split, noise=150)).scores)
    assert 0 < floor["fd"].value < damaged["fd"].value
    assert floor["fd"].key == damaged["fd"].key
    assert "clip_score" not in floor and "grader_colour" not in floor
    assert scorer.floor(test_split, train) == scorer.floor(train), "the first with enough images"
    with pytest.raises(ScoreError, match="needs 120 images.*, 40 of toy/test are left"):
        scorer.floor(test_split)


def test_the_floor_is_the_real_images_of_the_prompts_where_the_reference_has_none_of_them():
    split = make_split("test", 2 * N)
    scorer = evaluator(split)
    assert scorer.protocol.reference_records == "disjoint"
    floor, real = scorer.floor(split), scorer.evaluate(drawn(split)).scores
    assert floor == {key: real[key] for key in floor}
    assert all(f"|toy/test[{N}:]:" in key for key in floor), "the key names the reference"
    shared = evaluator(split, protocol=replace(PROTOCOL, reference_records="shared"))
    assert not set(shared.evaluate(drawn(split)).scores) & set(floor)


def test_another_preparation_of_the_references_split_stands_for_it():
    """Its pixels and fingerprint differ, its records do not."""
    split = make_split("test", 2 * N)
    larger = PreparedSplit(split.name, split.images.repeat(2, 2).repeat(2, 3), split.records)
    scorer = evaluator(split)
    assert scorer.floor(larger) == scorer.floor(split)
    assert scorer.ground_truth(larger) == scorer.ground_truth(split)
    whole = evaluator(split, protocol=replace(PROTOCOL, reference_size=2 * N))
    with pytest.raises(ScoreError, match="0 of toy/test are left"):
        whole.floor(larger)
    train = PreparedSplit("toy/train", larger.images, larger.records)
    with pytest.raises(ScoreError, match="toy/train has 16 px and the reference toy/test 8 px"):
        whole.floor(train)


def test_ground_truth_gives_alignment_on_the_same_prompts(test_split):
    scorer = evaluator(test_split)
    truth = scorer.ground_truth(test_split)
    made = scorer.evaluate(drawn(test_split)).scores
    assert {"clip_score", "r_precision", "grader_colour"} == set(by_metric(truth))
    assert all(truth[key].value == made[key].value for key in truth)


class Watched(PreparedSplit):
    """A split that remembers the most images that were asked of it at once."""

    most = 0

    def pixels(self, indices):
        found = super().pixels(indices)
        self.most = max(self.most, len(found))
        return found


def test_real_images_are_read_a_few_at_a_time():
    whole, other = make_split("test", 700), make_split("train", 700)
    split, train = (Watched(s.name, s.images, s.records) for s in (whole, other))
    asked = Protocol("dev", "test", 600, 0, reference_records="shared", reference_size=-1)
    scorer = evaluator(split, protocol=asked)
    scorer.floor(train)
    scorer.ground_truth(split)
    asked_rows = []

    def rebuilt(rows):
        asked_rows.append(rows)
        return split.pixels(prompts.indices[rows])

    prompts = asked.prompts(split)
    assert scorer.answers(prompts, rebuilt).scores.keys() >= scorer.floor(train).keys()
    assert len(asked_rows) == 3 and split.most == train.most == 256


class Store:
    def __init__(self):
        self.kept = {}

    def get_or_build(self, key, build):
        if key not in self.kept:
            self.kept[key] = build()
        return self.kept[key]


def test_reference_features_are_cached_by_content(test_split):
    store = Store()
    first = evaluator(test_split, cache=store).evaluate(drawn(test_split, 60))
    extractor = Projection()
    second = evaluator(test_split, cache=store, extractors=[extractor])
    assert second.evaluate(drawn(test_split, 60)).scores == first.scores
    assert extractor.calls == N, "only the generated images were embedded"
    assert len(store.kept) == 2
    other_weights = Projection(seed=1)
    evaluator(test_split, cache=store, extractors=[other_weights]).evaluate(drawn(test_split, 60))
    assert len(store.kept) == 3 and other_weights.calls == 2 * N


def test_images_without_captions_and_without_a_judge_say_both(test_split):
    (why,) = evaluator(test_split).unprompted(drawn(test_split)).absent.values()
    assert why == NO_CAPTIONS
    (why,) = evaluator(test_split, dual_encoders=()).unprompted(drawn(test_split)).absent.values()
    assert NO_CAPTIONS in why and NO_JUDGE_OF_ALIGNMENT in why


def test_underdetermined_distances_say_so(test_split):
    scores = evaluator(test_split, extractors=[Projection(width=150)]).evaluate(drawn(test_split))
    assert "underdetermined" in by_metric(scores.scores)["fd"].note


def test_few_meanings_give_no_r_precision(test_split):
    scorer = evaluator(test_split, meaning=lambda caption: caption.split()[-1])
    assert "r_precision" not in by_metric(scorer.evaluate(drawn(test_split)).scores)


def test_another_size_or_resolution_is_refused(test_split):
    scorer = evaluator(test_split)
    with pytest.raises(ScoreError, match="scores 120 images, the set has 60"):
        scorer.evaluate(drawn(test_split).take(60))
    samples = drawn(test_split)
    small = type(samples)(
        samples.pixels[..., :4, :4], samples.captions, samples.keys, samples.seeds
    )
    with pytest.raises(ScoreError, match="the images are 4 px"):
        scorer.evaluate(small)


def other_colour(caption):
    """One nearly true caption for round things, none for the others."""
    if "red" not in caption:
        return ()
    return (caption.replace("red", "blue"), caption.replace("red", "green"))


def test_hard_negatives_have_a_key_of_their_own_and_count_who_was_asked(test_split):
    negatives = HardNegatives("colours", 2, other_colour)
    samples = drawn(test_split, noise=60)
    evaluation = evaluator(test_split, negatives=negatives).evaluate(samples)
    hard = by_metric(evaluation.scores)["r_precision_hard"]
    asked = np.array(["red" in caption for caption in samples.captions])
    assert hard.key.endswith("|1-of-3|colours]") and hard.n == asked.sum()
    assert hard.value == 1.0, "another colour is another picture in this toy world"
    np.testing.assert_array_equal(np.isnan(evaluation.columns[hard.key]), ~asked)
    wrong = tuple(caption.replace("red", "blue") for caption in samples.captions)
    turned = type(samples)(samples.pixels, wrong, samples.keys, samples.seeds)
    swapped = HardNegatives("colours", 1, lambda c: (c.replace("blue", "red"),))
    fooled = evaluator(test_split, negatives=swapped).evaluate(turned)
    column = next(v for k, v in fooled.columns.items() if k.startswith("r_precision_hard"))
    assert np.nanmax(column[asked]) == 0.0, "a red picture is nearer its red negative"


def test_folds_are_scored_where_the_protocol_asks(test_split):
    folded = Protocol("dev", "test", N, 0, r_precision_folds=10)
    found = by_metric(evaluator(test_split, protocol=folded).evaluate(drawn(test_split, 60)).scores)
    assert found["r_precision_folds"].value == pytest.approx(found["r_precision"].value)
    assert "sd of 10 folds" in found["r_precision_folds"].note


def test_the_protocols_network_must_be_among_the_extractors(test_split):
    asked = Protocol("dev", "test", N, 0, extractor="inception-v3-tf2015@2048|tf1-bilinear-299")
    with pytest.raises(ScoreError, match="measures with inception-v3"):
        evaluator(test_split, protocol=asked)


def test_copies_of_training_images_are_told_from_fresh_ones(test_split):
    """Fresh images of the toy world repeat its pictures with other noise; copies repeat both."""
    train = make_split("train", 400, offset=1000)
    asked = Protocol("dev", "test", N, 0, memorisation=True)
    fresh = evaluator(test_split, protocol=asked, train=train).evaluate(drawn(test_split))
    found = by_metric(fresh.scores)["authpct"]
    assert "|toy/train:" in found.key and found.key.endswith(f"|{N}/400]")
    assert 0.3 < found.value < 0.8
    floor = by_metric(evaluator(test_split, protocol=asked, train=train).floor(train))["authpct"]
    expected = nearest_training(
        Projection().features(test_split.pixels(asked.reference(test_split))),
        Projection().features(train.pixels(range(len(train)))),
    )
    assert floor.value == pytest.approx(float(expected.authentic.double().mean()))
    assert floor.key == found.key and floor.n == N
    assert f"held-out real images have {100 * floor.value:.1f}%" in found.note
    prompts = PROTOCOL.prompts(test_split)
    copies = prompts.answered_by(train.pixels(range(N)))
    scored = evaluator(test_split, protocol=asked, train=train).evaluate(copies)
    assert by_metric(scored.scores)["authpct"].value == 0.0
    silent = evaluator(test_split).evaluate(drawn(test_split))
    assert "authpct" not in by_metric(silent.scores)


def test_scores_and_intervals_do_not_depend_on_the_order_of_the_images(test_split):
    samples = drawn(test_split, noise=60)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0)).tolist()
    turned = type(samples)(
        samples.pixels[order],
        *(tuple(part[i] for i in order) for part in (samples.captions, samples.keys)),
        tuple(samples.seeds[i] for i in order),
    )
    found = evaluator(test_split).evaluate(samples).scores
    again = evaluator(test_split).evaluate(turned).scores
    assert list(found) == list(again)
    for key, score in found.items():
        ends = (score.value, score.ci_low, score.ci_high)
        assert (again[key].value, again[key].ci_low, again[key].ci_high) == pytest.approx(
            ends, rel=1e-6, abs=1e-9
        ), key
