"""Published weights, where this machine has them: the names that only they may carry.

Their files do not come with this package, so without T2IBENCH_INCEPTION, T2IBENCH_CLIP and
T2IBENCH_DINOV2 these tests are skipped and say so; parity on shared random weights runs always.
"""

import os

import pytest
import torch

from t2ibench.core.hashing import hash_file
from t2ibench.metrics.extractors.clip import TransformersClip
from t2ibench.metrics.extractors.dinov2 import Dinov2
from t2ibench.metrics.extractors.inception import InceptionV3
from t2ibench.metrics.extractors.published import DINOV2_L14, INCEPTION


def named(variable: str) -> str:
    """The path in an environment variable, or a skip that names it."""
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} names no file: the published weights are not on this machine")
    return path


def pictures() -> torch.Tensor:
    stream = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 3, 7, 7, generator=stream) * 255
    return torch.nn.functional.interpolate(coarse, 64, mode="bicubic").clamp(0, 255).byte()


def test_published_inception_is_fid_and_equals_torch_fidelity():
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = named("T2IBENCH_INCEPTION")
    assert hash_file(path) == INCEPTION.files[0].sha256
    ours = InceptionV3(path)
    assert ours.distance_name == "fid" and ours.name == "inception-v3-tf2015"
    (theirs,) = FeatureExtractorInceptionV3("published", ["2048"], path)(pictures())
    assert (ours.features(pictures()) - theirs).norm() / theirs.norm() < 2e-5


def test_published_clip_prefers_the_true_caption():
    clip = TransformersClip(named("T2IBENCH_CLIP"))
    red, blue = (torch.zeros(1, 3, 64, 64, dtype=torch.uint8) for _ in range(2))
    red[:, 0], blue[:, 2] = 255, 255
    image = torch.nn.functional.normalize(clip.image_features(torch.cat([red, blue])), dim=1)
    captions = ["a plain red picture", "a plain blue picture"]
    text = torch.nn.functional.normalize(clip.text_features(captions), dim=1)
    scores = image @ text.T
    assert (scores.diagonal() > scores.flip(1).diagonal()).all()


def test_published_dinov2_is_the_file_that_is_named():
    folder = named("T2IBENCH_DINOV2")
    assert hash_file(f"{folder}/model.safetensors") == DINOV2_L14.files[0].sha256
    assert Dinov2(folder).features(pictures()).shape == (8, 1024)
