"""The Inception Score in the evaluator: torch-fidelity's number, for published weights alone."""

import pytest
import torch
from metrics.random_inception import pictures, write_random_weights
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_isc import isc_features_to_metric

from t2ibench.core.hashing import derive_seed
from t2ibench.data.records import PreparedSplit, Record
from t2ibench.evaluation.evaluator import Evaluator
from t2ibench.evaluation.protocol import Protocol
from t2ibench.evaluation.results import by_metric
from t2ibench.metrics.extractors import inception
from t2ibench.metrics.extractors.inception import InceptionV3
from t2ibench.reporting.statistics.metrics import metric_of

N = 24


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_random_weights(tmp_path_factory.mktemp("inception") / "random.pth")


@pytest.fixture(scope="module")
def split():
    records = [Record(f"k{i}", (f"caption {i}",), f"k{i}", "test") for i in range(N)]
    return PreparedSplit("toy/test", pictures(N, 32, 1).numpy(), records)


@pytest.fixture(scope="module")
def samples(split):
    prompts = Protocol("dev", "test", N, 0).prompts(split)
    return prompts.answered_by(pictures(N, 32, 2))


def scored(extractor, split, samples):
    protocol = Protocol("dev", "test", N, 0)
    evaluator = Evaluator(protocol=protocol, reference=split, extractors=[extractor])
    return by_metric(evaluator.evaluate(samples).scores)


def test_the_score_is_torch_fidelitys_on_the_same_images(weights, split, samples, monkeypatch):
    extractor = InceptionV3(weights)
    monkeypatch.setattr(inception, "PUBLISHED_SHA256", extractor.sha256[:8])
    found = scored(extractor, split, samples)
    assert "fid" in found and "fd" not in found
    score = found["inception_score"]
    order = sorted(range(N), key=lambda i: derive_seed("inception parts", repr(samples.keys[i]), 0))
    (logits,) = FeatureExtractorInceptionV3("parity", ["logits_unbiased"], str(weights))(
        samples.pixels[order]
    )
    theirs = isc_features_to_metric(logits, splits=10, shuffle=False)
    assert score.value == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert score.note == f"sd of 10 splits {theirs['inception_score_std']:.4f}"
    assert score.ci_low < score.value < score.ci_high and score.n == N
    assert score.key == (
        f"inception_score[inception-v3-foreign@2048|tf1-bilinear-299|"
        f"{extractor.fingerprint[:8]}|{N}|10-splits]"
    )
    assert metric_of(score.key).title == "IS"


def test_other_weights_and_few_images_give_none(weights, split, samples, monkeypatch):
    extractor = InceptionV3(weights)
    found = scored(extractor, split, samples)
    assert "fd" in found and "inception_score" not in found
    monkeypatch.setattr(inception, "PUBLISHED_SHA256", extractor.sha256[:8])
    few = Protocol("few", "test", 19, 0)
    evaluator = Evaluator(protocol=few, reference=split, extractors=[extractor])
    features = torch.randn(19, 2048, generator=torch.Generator().manual_seed(0))
    evaluation = evaluator.of_features(extractor.key, features, samples.keys[:19])
    assert "fid" in by_metric(evaluation.scores)
    assert "inception_score" not in by_metric(evaluation.scores)
