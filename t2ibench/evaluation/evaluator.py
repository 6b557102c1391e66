"""The evaluator: one pass over a sample set's pixels gives every score with its interval.

It reads images and captions from anybody and knows no family. It measures with networks of two
kinds, feature extractors (distances between image sets) and dual encoders (alignment of image and
caption), and with an exact grader where the data set has one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from t2ibench.core.errors import ScoreError
from t2ibench.core.types import PixelImages
from t2ibench.data.records import PreparedSplit
from t2ibench.evaluation.atomicity import EXACT, atomicity_curve
from t2ibench.evaluation.caption_features import CaptionFeatures
from t2ibench.evaluation.interfaces import ExactGrader, FeatureCache, ImageTextEncoder
from t2ibench.evaluation.measures import (
    Evaluation,
    HardNegatives,
    dual_encoder_distances,
    extractor_distances,
    hard_alignment,
    inception_score,
    memorisation,
    prompt_alignment,
)
from t2ibench.evaluation.protocol import Prompts, Protocol, bare_name, hashed_order
from t2ibench.evaluation.real_features import CHUNK, RealFeatures
from t2ibench.evaluation.results import Scores
from t2ibench.evaluation.samples import SampleSet
from t2ibench.evaluation.score_keys import check_keys, distance_key, prompts_key
from t2ibench.metrics.bootstrap import Estimate, bootstrap_mean
from t2ibench.metrics.extractors.contract import FeatureExtractor
from t2ibench.metrics.extractors.inception import InceptionV3
from t2ibench.metrics.memorisation import nearest_training

ReadPixels = Callable[[slice], PixelImages]
"""Function from rows of a set to their images, made or read when they are asked for."""

NO_JUDGE_OF_ALIGNMENT = (
    "no judge of alignment is at hand for this data: evaluator=published brings two "
    "(`t2ibench fetch clip_336 open_clip`), or one of evaluator/dual_encoder=[NAME]"
)
"""Reason that an evaluator without a dual encoder gives for its missing alignment scores."""

NO_CAPTIONS = "the images carry no captions: prompts=FILE gives them theirs"
"""Reason for the missing alignment scores of images alone."""

ALIGNMENT = "clip_score, r_precision"
"""Names under which missing alignment scores are filed."""


class Evaluator:
    """Scores sample sets under one protocol.

    Args:
        protocol: N, prompts and reference.
        reference: the protocol's reference split.
        extractors: networks for Fréchet and kernel distances, precision and recall; the
            first is the main one.
        dual_encoders: dual encoders for CLIP-score and R-precision; they also give a Fréchet and
            a CMMD-style distance.
        grader: exact grader, or None for data without one.
        meaning: maps a caption to its meaning, so that paraphrases are never distractors of one
            another in R-precision; None: the caption itself, without case.
        negatives: nearly true captions for R-precision among hard negatives, or None.
        cache: keeps reference features between processes; None: in memory only.
        train: the training split, where the protocol asks for memorisation; else None.

    Raises:
        ScoreError: a reference split that is not the protocol's or is too small, no extractor
            that the protocol names, no dual encoder where it promises R-precision, or two
            networks of one key.
    """

    def __init__(
        self,
        *,
        protocol: Protocol,
        reference: PreparedSplit,
        extractors: Sequence[FeatureExtractor] = (),
        dual_encoders: Sequence[ImageTextEncoder] = (),
        grader: ExactGrader | None = None,
        meaning: Callable[[str], Hashable] | None = None,
        negatives: HardNegatives | None = None,
        cache: FeatureCache | None = None,
        train: PreparedSplit | None = None,
    ) -> None:
        self.protocol = protocol.resolved(reference)
        self.reference = reference
        self.extractors = tuple(extractors)
        self.dual_encoders = tuple(dual_encoders)
        self.grader = grader
        self.meaning = meaning or str.casefold
        self.negatives = negatives
        self.train = train
        protocol.check_extractors([extractor.key for extractor in self.extractors])
        self._first = protocol.first_reference(reference)
        protocol.check_alignment(bool(self.dual_encoders))
        check_keys([*self.extractors, *self.dual_encoders])
        self._indices = protocol.reference(reference)
        self._real = RealFeatures(cache, reference.resolution, protocol.filter)
        self._captions = CaptionFeatures()

    def evaluate(self, samples: SampleSet) -> Evaluation:
        """Every score of a set made under the protocol.

        Raises:
            ScoreError: the set breaks the protocol, or its resolution is not the reference's.
        """
        self._check(samples)
        return self.answers(samples, samples.pixels.__getitem__)

    def answers(self, prompts: Prompts | SampleSet, read: ReadPixels) -> Evaluation:
        """Every score of images that are made as they are read, such as reconstructions.

        Args:
            prompts: the prompts that they answer, in their order.
            read: the images at some rows; called once for each chunk.
        """
        evaluation = Evaluation()
        extracted, aligned, skills = self._pass(read, len(prompts), prompts.captions)
        for extractor in self.extractors:
            self._distances(evaluation, extractor, extracted[extractor.key], prompts.keys)
        if self.train is not None and self.extractors:
            self._memorisation(evaluation, extracted[self.extractors[0].key], prompts.keys)
        for dual_encoder in self.dual_encoders:
            self._alignment(evaluation, dual_encoder, aligned[dual_encoder.key], prompts)
            self._dual_encoder_distances(
                evaluation, dual_encoder, aligned[dual_encoder.key], prompts.keys
            )
        self._skills(evaluation, skills, prompts)
        self._absences(evaluation)
        return evaluation

    def prompted(self, samples: SampleSet) -> Evaluation:
        """Alignment and skills alone, for sets whose images no reference is compared with.

        Raises:
            ScoreError: the set breaks the protocol, or its resolution is not the reference's.
        """
        self._check(samples)
        return self._prompted(samples, samples.pixels.__getitem__)

    def unprompted(self, samples: SampleSet) -> Evaluation:
        """Distances alone, for images without captions.

        Raises:
            ScoreError: the set breaks the protocol, or its resolution is not the reference's.
        """
        self._check(samples)
        evaluation = self._unprompted(
            samples.keys, samples.pixels.__getitem__, self.train is not None
        )
        self._absences(evaluation)
        reasons = [NO_CAPTIONS, *filter(None, [evaluation.absent.get(ALIGNMENT)])]
        evaluation.absent[ALIGNMENT] = "; and ".join(reasons)
        return evaluation

    def of_features(self, extractor: str, features: Tensor, keys: Sequence[str]) -> Evaluation:
        """Distances from features that were extracted elsewhere.

        Args:
            extractor: the key, or the name before its ``@``, of one of the extractors.
            features: (N, D) of the protocol's N images.
            keys: N prompt keys.

        Raises:
            ScoreError: another N or D, an unknown extractor, or values that are not finite.
        """
        found = [e for e in self.extractors if extractor in (e.key, e.key.split("@", 1)[0])]
        if len(found) != 1:
            raise ScoreError(
                f"features of {extractor or 'no named extractor'} match {len(found)} of this "
                f"evaluator's extractors ({', '.join(e.key for e in self.extractors) or 'none'}); "
                "name one of them whole (extractor=KEY), or choose the evaluator that has it."
            )
        if len(features) != self.protocol.num_images or features.shape[1] != found[0].width:
            raise ScoreError(
                f"protocol {self.protocol.name} scores {self.protocol.num_images} rows of "
                f"{found[0].width} features of {found[0].key}, got {tuple(features.shape)}; set "
                f"protocol.test.num_images={len(features)} for every model, or extract again."
            )
        if not torch.isfinite(features).all():
            raise ScoreError("the features hold NaN or infinity; extract them again.")
        evaluation = Evaluation()
        self._distances(evaluation, found[0], features.float(), keys)
        return evaluation

    def _check(self, samples: SampleSet) -> None:
        self.protocol.check(samples)
        own, side = self.protocol.resolution, samples.resolution
        if side != self.reference.resolution and not (own == self.reference.resolution < side):
            raise ScoreError(
                f"the images are {samples.resolution} px, the reference {self.reference.name} is "
                f"{self.reference.resolution} px; sample or prepare both at one resolution."
            )

    def _absences(self, evaluation: Evaluation) -> None:
        """Says which kinds of scores this evaluator has no network for."""
        if not self.dual_encoders:
            evaluation.absent[ALIGNMENT] = NO_JUDGE_OF_ALIGNMENT
        if self.protocol.memorisation and self.train is None:
            evaluation.absent["authpct"] = "the data have no training split to compare with"

    def _prompted(self, prompts: Prompts | SampleSet, read: ReadPixels) -> Evaluation:
        evaluation = Evaluation()
        _, aligned, skills = self._pass(read, len(prompts), prompts.captions)
        for dual_encoder in self.dual_encoders:
            self._alignment(evaluation, dual_encoder, aligned[dual_encoder.key], prompts)
        self._skills(evaluation, skills, prompts)
        return evaluation

    def _unprompted(
        self, keys: Sequence[str], read: ReadPixels, memorised: bool = False
    ) -> Evaluation:
        evaluation = Evaluation()
        extracted, aligned, _ = self._pass(read, len(keys), None)
        for extractor in self.extractors:
            self._distances(evaluation, extractor, extracted[extractor.key], keys)
        if memorised and self.extractors:
            self._memorisation(evaluation, extracted[self.extractors[0].key], keys)
        for dual_encoder in self.dual_encoders:
            self._dual_encoder_distances(evaluation, dual_encoder, aligned[dual_encoder.key], keys)
        return evaluation

    def floor(self, *real: PreparedSplit) -> Scores:
        """Distances of real images to the reference at the same N, and their AuthPct.

        Under a disjoint reference and with as many records as prompts, they are the real images
        of the protocol's own prompts: what a perfect model scores in the mean. Under a shared one
        the reference holds images of the prompts and the floor does not, so that a model can
        score below it.

        Args:
            real: splits that the N images may come from: the first with N images outside the
                reference gives them. The reference's own split stands for itself in whatever
                preparation it is given.

        Raises:
            ScoreError: none has N, or one was prepared at another size than the reference.
        """
        count, reference, left = self.protocol.num_images, set(self._indices), []
        for split in map(self._compared, real):
            order = hashed_order(split)
            if split is self.reference:
                order = [index for index in order if index not in reference]
            if len(order) >= count:
                return self._floor_of(split, order[:count])
            left.append(f"{len(order)} of {split.name}")
        raise ScoreError(
            f"the real-against-real floor needs {count} images outside the reference, "
            f"{' and '.join(left)} are left; lower protocol.test.num_images, or prepare more data."
        )

    def _compared(self, split: PreparedSplit) -> PreparedSplit:
        """The split as the reference is prepared.

        Another preparation of the reference's records has other pixels and another fingerprint,
        and would hold the reference's own images unnoticed.
        """
        if bare_name(split.name) == bare_name(self.reference.name):
            return self.reference
        if split.resolution != self.reference.resolution:
            raise ScoreError(
                f"{split.name} has {split.resolution} px and the reference {self.reference.name} "
                f"{self.reference.resolution} px; give the split of the data set that the "
                "reference is from."
            )
        return split

    def _floor_of(self, split: PreparedSplit, chosen: Sequence[int]) -> Scores:
        keys = [split.records[index].key for index in chosen]
        found = self._unprompted(keys, lambda rows: split.pixels(chosen[rows]))
        self._heldout_memorisation(found)
        return found.scores

    def ground_truth(self, split: PreparedSplit) -> Scores:
        """Alignment and skills of the real images on the protocol's own prompts.

        What is below 100% here is the error of the dual encoder and the grader; no model can beat
        it.

        Raises:
            ScoreError: another split than that of the prompts, or one prepared at another size
                than the reference.
        """
        split = self._compared(split)
        prompts = self.protocol.prompts(split)
        return self._prompted(prompts, lambda rows: split.pixels(prompts.indices[rows])).scores

    # ---- one pass over the pixels ----

    def _pass(
        self, read: ReadPixels, count: int, captions: Sequence[str] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, np.ndarray]]:
        """Features of every network and, with captions, the grader's skills."""
        extracted: dict[str, list[Tensor]] = {e.key: [] for e in self.extractors}
        aligned: dict[str, list[Tensor]] = {e.key: [] for e in self.dual_encoders}
        graded: dict[str, list[np.ndarray]] = {}
        for start in range(0, count, CHUNK):
            chunk = self._real.fitted(read(slice(start, start + CHUNK)))
            for extractor in self.extractors:
                extracted[extractor.key].append(extractor.features(chunk))
            for dual_encoder in self.dual_encoders:
                aligned[dual_encoder.key].append(dual_encoder.image_features(chunk).float().cpu())
            if self.grader is not None and captions is not None:
                answers = self.grader.grade(chunk, captions[start : start + CHUNK])
                for skill, values in answers.items():
                    graded.setdefault(skill, []).append(np.asarray(values, dtype=np.float64))
        return (
            {key: torch.cat(parts) for key, parts in extracted.items()},
            {key: torch.cat(parts) for key, parts in aligned.items()},
            {skill: np.concatenate(parts) for skill, parts in graded.items()},
        )

    def _reference_of(self, key: str, fingerprint: str, extract: Callable[..., Tensor]) -> Tensor:
        """The reference's features."""
        return self._real.of(self.reference, self._indices, key, fingerprint, extract)

    # ---- scores ----

    def _distances(
        self,
        evaluation: Evaluation,
        extractor: FeatureExtractor,
        x: Tensor,
        keys: Sequence[str],
    ) -> None:
        """The scores of one extractor's features, computed on its device."""
        y = self._reference_of(extractor.key, extractor.fingerprint, extractor.features)
        device = device_of(extractor)
        x, y = x.to(device), y.to(device)
        inner = self._distance_key(extractor.key, extractor.fingerprint, len(x))
        extractor_distances(evaluation, extractor.distance_name, inner, x, y, keys)
        if isinstance(extractor, InceptionV3) and extractor.published:
            # No reference stands in this key: the score looks at generated images alone.
            inner = f"{extractor.key}|{extractor.fingerprint[:8]}|{len(x)}"
            inception_score(evaluation, inner, extractor.logits(x), keys)

    def _memorisation(self, evaluation: Evaluation, x: Tensor, keys: Sequence[str]) -> None:
        """Scores of how near the images lie to training images, in the main extractor."""
        inner, y = self._training()
        memorisation(evaluation, inner, x.to(y.device), y, keys, self._heldout_authentic)

    def _heldout_memorisation(self, evaluation: Evaluation) -> None:
        """Files the AuthPct of held-out real images, beside which that of a model is read."""
        if self.train is not None and self._heldout_authentic is not None:
            key = f"authpct[{self._training()[0]}]"
            evaluation.add(key, self._heldout_authentic, len(self._indices))

    def _training(self) -> tuple[str, Tensor]:
        """Inner key of comparisons with the training images, and their features."""
        train, main = self.train, self.extractors[0]
        assert train is not None, "called only where there is a training split"
        y = self._real.of(train, range(len(train)), main.key, main.fingerprint, main.features)
        count = self.protocol.num_images
        inner = distance_key(main.key, main.fingerprint, train.name, train, count, len(train))
        return inner, y.to(device_of(main))

    @cached_property
    def _heldout_authentic(self) -> Estimate | None:
        """AuthPct of the reference's images; None where training has seen them."""
        train = self.train
        if train is None or not self.extractors or train.fingerprint == self.reference.fingerprint:
            return None
        main = self.extractors[0]
        real = self._reference_of(main.key, main.fingerprint, main.features)
        y = self._training()[1]
        return bootstrap_mean(nearest_training(real.to(y.device), y).authentic.double().numpy())

    def _dual_encoder_distances(
        self, evaluation: Evaluation, dual_encoder: ImageTextEncoder, x: Tensor, keys: Sequence[str]
    ) -> None:
        """Distances in a dual encoder's image space."""
        y = self._reference_of(
            dual_encoder.key, dual_encoder.fingerprint, dual_encoder.image_features
        )
        inner = self._distance_key(dual_encoder.key, dual_encoder.fingerprint, len(x))
        name = dual_encoder.kernel_distance_name
        dual_encoder_distances(evaluation, name, inner, x, y, keys)

    def _alignment(
        self,
        evaluation: Evaluation,
        dual_encoder: ImageTextEncoder,
        image: Tensor,
        samples: Prompts | SampleSet,
    ) -> None:
        """Alignment scores of one dual encoder for images and their own captions."""
        before = set(evaluation.scores)
        text = self._captions.of(dual_encoder, samples.captions)
        inner = f"{dual_encoder.key}|{dual_encoder.fingerprint[:8]}|{prompts_key(samples.captions)}"
        meanings = [self.meaning(caption) for caption in samples.captions]
        folds = self.protocol.r_precision_folds
        prompt_alignment(evaluation, inner, image, text, meanings, samples.keys, folds)
        if self.negatives is not None:
            self._hard_alignment(
                evaluation, self.negatives, dual_encoder, inner, image, text, samples
            )
        if note := self._captions.cut_note(dual_encoder, samples.captions):
            evaluation.annotate(evaluation.scores.keys() - before, note)

    def _hard_alignment(
        self,
        evaluation: Evaluation,
        negatives: HardNegatives,
        dual_encoder: ImageTextEncoder,
        inner: str,
        image: Tensor,
        text: Tensor,
        samples: Prompts | SampleSet,
    ) -> None:
        """R-precision of one dual encoder among nearly true captions."""
        changed = [tuple(negatives.of(c))[: negatives.count] for c in samples.captions]
        complete = np.array([len(found) == negatives.count for found in changed])
        if complete.any():
            flat = [c for found, keep in zip(changed, complete, strict=True) if keep for c in found]
            features = self._captions.of(dual_encoder, flat).unflatten(0, (-1, negatives.count))
            name = negatives.name
            hard_alignment(evaluation, inner, image, text, features, complete, name, samples.keys)

    def _skills(
        self,
        evaluation: Evaluation,
        skills: Mapping[str, np.ndarray],
        samples: Prompts | SampleSet,
    ) -> None:
        """The grader's skills, each over the images whose captions ask for it."""
        for skill, values in skills.items():
            if self.grader is not None and not np.isnan(values).all():
                key = f"grader_{skill}[{self.grader.key}|{prompts_key(samples.captions)}]"
                evaluation.add_mean(key, values, samples.keys)
        if self.grader is not None and EXACT in skills:
            objects = self.grader.objects(samples.captions)
            evaluation.atomicity.extend(atomicity_curve(skills[EXACT], objects, samples.keys))

    def _distance_key(self, network: str, fingerprint: str, n: int) -> str:
        name = f"{self.reference.name}[{self._first}:]" if self._first else self.reference.name
        return distance_key(network, fingerprint, name, self.reference, n, len(self._indices))


def device_of(extractor: FeatureExtractor) -> torch.device:
    """Device of the weights; the CPU for an extractor without weights."""
    return next((p.device for p in extractor.parameters()), torch.device("cpu"))
