"""The evaluator: one pass over a sample set's pixels gives every score with its interval.

It reads images and captions from anybody and knows no family. Its instruments are of three
kinds: extractors (distances between image sets), aligners (image and caption towers) and a
grader (an exact judge, where the data set has one).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, runtime_checkable
from typing import Protocol as Interface

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from t2ibench.core.errors import ScoreError
from t2ibench.core.hashing import hash_json
from t2ibench.core.types import PixelImages, Score
from t2ibench.data.records import PreparedSplit
from t2ibench.evaluation.protocol import Protocol, hashed_order
from t2ibench.evaluation.results import Scores
from t2ibench.evaluation.samples import SampleSet
from t2ibench.metrics.alignment import DISTRACTORS, clip_score, draw_distractors, r_precision
from t2ibench.metrics.bootstrap import Estimate, bootstrap_mean
from t2ibench.metrics.extractors.base import FeatureExtractor
from t2ibench.metrics.frechet import frechet_estimate
from t2ibench.metrics.kernel import cmmd_estimate, cmmd_name, kid_estimate
from t2ibench.metrics.neighbours import neighbours

CHUNK = 256
"""Images handed to each instrument at a time."""

FEATURE_VERSION = 1
"""Part of the cache key of reference features; raised when their meaning changes."""


@runtime_checkable
class Aligner(Interface):
    """An image tower and a caption tower with one space (``metrics.dual_encoder``, CLIP)."""

    @property
    def key(self) -> str:
        """Its part of a score's key."""

    @property
    def fingerprint(self) -> str:
        """Content hash of its weights."""

    def image_features(self, pixels: PixelImages) -> Tensor:
        """(B, 3, H, W) uint8 to (B, D)."""

    def text_features(self, captions: Sequence[str]) -> Tensor:
        """B captions to (B, D)."""


@runtime_checkable
class Judge(Interface):
    """An exact grader with its parser (``metrics.grader`` bound to a world)."""

    key: str

    def judge(
        self, pixels: PixelImages, captions: Sequence[str]
    ) -> Mapping[str, Float[np.ndarray, " B"]]:
        """Skill -> one number an image; NaN where the caption does not ask for the skill."""


