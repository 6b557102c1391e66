"""torchmetrics faces: streamed equals whole, reset forgets, states merge."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics import Metric

from t2ibench.core.types import PixelImages
from t2ibench.metrics.diversity import vendi_score
from t2ibench.metrics.extractors.contract import FeatureExtractor
from t2ibench.metrics.frechet import Moments, frechet_distance
from t2ibench.metrics.kernel import cmmd, kid
from t2ibench.metrics.neighbours import neighbours
from t2ibench.metrics.streaming import (
    ClipKernelDistance,
    FrechetDistance,
    KernelDistance,
    PrecisionRecall,
    Vendi,
    merge_packed,
    pack,
    unpack,
)


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


def whole(metric: type, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """What the pure functions say of all images at once."""
    fake, real = CornerColours().features(x), CornerColours().features(y)
    if metric is PrecisionRecall:
        found = neighbours(fake, real)
        names = ("precision", "recall", "density", "coverage")
        return {name: float(getattr(found, name).double().mean()) for name in names}
    score = {
        FrechetDistance: lambda: frechet_distance(fake, real),
        KernelDistance: lambda: kid(fake, real),
        ClipKernelDistance: lambda: cmmd(fake, real),
        Vendi: lambda: vendi_score(fake),
    }[metric]()
    return {"": score}


def computed(metric: Metric) -> dict[str, float]:
    found = metric.compute()
    return {k: float(v) for k, v in (found if isinstance(found, dict) else {"": found}).items()}


METRICS = [FrechetDistance, KernelDistance, ClipKernelDistance, PrecisionRecall, Vendi]


@pytest.mark.parametrize("metric", METRICS)
def test_streamed_equals_whole_and_reset_forgets(metric):
    real, fake = pictures(90, 0), pictures(70, 30)
    streaming = metric(CornerColours())
    for sizes in ((32, 17), (90, 1)):
        for part in fake.flip(0).split(sizes[1]):
            streaming.update(part, real=False)
        for part in real.split(sizes[0]):
            streaming.update(part, real=True)
        assert computed(streaming) == pytest.approx(whole(metric, fake, real), rel=1e-6)
        streaming.reset()


@pytest.mark.parametrize("metric", METRICS)
def test_partial_states_merge(metric):
    real, fake = pictures(60, 1), pictures(60, 31)
    first, second = metric(CornerColours()), metric(CornerColours())
    for part, images in ((first, slice(0, 25)), (second, slice(25, 60))):
        part.update(real[images], real=True)
        part.update(fake[images], real=False)
    first.merge_state(second)
    assert computed(first) == pytest.approx(whole(metric, fake, real), rel=1e-6)


def _rank(rank: int, port: int, folder: str) -> None:
    """One of two processes: an uneven share of the images, synchronised at compute."""
    store = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    real, fake = pictures(61, 1), pictures(60, 31)
    mine = slice(0, 25) if rank == 0 else slice(25, None)
    found = {}
    for metric in METRICS:
        part = metric(CornerColours())
        part.update(real[mine], real=True)
        part.update(fake[mine], real=False)
        found[metric.__name__] = computed(part)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_single_process_value(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, str(port), str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for metric in METRICS:
            expected = whole(metric, pictures(60, 31), pictures(61, 1))
            assert found[metric.__name__] == pytest.approx(expected, rel=1e-6), metric


@given(st.integers(1, 5), st.integers(0, 99), st.floats(0, 1e6))
def test_packed_moments_survive_and_merge_without_cancelling(width, seed, offset):
    stream = torch.Generator().manual_seed(seed)
    x = torch.randn(40, width, generator=stream, dtype=torch.float64) + offset
    parts = [Moments.of(part) for part in x.split(11)]
    merged = unpack(merge_packed(torch.stack([pack(part) for part in parts])))
    expected = Moments.of(x)
    assert merged.n == 40 and merged.width == width
    assert torch.allclose(merged.mean, expected.mean, rtol=1e-12)
    assert torch.allclose(merged.scatter, expected.scatter, rtol=1e-8, atol=1e-6)


def test_extractor_contract():
    extractor = CornerColours()
    assert extractor.key == "quarters@12|none" and len(extractor.fingerprint) == 12
    assert extractor.features(pictures(0, 1)).shape == (0, 12)
    changed = CornerColours()
    changed.scale.data.mul_(2)
    assert changed.fingerprint != extractor.fingerprint


if __name__ == "__main__":
    _rank(int(sys.argv[3]), int(sys.argv[1]), sys.argv[2])
