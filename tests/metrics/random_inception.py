"""Random weights in the layout of the published Inception-v3, and smooth pictures to read."""

from pathlib import Path

import pytest
import torch

from t2ibench.metrics.extractors.inception import InceptionV3


def pictures(count: int, side: int, seed: int = 0) -> torch.Tensor:
    """Smooth coloured images (count, 3, side, side), uint8."""
    stream = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 7, 7, generator=stream) * 255
    return torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 255).byte()


def write_random_weights(path: Path) -> Path:
    """Writes random weights whose normalisations are calibrated on pictures."""
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(InceptionV3, "_load", lambda self, path: None)
        path.write_bytes(b"placeholder")
        network = InceptionV3(path)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    network.train()
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        # Noise beside pictures: a channel that is constant on smooth pictures alone would get a
        # gain of thousands, and rounding with it.
        noise = torch.randint(0, 256, (4, 3, 299, 299)).byte()
        network(torch.cat([pictures(4, 299, 9), noise]))
    torch.save(network.eval().state_dict(), path)
    return path
