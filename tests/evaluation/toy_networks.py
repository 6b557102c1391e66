"""Small real networks for tests: fixed random projections, a dual encoder of pictures, a grader."""

import hashlib

import numpy as np
import torch
from torch import nn

from t2ibench.data.records import PreparedSplit, Record
from t2ibench.metrics.extractors.contract import FeatureExtractor

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "grey")
SHAPES = ("circle", "square", "triangle", "cross", "ring", "heart", "moon", "diamond")
THINGS = [f"a {size} {c} {s}" for size in ("small", "large") for c in COLOURS for s in SHAPES]


class Projection(FeatureExtractor):
    """Random projection of the pixels."""

    name = "projection"
    preprocessing = "native-8"
    width = 6

    def __init__(self, seed=0, width=6):
        super().__init__()
        self.width = width
        generator = torch.Generator().manual_seed(seed)
        self.linear = nn.Linear(3 * 8 * 8, width, bias=False)
        self.linear.weight.data = torch.randn(width, 3 * 8 * 8, generator=generator) / 14
        self.calls = 0

    def forward(self, pixels):
        self.calls += len(pixels)
        return self.linear(pixels.flatten(1).float() / 255 - 0.5)


def caption_image(caption, jitter=0):
    """An 8 px image that is a function of its caption, plus seeded noise."""
    seed = int.from_bytes(hashlib.sha256(caption.encode()).digest()[:6], "big")
    base = np.random.default_rng(seed).integers(0, 200, (3, 8, 8))
    noise = np.random.default_rng(jitter).integers(0, 40, (3, 8, 8))
    return (base + noise).astype(np.uint8)


class PictureAligner:
    """Embeds a caption as the picture it stands for."""

    key = "pictures@192|native-8"
    fingerprint = "f" * 12
    context_length = 8
    kernel_distance_name = "cmmd-style"

    def caption_lengths(self, captions):
        return [len(caption.split()) for caption in captions]

    def image_features(self, pixels):
        return pixels.flatten(1).float() - 120

    def text_features(self, captions):
        return torch.stack(
            [torch.from_numpy(caption_image(c)).flatten().float() - 100 for c in captions]
        )


class BrightnessGrader:
    """Grades whether the red mean exceeds the blue; asked only of red captions."""

    key = "brightness-v1"

    def grade(self, pixels, captions):
        red = pixels[:, 0].float().mean((1, 2)) > pixels[:, 2].float().mean((1, 2))
        asked = np.array(["red" in c for c in captions])
        return {"colour": np.where(asked, red.double().numpy(), np.nan)}

    def objects(self, captions):
        return [1] * len(captions)


def make_split(name, count, offset=0):
    captions = [THINGS[i % len(THINGS)] for i in range(count)]
    images = np.stack([caption_image(c, offset + i) for i, c in enumerate(captions)])
    records = [
        Record(f"{name}-{i}", (c, f"picture of {c}"), f"{name}-{i}", name)
        for i, c in enumerate(captions)
    ]
    return PreparedSplit(f"toy/{name}", images, records)