@runtime_checkable
class FeatureCache(Interface):
    """A content-addressed store of arrays (``data.cache.ArrayCache``)."""

    def get_or_build(self, key: str, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The arrays kept under ``key``, built and kept at first use."""


@dataclass(frozen=True)
class Evaluation:
    """What the evaluator says of one sample set.

    Attributes:
        scores: score key -> score.
        columns: score key -> one number an image, for scores that are means over images.
    """

    scores: Scores
    columns: dict[str, np.ndarray] = field(default_factory=dict)


class Evaluator:
    """Scores sample sets under one protocol.

    Args:
        protocol: N, prompts and reference.
        reference: the protocol's reference split.
        extractors: networks for Fréchet and kernel distances, precision and recall; the
            first is the main one.
        aligners: dual encoders for CLIP-score and R-precision; they also give a Fréchet and
            a CMMD-style distance.
        judge: exact grader, or None for data without one.
        meaning: maps a caption to what it says, so that paraphrases never distract one
            another in R-precision; None: the caption itself, without case.
        cache: keeps reference features between processes; None: in memory only.

    Raises:
        ScoreError: a reference split that is not the protocol's or is too small.
    """

    def __init__(
        self,
        *,
        protocol: Protocol,
        reference: PreparedSplit,
        extractors: Sequence[FeatureExtractor] = (),
        aligners: Sequence[Aligner] = (),
        judge: Judge | None = None,
        meaning: Callable[[str], Hashable] | None = None,
        cache: FeatureCache | None = None,
    ) -> None:
        self.protocol = protocol
        self.reference = reference
        self.extractors = tuple(extractors)
        self.aligners = tuple(aligners)
        self.judge = judge
        self.meaning = meaning or str.casefold
        self.cache = cache
        self._indices = protocol.reference(reference)
        self._reference_features: dict[str, Tensor] = {}

    @property
    def fingerprints(self) -> dict[str, str]:
        """Instrument key -> fingerprint, for the run's manifest."""
        found = {e.key: e.fingerprint for e in self.extractors}
        found |= {a.key: a.fingerprint for a in self.aligners}
        return found | ({} if self.judge is None else {self.judge.key: ""})

    def evaluate(self, samples: SampleSet) -> Evaluation:
        """Every score of a set made under the protocol.

        Raises:
            ScoreError: the set breaks the protocol, or its resolution is not the reference's.
        """
        self.protocol.check(samples)
        if samples.resolution != self.reference.resolution:
            raise ScoreError(
                f"the images are {samples.resolution} px, the reference {self.reference.name} is "
                f"{self.reference.resolution} px; sample or prepare both at one resolution."
            )
        evaluation = Evaluation({})
        extracted, aligned, skills = self._pass(samples.pixels, samples.captions)
        for extractor in self.extractors:
            self._distances(evaluation, extractor, extracted[extractor.key], samples)
        for aligner in self.aligners:
            self._alignment(evaluation, aligner, aligned[aligner.key], samples)
            self._aligner_distances(evaluation, aligner, aligned[aligner.key], samples)
        self._skills(evaluation, skills, samples)
        return evaluation

    def floor(self, real: PreparedSplit) -> Scores:
        """Real against real at the same N: what a perfect model would get.

        Args:
            real: where the N images come from: another split (the training split), or the
                reference split itself, then images outside the reference.

        Raises:
            ScoreError: fewer than N images are left.
        """
        count = self.protocol.num_images
        order = hashed_order(real)
        if real.fingerprint == self.reference.fingerprint:
            order = order[len(self._indices) :]
        if len(order) < count:
            raise ScoreError(
                f"the real-against-real floor needs {count} images of {real.name} outside the "
                f"reference, {len(order)} are left; give the training split."
            )
        chosen = order[:count]
        records = [real.records[i] for i in chosen]
        samples = SampleSet(
            real.pixels(chosen),
            tuple(record.captions[0] for record in records),
            tuple(record.key for record in records),
            tuple(range(count)),
        )
        evaluation = Evaluation({})
        extracted, aligned, _ = self._pass(samples.pixels, None)
        for extractor in self.extractors:
            self._distances(evaluation, extractor, extracted[extractor.key], samples)
        for aligner in self.aligners:
            self._aligner_distances(evaluation, aligner, aligned[aligner.key], samples)
        return evaluation.scores

    def ground_truth(self, split: PreparedSplit) -> Scores:
        """Alignment and skills of the real images on the protocol's own prompts.

        What is below 100% here is the instruments' error, and no model can beat it.
        """
        prompts = self.protocol.prompts(split)
        samples = prompts.answered_by(split.pixels(prompts.indices))
        evaluation = Evaluation({})
        _, aligned, skills = self._pass(samples.pixels, samples.captions)
        for aligner in self.aligners:
            self._alignment(evaluation, aligner, aligned[aligner.key], samples)
        self._skills(evaluation, skills, samples)
        return evaluation.scores

    # ---- one pass over the pixels ----

    def _pass(
        self, pixels: PixelImages, captions: Sequence[str] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, np.ndarray]]:
        """Features of every instrument and, with captions, the judge's skills."""
        extracted: dict[str, list[Tensor]] = {e.key: [] for e in self.extractors}
        aligned: dict[str, list[Tensor]] = {a.key: [] for a in self.aligners}
        judged: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(pixels), CHUNK):
            chunk = pixels[start : start + CHUNK]
            for extractor in self.extractors:
                extracted[extractor.key].append(extractor.features(chunk))
            for aligner in self.aligners:
                aligned[aligner.key].append(aligner.image_features(chunk).float().cpu())
            if self.judge is not None and captions is not None:
                answers = self.judge.judge(chunk, captions[start : start + CHUNK])
                for skill, values in answers.items():
                    judged.setdefault(skill, []).append(np.asarray(values, dtype=np.float64))
        return (
            {key: torch.cat(parts) for key, parts in extracted.items()},
            {key: torch.cat(parts) for key, parts in aligned.items()},
            {skill: np.concatenate(parts) for skill, parts in judged.items()},
        )

    def _reference_of(self, key: str, fingerprint: str, extract: Callable[..., Tensor]) -> Tensor:
        """The reference's features, from memory, the cache or one pass."""
        if key in self._reference_features:
            return self._reference_features[key]

        def build() -> dict[str, np.ndarray]:
            parts = [
                extract(self.reference.pixels(self._indices[start : start + CHUNK])).float().cpu()
                for start in range(0, len(self._indices), CHUNK)
            ]
            return {"features": torch.cat(parts).numpy()}

        if self.cache is None:
            arrays = build()
        else:
            identity = {
                "what": "reference features",
                "version": FEATURE_VERSION,
                "split": self.reference.fingerprint,
                "indices": hash_json(list(self._indices)),
                "extractor": key,
                "weights": fingerprint,
            }
            arrays = self.cache.get_or_build(f"reference-{hash_json(identity, 16)}", build)
        features = torch.from_numpy(np.array(arrays["features"], dtype=np.float32))
        self._reference_features[key] = features
        return features

    # ---- scores ----

    def _distances(
        self,
        evaluation: Evaluation,
        extractor: FeatureExtractor,
        x: Tensor,
        samples: SampleSet,
    ) -> None:
        """Fréchet, kernel, precision, recall, density and coverage of one extractor."""
        y = self._reference_of(extractor.key, extractor.fingerprint, extractor.features)
        inner = self._distance_key(extractor.key, extractor.fingerprint, samples)
        name = "fid" if getattr(extractor, "is_published_inception", False) else "fd"
        keys = samples.keys
        self._add(evaluation, f"{name}[{inner}]", frechet_estimate(x, y, clusters=keys), len(x))
        self._add(evaluation, f"kid[{inner}]", kid_estimate(x, y, clusters=keys), len(x))
        found = neighbours(x, y)
        for metric in ("precision", "density"):
            values = getattr(found, metric).double().numpy()
            self._add_mean(evaluation, f"{metric}[{inner}]", values, samples)
        for metric in ("recall", "coverage"):
            values = getattr(found, metric).double().numpy()
            self._add(evaluation, f"{metric}[{inner}]", bootstrap_mean(values), len(x))

    def _aligner_distances(
        self, evaluation: Evaluation, aligner: Aligner, x: Tensor, samples: SampleSet
    ) -> None:
        """Fréchet and CMMD-style distance in an aligner's image space."""
        y = self._reference_of(aligner.key, aligner.fingerprint, aligner.image_features)
        inner = self._distance_key(aligner.key, aligner.fingerprint, samples)
        keys = samples.keys
        self._add(evaluation, f"fd[{inner}]", frechet_estimate(x, y, clusters=keys), len(x))
        name = cmmd_name(aligner.key)
        self._add(evaluation, f"{name}[{inner}]", cmmd_estimate(x, y, clusters=keys), len(x))

    def _alignment(
        self, evaluation: Evaluation, aligner: Aligner, image: Tensor, samples: SampleSet
    ) -> None:
        """CLIP-score and R-precision (1 of 100) of one aligner."""
        distinct = sorted(set(samples.captions))
        rows = {caption: row for row, caption in enumerate(distinct)}
        encoded = torch.cat(
            [
                aligner.text_features(distinct[start : start + CHUNK]).float().cpu()
                for start in range(0, len(distinct), CHUNK)
            ]
        )
        text = encoded[[rows[caption] for caption in samples.captions]]
        inner = f"{aligner.key}|{aligner.fingerprint[:8]}|{self._prompt_key(samples)}"
        values = clip_score(image, text).double().numpy()
        self._add_mean(evaluation, f"clip_score[{inner}]", values, samples)
        meanings = [self.meaning(caption) for caption in samples.captions]
        if len(set(meanings)) > DISTRACTORS:
            hits = r_precision(image, text, text[draw_distractors(meanings)])
            key = f"r_precision[{inner}|1-of-{DISTRACTORS + 1}]"
            self._add_mean(evaluation, key, hits.double().numpy(), samples)

    def _skills(
        self, evaluation: Evaluation, skills: Mapping[str, np.ndarray], samples: SampleSet
    ) -> None:
        """The judge's skills, each over the images that were asked for it."""
        for skill, values in skills.items():
            if self.judge is not None and not np.isnan(values).all():
                key = f"grader_{skill}[{self.judge.key}|{self._prompt_key(samples)}]"
                self._add_mean(evaluation, key, values, samples)

    def _add_mean(
        self, evaluation: Evaluation, key: str, values: np.ndarray, samples: SampleSet
    ) -> None:
        """A mean over images, its interval clustered by prompt, its per-image column."""
        asked = ~np.isnan(values)
        clusters = [k for k, keep in zip(samples.keys, asked, strict=True) if keep]
        self._add(evaluation, key, bootstrap_mean(values[asked], clusters), int(asked.sum()))
        evaluation.columns[key] = values

    @staticmethod
    def _add(evaluation: Evaluation, key: str, estimate: Estimate, n: int) -> None:
        evaluation.scores[key] = Score(
            estimate.value, n, estimate.ci_low, estimate.ci_high, key, estimate.note
        )

    def _distance_key(self, instrument: str, fingerprint: str, samples: SampleSet) -> str:
        n, m = len(samples), len(self._indices)
        split = f"{self.reference.name}:{self.reference.fingerprint[:8]}"
        size = str(n) if n == m else f"{n}/{m}"
        return f"{instrument}|{fingerprint[:8]}|{split}|{size}"

    @staticmethod
    def _prompt_key(samples: SampleSet) -> str:
        """The identity of the prompts themselves, and N."""
        digest = hashlib.sha256("\n".join(sorted(samples.captions)).encode()).hexdigest()
        return f"prompts:{digest[:8]}|{len(samples)}"
