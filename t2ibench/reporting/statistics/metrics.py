"""How each metric is headed, scaled, rounded and explained: the report's only vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Direction = Literal["lower", "higher"]

DISTANCE = "Distance to real"
"""Group of the metrics whose size depends on the network, so whose decimals vary."""


@dataclass(frozen=True)
class Metric:
    """One metric as printed.

    Attributes:
        name: its name in score keys.
        title: column heading.
        group: heading above neighbouring columns.
        better: which direction is better.
        scale: printed value = scale x stored value.
        digits: decimals of values of 10 or more; smaller ones get up to two more.
        meaning: one sentence for the reader.
    """

    name: str
    title: str
    group: str
    better: Direction
    scale: float
    digits: int
    meaning: str

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1: the best score has the highest ``sign * value``."""
        return 1 if self.better == "higher" else -1

    @property
    def arrow(self) -> str:
        """↓ where lower is better, else ↑."""
        return "↓" if self.better == "lower" else "↑"

    def text(self, value: float, like: float | None = None) -> str:
        """The printed number, with the decimals that the number ``like`` needs (itself if None)."""
        return f"{value * self.scale:.{self.decimals(value if like is None else like)}f}"

    def decimals(self, value: float) -> int:
        """How many decimals show a value to about three digits."""
        size = abs(value * self.scale)
        if self.group != DISTANCE or size >= 10 or size == 0:
            return self.digits
        return 2 if size >= 1 else 3


METRICS: tuple[Metric, ...] = (
    Metric("fid", "FID", DISTANCE, "lower", 1, 1,
           "Fréchet distance in the published Inception-v3's features."),
    Metric("fd", "FD", DISTANCE, "lower", 1, 1,
           "Fréchet distance between generated and real images in an extractor's features."),
    Metric("fid_inf", "FID∞", DISTANCE, "lower", 1, 1,
           "FID extrapolated to unlimited generated images."),
    Metric("fd_inf", "FD∞", DISTANCE, "lower", 1, 1,
           "Fréchet distance extrapolated to unlimited generated images."),
    Metric("kid", "KID ×10³", DISTANCE, "lower", 1000, 1,
           "Unbiased kernel distance with a cubic kernel, times 1000."),
    Metric("cmmd", "CMMD", DISTANCE, "lower", 1, 1,
           "Kernel distance with a Gaussian kernel in CLIP features, times 1000."),
    Metric("cmmd-style", "CMMD-style", DISTANCE, "lower", 1, 1,
           "CMMD's kernel distance in another encoder's features, times 1000."),
    Metric("precision", "Precision", "Fidelity, diversity", "higher", 100, 1,
           "Share of generated images that lie where real ones do (k = 3), in percent."),
    Metric("recall", "Recall", "Fidelity, diversity", "higher", 100, 1,
           "Share of real images that lie where generated ones do (k = 3), in percent."),
    Metric("density", "Density", "Fidelity, diversity", "higher", 1, 2,
           "How many real neighbourhoods hold a generated image, relative to k = 5."),
    Metric("coverage", "Coverage", "Fidelity, diversity", "higher", 100, 1,
           "Share of real neighbourhoods that hold a generated image (k = 5), in percent."),
    Metric("vendi", "Vendi", "Fidelity, diversity", "higher", 1, 1,
           "Effective number of distinct images, by cosine similarity of features."),
    Metric("vendi_by_prompt", "Vendi a prompt", "Fidelity, diversity", "higher", 1, 2,
           "Effective number of distinct images of one prompt, mean over prompts."),
    Metric("inception_score", "IS", "Fidelity, diversity", "higher", 1, 2,
           "Inception Score: how sure and how varied Inception-v3's ImageNet classes are."),
    Metric("authpct", "AuthPct", "Fidelity, diversity", "higher", 100, 1,
           "Share of images farther from their nearest training image than that is from its own "
           "nearest, in percent; near 0 for copies, and for fresh draws what held-out real images "
           "have in the row of real against real."),
    Metric("clip_score", "CLIP-score", "Prompt alignment", "higher", 1, 1,
           "100 x cosine between image and prompt in a dual encoder, negative values as 0."),
    Metric("r_precision", "R-prec. %", "Prompt alignment", "higher", 100, 1,
           "How often the image is nearer its own prompt than 99 others, in percent."),
    Metric("r_precision_folds", "R-prec. %, folds", "Prompt alignment", "higher", 100, 1,
           "R-precision averaged over folds of the images, as AttnGAN reports it, in percent."),
    Metric("r_precision_hard", "R-prec. hard %", "Prompt alignment", "higher", 100, 1,
           "How often the image is nearer its own prompt than prompts with one word changed."),
    Metric("grader_colour", "Colour", "Exact grader, %", "higher", 100, 1,
           "Share of prompted colours that the grader finds."),
    Metric("grader_shape", "Shape", "Exact grader, %", "higher", 100, 1,
           "Share of prompted shapes that the grader finds."),
    Metric("grader_exact", "Exact", "Exact grader, %", "higher", 100, 1,
           "Share of images whose count, shapes, colours and relation are all right."),
    Metric("bits_per_dim", "Bits/dim", "Likelihood", "lower", 1, 3,
           "Negative log-likelihood of real images given their captions, in bits a dimension of "
           "what the model predicts (pixels, or the codes of one first stage)."),
)  # fmt: skip

