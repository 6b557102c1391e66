"""torchmetrics faces: streamed equals whole, reset forgets, states merge."""

import pytest
import torch

from t2ibench.core.types import PixelImages
from t2ibench.metrics.extractors.base import FeatureExtractor
from t2ibench.metrics.frechet import frechet_distance
from t2ibench.metrics.kernel import kid
from t2ibench.metrics.streaming import FrechetDistance, KernelDistance


class CornerColours(FeatureExtractor):
    """Twelve numbers: the means of the four quarters."""

    name, preprocessing, width = "quarters", "none", 12

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1 / 255))

    def forward(self, pixels: PixelImages) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(pixels.float(), 2).flatten(1) * self.scale


def pictures(count: int, seed: int) -> torch.Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randint(0, 200 + seed, (count, 3, 8, 8), generator=stream).byte()


def distances(x: torch.Tensor, y: torch.Tensor) -> dict[type, float]:
    features = CornerColours().features
    return {
        FrechetDistance: frechet_distance(features(x), features(y)),
        KernelDistance: kid(features(x), features(y)),
    }


@pytest.mark.parametrize("metric", [FrechetDistance, KernelDistance])
def test_streamed_equals_whole_and_reset_forgets(metric):
    real, fake = pictures(90, 0), pictures(70, 30)
    streaming = metric(CornerColours())
    for _ in range(2):
        for part in real.split(32):
            streaming.update(part, real=True)
        for part in fake.split(17):
            streaming.update(part, real=False)
        whole = distances(fake, real)[metric]
        assert float(streaming.compute()) == pytest.approx(whole, rel=1e-6)
        streaming.reset()


@pytest.mark.parametrize("metric", [FrechetDistance, KernelDistance])
def test_two_processes_merge(metric):
    real, fake = pictures(60, 1), pictures(60, 31)
    first, second = metric(CornerColours()), metric(CornerColours())
    for part, images in ((first, slice(0, 25)), (second, slice(25, 60))):
        part.update(real[images], real=True)
        part.update(fake[images], real=False)
    first.merge_state(second)
    assert float(first.compute()) == pytest.approx(distances(fake, real)[metric], rel=1e-6)


def test_extractor_contract():
    extractor = CornerColours()
    assert extractor.key == "quarters@12|none" and len(extractor.fingerprint) == 12
    assert extractor.features(pictures(0, 1)).shape == (0, 12)
    changed = CornerColours()
    changed.scale.data.mul_(2)
    assert changed.fingerprint != extractor.fingerprint
