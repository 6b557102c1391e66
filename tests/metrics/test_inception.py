"""Inception-v3 against torch-fidelity and torchmetrics on the same random weights."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from metrics.random_inception import pictures, write_random_weights
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import (
    interpolate_bilinear_2d_like_tensorflow1x,
)

from t2ibench.core.errors import CheckpointError, ConfigError, MissingWeightsError
from t2ibench.metrics.extractors import inception
from t2ibench.metrics.extractors.inception import (
    RESIZES,
    InceptionV3,
    NormedConv,
    resize_pil,
    resize_tf1,
)
from t2ibench.metrics.frechet import frechet_distance


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_random_weights(tmp_path_factory.mktemp("inception") / "random.pth")


@pytest.fixture(scope="module")
def ours(weights) -> InceptionV3:
    return InceptionV3(weights)


@pytest.fixture(scope="module")
def fidelity(weights) -> FeatureExtractorInceptionV3:
    return FeatureExtractorInceptionV3("parity", ["2048"], str(weights))


@pytest.mark.parametrize("side", [32, 64, 100, 299, 340])
def test_resize_equals_tensorflow_1(side):
    images = pictures(2, side).float()
    theirs = interpolate_bilinear_2d_like_tensorflow1x(images, (299, 299), align_corners=False)
    assert torch.allclose(resize_tf1(images, 299), theirs, atol=2e-3)


def test_features_equal_torch_fidelity(ours, fidelity):
    """Folding and the memory layout reorder sums and so round differently."""
    pixels = pictures(3, 299)
    (theirs,) = fidelity(pixels)
    assert theirs.std() > 0.05
    assert (ours.features(pixels) - theirs).norm() / theirs.norm() < 2e-5
    (small,) = fidelity(pictures(3, 64))
    assert (ours.features(pictures(3, 64)) - small).norm() / small.norm() < 2e-5


def test_folding_changes_neither_the_state_dict_nor_the_features(ours, weights):
    plain = copy.deepcopy(ours)
    for module in plain.modules():
        if isinstance(module, NormedConv):
            module.folded_weight = module.folded_bias = None
    pixels = pictures(2, 64)
    expected = plain.features(pixels)
    assert (ours.features(pixels) - expected).norm() / expected.norm() < 5e-5
    assert set(ours.state_dict()) == set(torch.load(weights, weights_only=True))
    assert ours.fingerprint == plain.fingerprint


@pytest.mark.parametrize("side", [32, 64, 299, 340])
def test_pil_bicubic_is_clean_fids_resizer_to_the_bit(side):
    from cleanfid.resize import build_resizer

    pixels = pictures(2, side)
    resizer = build_resizer("clean")
    theirs = [resizer(image.permute(1, 2, 0).numpy()).transpose(2, 0, 1) for image in pixels]
    assert (resize_pil(pixels.float(), 299).numpy() == np.stack(theirs)).all()


def test_each_resize_has_a_key_and_features_of_its_own(weights, ours):
    from torchmetrics.image.fid import NoTrainInceptionV3

    pixels = pictures(3, 64)
    modes = {name: InceptionV3(weights, resize=name) for name in RESIZES}
    assert len({mode.key for mode in modes.values()}) == 3
    assert modes["tf1-bilinear"].key == ours.key
    features = {name: mode.features(pixels) for name, mode in modes.items()}
    scale = features["tf1-bilinear"].norm()
    for name in ("pil-bicubic", "half-pixel-antialias"):
        assert (features[name] - features["tf1-bilinear"]).norm() / scale > 0.01
    default = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights)).eval()
    gap = features["half-pixel-antialias"] - default(pixels)
    assert gap.norm() / scale < 2e-5
    with pytest.raises(ConfigError, match="tf1-bilinear or pil-bicubic"):
        InceptionV3(weights, resize="nearest")


def test_logits_equal_those_that_torch_fidelity_scores(ours, weights):
    """The same features give the same logits; that features are the same is a test of its own."""
    theirs = FeatureExtractorInceptionV3("parity", ["2048", "logits_unbiased"], str(weights))
    features, expected = theirs(pictures(3, 64))
    assert (ours.logits(features) - expected).norm() / expected.norm() < 1e-6


def test_distance_equals_torch_fidelity_and_not_torchmetrics_default(ours, fidelity, weights):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torchmetrics.image.fid import NoTrainInceptionV3

    real, fake = pictures(8, 64, 1), (pictures(8, 64, 2) * 0.8).byte()
    theirs = [fidelity(p)[0] for p in (fake, real)]
    mine = [ours.features(p) for p in (fake, real)]
    found = frechet_distance(*mine)
    assert found == pytest.approx(frechet_distance(*theirs), rel=1e-4)
    some = [fid_features_to_statistics(features[:, :160]) for features in theirs]
    reference = fid_statistics_to_metric(*some, verbose=False)["frechet_inception_distance"]
    part = frechet_distance(*(features[:, :160] for features in mine))
    assert part == pytest.approx(float(reference), rel=1e-4)
    default = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights)).eval()
    shifted = frechet_distance(default(fake), default(real))
    assert abs(shifted / found - 1) > 0.003, "torchmetrics' default resize shifts the grid"


def test_a_feature_depends_on_its_image_alone(ours):
    pixels = pictures(3, 64)
    whole = ours.features(pixels)
    assert torch.allclose(whole[1:2], ours.features(pixels[1:2]), atol=1e-4)


def test_only_the_published_hash_is_called_fid(ours, monkeypatch):
    assert ours.distance_name == "fd" and ours.name == "inception-v3-foreign"
    assert not ours.published
    monkeypatch.setattr(inception, "PUBLISHED_SHA256", ours.sha256[:8])
    assert ours.distance_name == "fid" and ours.published
    assert ours.key == "inception-v3-foreign@2048|tf1-bilinear-299"


def test_absent_and_foreign_files_are_named(monkeypatch, tmp_path):
    monkeypatch.delenv("T2IBENCH_INCEPTION", raising=False)
    with pytest.raises(MissingWeightsError, match="6726825d"):
        InceptionV3()
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    monkeypatch.setenv("T2IBENCH_INCEPTION", str(tmp_path / "other.pth"))
    with pytest.raises(CheckpointError, match="566 tensors"):
        InceptionV3()


def test_from_pixels_to_fid_as_torchmetrics_without_antialiasing(ours, weights):
    """And not as its default, which resizes by another grid: so nobody mends it."""
    from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

    generated, real = (pictures(16, 64, 5) * 0.7).byte(), pictures(16, 64, 6)
    found = frechet_distance(ours.features(generated), ours.features(real))
    distances = {}
    for antialias in (False, True):
        network = NoTrainInceptionV3(
            "inception-v3-compat", ["2048"], str(weights), antialias=antialias
        )
        network.num_features = 2048
        metric = FrechetInceptionDistance(network)
        metric.update(generated, real=False)
        metric.update(real, real=True)
        distances[antialias] = float(metric.compute())
    assert found == pytest.approx(distances[False], rel=1e-4)
    assert abs(found / distances[True] - 1) > 1e-3


def test_a_file_of_anything_else_is_named(tmp_path):
    for name, content in (("page.pth", b"<html>"), ("empty.pth", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name} does not hold the 566 tensors"):
            InceptionV3(tmp_path / name)