BY_NAME = {metric.name: metric for metric in METRICS}

GROUPS = tuple(dict.fromkeys(metric.group for metric in METRICS))
"""Headings over neighbouring columns, from left to right."""

QUALITY = ("fid", "fd", "cmmd", "cmmd-style", "kid")
"""Distances that stand for quality in charts and fronts, the preferred first."""

ALIGNMENT = ("clip_score", "grader_exact", "r_precision")
"""Scores that stand for alignment in charts and fronts, the preferred first."""

MAIN = (
    "fid", "fd", "kid", "precision", "recall",
    "clip_score", "r_precision", "grader_colour", "grader_shape", "grader_exact",
)  # fmt: skip
"""Metrics of the main table; the others stand in the files for programs."""


@lru_cache(maxsize=4096)
def metric_of(key: str) -> Metric:
    """The metric of a score key; an unknown one is printed as it is stored."""
    name = key.split("[", 1)[0]
    if name in BY_NAME:
        return BY_NAME[name]
    if name.startswith("grader_"):
        title = name.removeprefix("grader_").replace("_", " ").capitalize()
        meaning = f"Share of images that pass the grader's check of {title.lower()}."
        return Metric(name, title, "Exact grader, %", "higher", 100, 1, meaning)
    return Metric(name, name, "Other", "higher", 1, 3, "A metric of another version.")


def first_key(keys: Sequence[str], names: Sequence[str]) -> str | None:
    """The first key of the first metric in ``names`` that is there."""
    return next((k for name in names for k in keys if metric_of(k).name == name), None)


def in_order(keys: Sequence[str]) -> list[str]:
    """Keys by group, in it by instrument as first met, then as the metrics stand above."""
    names = list(BY_NAME)
    instruments = list(dict.fromkeys(instrument_of(key) for key in keys))

    def position(key: str) -> tuple[int, int, int, str]:
        metric = metric_of(key)
        return (
            GROUPS.index(metric.group) if metric.group in GROUPS else len(GROUPS),
            instruments.index(instrument_of(key)),
            names.index(metric.name) if metric.name in BY_NAME else len(names),
            metric.name,
        )

    return sorted(dict.fromkeys(keys), key=position)


def instrument_of(key: str) -> str:
    """The extractor's or encoder's name in a key: ``shapes-clip-v1``."""
    inner = key.split("[", 1)[-1].rstrip("]")
    return inner.split("|", 1)[0].split("@", 1)[0]
