"""Whole published commands against ours: from PNGs to the score, on one Inception-v3."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from t2ibench.metrics.extractors.inception import InceptionV3
from t2ibench.metrics.frechet import frechet_distance
from t2ibench.metrics.kernel import kid
from t2ibench.metrics.neighbours import neighbours

COUNT, SIDE = 10, 64


def pictures(seed: int) -> torch.Tensor:
    """Smooth pictures; the two sets differ in contrast, so that no score is trivial."""
    stream = torch.Generator().manual_seed(seed)
    coarse = 40 * seed + torch.rand(COUNT, 3, 6, 6, generator=stream) * (255 - 40 * seed)
    return torch.nn.functional.interpolate(coarse, SIDE, mode="bicubic").clamp(0, 255).byte()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """torch-fidelity's own network with random weights, calibrated on pictures and noise."""
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        torch.save({}, path)
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = FeatureExtractorInceptionV3("random", ["2048"], str(path))
        noise = torch.randint(0, 256, (3, 3, SIDE, SIDE)).byte()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train().momentum = None
    with torch.no_grad():
        network(torch.cat([pictures(2)[:3], noise]))
    torch.save(network.eval().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Generated and real images as PNG files."""
    root = tmp_path_factory.mktemp("pictures")
    for seed, name in ((1, "generated"), (0, "real")):
        (root / name).mkdir()
        for number, image in enumerate(pictures(seed)):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            picture.save(root / name / f"{number:03d}.png")
    return [root / "generated", root / "real"]


@pytest.fixture(scope="module")
def features(weights, folders) -> list[torch.Tensor]:
    network = InceptionV3(weights)
    sides = [
        np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])
        for folder in folders
    ]
    return [network.features(torch.from_numpy(side).permute(0, 3, 1, 2)) for side in sides]


def test_scores_equal_those_of_torch_fidelity(weights, folders, features):
    from torch_fidelity import calculate_metrics

    theirs = calculate_metrics(
        input1=str(folders[0]),
        input2=str(folders[1]),
        feature_extractor="inception-v3-compat",
        fid=True,
        kid=True,
        kid_subsets=1,
        kid_subset_size=COUNT,
        prc=True,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
        feature_extractor_weights_path=str(weights),
    )
    distance = frechet_distance(*features)
    assert distance == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert kid(*features) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    ours = neighbours(*features).means()
    assert {ours["precision"], ours["recall"]} != {0.0, 1.0}, "the case is trivial"
    assert ours["precision"] == pytest.approx(theirs["precision"])
    assert ours["recall"] == pytest.approx(theirs["recall"])


def test_kid_equals_that_of_torchmetrics_without_antialiasing(weights, features):
    """Its KID has no such argument: the network is given, and reads the pixels here."""
    from torchmetrics.image.fid import NoTrainInceptionV3
    from torchmetrics.image.kid import KernelInceptionDistance

    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights), antialias=False)
    theirs = KernelInceptionDistance(network, subsets=1, subset_size=COUNT)
    theirs.update(pictures(1), real=False)
    theirs.update(pictures(0), real=True)
    assert kid(*features) == pytest.approx(float(theirs.compute()[0]), rel=1e-4)
