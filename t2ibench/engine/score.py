"""Scoring of a trained run: its front, operating point, references and costs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from t2ibench.core.errors import ContentError, RunError
from t2ibench.core.hashing import hash_json
from t2ibench.core.knobs import Knob, front_knob, resolve_knobs
from t2ibench.core.noise import SeededNoise
from t2ibench.core.pixels import from_pixels, to_pixels
from t2ibench.core.ranks import from_first, rank, spread
from t2ibench.core.types import PixelImages
from t2ibench.data.records import DataSource
from t2ibench.engine.identity import SCORES_VERSION, sampling_key, sampling_settings
from t2ibench.engine.judges import (
    Judges,
    front_protocol,
    heldout_protocol,
    make_judges,
    test_protocol,
)
from t2ibench.engine.likelihood import likelihood_scores
from t2ibench.engine.load import LoadedRun
from t2ibench.engine.parts.first_stage import reconstructions
from t2ibench.engine.sampling import sampled, timed_sampling
from t2ibench.engine.scorings import Scoring
from t2ibench.engine.spec import ProtocolSpec, RunSpec
from t2ibench.evaluation.cost import measure_cost
from t2ibench.evaluation.evaluator import Evaluation, Evaluator
from t2ibench.evaluation.flops import count_flops
from t2ibench.evaluation.leakage import Leak, find_leaks, flag
from t2ibench.evaluation.operating_point import Candidate, choose_point
from t2ibench.evaluation.protocol import Protocol
from t2ibench.evaluation.results import OperatingPoint, RunScores, Scores
from t2ibench.evaluation.samples import SampleSet, save_values
from t2ibench.runs.folder import Run
from t2ibench.training.tracking import track_scores

log = logging.getLogger(__name__)

STEPS = "num_steps"
"""The knob that ``protocol.steps_sweep`` sweeps, where a family has it."""

LASTING = ("clock", "scored", "asked")
"""Entries of a scored run's status on its training and its scores."""


@dataclass(frozen=True)
class ScoringPlan:
    """Plan of what is drawn and judged for a run, made before any work.

    Attributes:
        test: the protocol of the scores.
        front: the protocol of the knob's sweep.
        heldout: the protocol of held-out compositions, or None.
        knob: the fidelity-alignment knob.
        knobs: complete knobs, where nothing chooses another value of ``knob``.
        settings: complete knobs of every point of the front.
        choose_by: distance that chooses the knob's value; None where it is fixed.
    """

    test: Protocol
    front: Protocol
    heldout: Protocol | None
    knob: Knob
    knobs: dict[str, float]
    settings: list[dict[str, float]]
    choose_by: str | None

    @staticmethod
    def of(loaded: LoadedRun) -> ScoringPlan:
        """The plan of a run under its specification.

        Raises:
            ConfigError: a knob that the family does not have, or out of range.
        """
        spec, module, source = loaded.spec, loaded.module, loaded.source
        fixed = fixed_knobs(spec, module.knobs)
        knobs = resolve_knobs(module.knobs, fixed)
        knob = front_knob(module.knobs)
        return ScoringPlan(
            resolved(test_protocol(spec.protocol), source),
            resolved(front_protocol(spec.protocol), source),
            heldout_protocol(spec.protocol, source),
            knob,
            knobs,
            front_settings(spec.protocol, knob, knobs),
            None if knob.name in fixed else spec.protocol.choose_by,
        )

    def inputs(self, loaded: LoadedRun) -> str:
        """Hash of all that the scores depend on."""
        return hash_json(
            {
                "version": SCORES_VERSION,
                "protocols": [p and p.to_dict() for p in (self.test, self.front, self.heldout)],
                "points": self.settings,
                "settings": sampling_settings(loaded.spec),
                "evaluator": loaded.spec.evaluator.model_dump(mode="json"),
                "source": loaded.source.fingerprint,
                "knobs": self.knobs,
                "choose_by": self.choose_by,
            }
        )


def score_run(loaded: LoadedRun) -> RunScores:
    """Samples and scores a trained run; results that exist already are kept.

    The fidelity-alignment knob is swept on the front's (validation) prompts; the protocol's own
    prompts are then drawn at the value that ``choose_point`` chooses there by
    ``protocol.choose_by``, unless the user or the protocol fixed it (``knobs.guidance_scale=2``).
    """
    run, spec, plan = loaded.run, loaded.spec, ScoringPlan.of(loaded)
    inputs, scoring = plan.inputs(loaded), Scoring.of_run(run, spec, loaded.source)
    kept = from_first(kept_scores, run, spec, inputs, scoring)
    if kept is not None:
        return kept
    if rank() == 0 and shared_for_want(spec.protocol, plan.test):
        log.warning(
            "%s: split %s has too few images for %d prompts and a reference without them; the "
            "reference holds the prompts' own images, and a model can score below the floor.",
            *(run.path.name, plan.test.split, plan.test.num_images),
        )
    judges = make_judges(spec, loaded.source, loaded.context.device)
    leaks = find_leaks(loaded.module.guarded_parts(), judges.networks())
    points, evaluations = front_points(loaded, plan, judges, leaks, scoring)
    knobs, chosen_by = chosen_knobs(loaded, points, evaluations, plan, judges)
    evaluator = judges.evaluator(plan.test)
    chosen_name = scoring.samples("chosen")
    chosen = sampled(loaded, plan.test, knobs, chosen_name)
    jobs: list[Callable[[], Any]] = [
        partial(evaluate_folder, evaluator.evaluate, chosen),
        partial(references, loaded, evaluator, plan.test),
        partial(likelihood_scores, loaded, plan.test),
    ]
    if plan.heldout is not None:
        folder = sampled(loaded, plan.heldout, knobs, scoring.samples("heldout"))
        jobs.append(partial(heldout_scores, judges.evaluator(plan.heldout), folder))
    evaluation, reference, *others = spread(jobs)
    found = dict(evaluation.scores)
    for more in others:
        found |= more
    scores = RunScores(
        model=model_facts(loaded),
        protocol=plan.test.to_dict(),
        chosen=OperatingPoint(
            knobs, flag(found, leaks), knobs[plan.knob.name], f"samples/{chosen_name}"
        ),
        budget=spec.budget.model_dump(mode="json"),
        cost=from_first(cost_facts, loaded, knobs, chosen),
        knob={
            "name": plan.knob.name,
            "default": plan.knob.default,
            "chosen_by": plan.choose_by,
            **chosen_by,
        },
        front=tuple(points),
        reference=reference,
        leakage=tuple(leak.to_dict() for leak in leaks),
        size_curves={k: [asdict(p) for p in ps] for k, ps in evaluation.curves.items()},
        atomicity=tuple(asdict(point) for point in evaluation.atomicity),
        absent=evaluation.absent,
        scoring=scoring.label,
    )
    if rank() == 0:
        scores.write(scoring.scores(run.path))
    if not scoring.own:
        return scores
    clock = loaded.clock.state_dict()
    run.set_status("finished", clock=clock, scored=inputs, asked=sampling_key(spec))
    track_scores(spec.config()["logger"]["wandb"], run)
    return scores


def kept_scores(run: Run, spec: RunSpec, inputs: str, scoring: Scoring) -> RunScores | None:
    """Scores of a run that was scored with the same inputs, else None.

    Damaged ones are a warning, and computed again.
    """
    file = scoring.scores(run.path)
    if not file.exists() or (scoring.own and run.status().get("scored") != inputs):
        return None
    try:
        scores = RunScores.read(file)
    except (ContentError, RunError) as error:
        log.warning("%s They are computed now.", error)
        return None
    if not scoring.own:
        return scores
    if not run.scores.exists() or run.status().get("scored") != inputs:
        return None
    try:
        scores = RunScores.read(run.scores)
    except (ContentError, RunError) as error:
        log.warning("%s They are computed now.", error)
        return None
    if run.status().get("asked") != sampling_key(spec):
        kept = {name: value for name, value in run.status().items() if name in LASTING}
        run.set_status("finished", **(kept | {"asked": sampling_key(spec)}))
    return scores


def front_points(
    loaded: LoadedRun, plan: ScoringPlan, judges: Judges, leaks: Sequence[Leak], scoring: Scoring
) -> tuple[list[OperatingPoint], list[Evaluation]]:
    """Samples and scores every point of the front."""
    evaluator = judges.evaluator(plan.front)
    names = [
        scoring.samples(folder_of(plan.knob.name, setting, plan.knobs)) for setting in plan.settings
    ]
    sets = [
        sampled(loaded, plan.front, setting, name)
        for setting, name in zip(plan.settings, names, strict=True)
    ]
    found = spread([partial(evaluation_of, evaluator, folder) for folder in sets])
    points = [
        OperatingPoint(setting, flag(e.scores, leaks), setting[plan.knob.name], f"samples/{name}")
        for setting, name, e in zip(plan.settings, names, found, strict=True)
    ]
    return points, found


def chosen_knobs(
    loaded: LoadedRun,
    points: Sequence[OperatingPoint],
    evaluations: Sequence[Evaluation],
    plan: ScoringPlan,
    judges: Judges,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Knobs at which the test prompts are drawn, and how their value was chosen.

    The distance that decides is that of the evaluator's first extractor; a choice at the sweep's
    edge is said.
    """
    if plan.choose_by is None:
        return plan.knobs, {}
    # Among the steps that are asked for: more steps are a cost, not a better knob.
    alike = [i for i, p in enumerate(points) if p.knobs.get(STEPS) == plan.knobs.get(STEPS)]
    knob, main = plan.knob, judges.extractors[0]
    candidates = [Candidate(points[i].knobs[knob.name], evaluations[i]) for i in alike]
    keys = plan.front.prompts(loaded.source.split(plan.front.split)).keys
    metric = main.distance_name if plan.choose_by == "fd" else plan.choose_by
    choice = choose_point(candidates, keys, metric, main.key, knob)
    knobs = points[alike[choice.row]].knobs
    if choice.edge and rank() == 0:
        log.warning(
            "%s: %s=%g was chosen at the %s end of its sweep, a better value may lie beyond: add "
            "some to protocol.knob_sweep.",
            *(loaded.run.path.name, knob.name, knobs[knob.name], choice.edge),
        )
    facts = {"lowest": choice.lowest, "reason": choice.reason, "edge": choice.edge}
    return knobs, facts


def evaluation_of(evaluator: Evaluator, folder: Path) -> Evaluation:
    """Evaluation of a set on disk."""
    return evaluator.evaluate(SampleSet.load(folder))


def evaluate_folder(evaluate: Callable[[SampleSet], Evaluation], folder: Path) -> Evaluation:
    """Evaluation of a set on disk; its values image by image are saved beside it."""
    samples = SampleSet.load(folder)
    evaluation = evaluate(samples)
    save_values(folder, samples, evaluation.columns)
    return evaluation


def fixed_knobs(spec: RunSpec, declared: Sequence[Knob]) -> dict[str, float]:
    """Knobs that the protocol fixes, where the family has them, then those of the user."""
    names = {knob.name for knob in declared}
    protocol = {name: value for name, value in spec.protocol.knobs.items() if name in names}
    return protocol | spec.knobs


def front_settings(
    protocol: ProtocolSpec, knob: Knob, knobs: Mapping[str, float]
) -> list[dict[str, float]]:
    """Complete knobs of every point of the front: steps by values of the knob.

    The configured number of steps is always among those swept; a family without that knob has a
    front of one axis.
    """
    values = list(protocol.knob_sweep or knob.sweep)
    swept = list(protocol.steps_sweep or [])
    if STEPS not in knobs or not swept:
        return [{**knobs, knob.name: value} for value in values]
    steps = sorted({*swept, int(knobs[STEPS])})
    return [{**knobs, STEPS: count, knob.name: value} for count in steps for value in values]


def heldout_scores(evaluator: Evaluator, folder: Path) -> Scores:
    """Grader's scores on compositions that training never showed, as ``grader_SKILL_heldout``."""
    scores = evaluate_folder(evaluator.prompted, folder).scores
    graded = [score for score in scores.values() if score.metric.startswith("grader_")]
    renamed = [replace(s, key=s.key.replace(s.metric, f"{s.metric}_heldout", 1)) for s in graded]
    return {score.key: score for score in renamed}


def folder_of(knob: str, setting: Mapping[str, float], knobs: Mapping[str, float]) -> str:
    """Name of a front point's sample folder; it includes the steps where they are swept."""
    name = f"front-{knob}-{setting[knob]:g}"
    steps = setting.get(STEPS)
    return name if steps == knobs.get(STEPS) else f"{name}-{STEPS}-{steps:g}"


def resolved(protocol: Protocol, source: DataSource) -> Protocol:
    """The protocol with its choice of reference records made for a data set."""
    return protocol.resolved(source.split(protocol.reference_split))


def shared_for_want(asked: ProtocolSpec, protocol: Protocol) -> bool:
    """True where the reference shares the prompts' records only for want of others."""
    return asked.test.reference_records == "auto" and protocol.reference_records == "shared"


def references(loaded: LoadedRun, evaluator: Evaluator, protocol: Protocol) -> dict[str, Scores]:
    """Reference scores: floor, ground truth and, with a first stage, its ceiling."""
    source = loaded.source
    split = source.split(protocol.split)
    found = {
        "floor": evaluator.floor(split, source.split("train")),
        "ground_truth": evaluator.ground_truth(split),
    }
    stage: Any = loaded.context.modules.get("first_stage")
    if stage is not None:
        prompts = protocol.prompts(split)

        def rebuilt(rows: slice) -> PixelImages:
            images = from_pixels(split.pixels(prompts.indices[rows]))
            return to_pixels(reconstructions(stage, images))

        found["ceiling"] = evaluator.answers(prompts, rebuilt).scores
    return found


def model_facts(loaded: LoadedRun) -> dict[str, Any]:
    """Facts of a model for the leaderboard."""
    spec = loaded.spec
    return {
        "name": spec.model.name,
        "family": spec.model.family,
        "origin": spec.model.origin,
        "given": list(given_to(loaded)),
        "size": spec.size,
        "data": spec.data.name,
        "text": spec.text.name,
        "conditioning": spec.conditioning,
        "seed": spec.seed,
        "run": loaded.run.path.name,
    }


def given_to(loaded: LoadedRun) -> tuple[str, ...]:
    """Inputs of a model beyond captions and images: the family's, its parts' and its text's."""
    spec, modules = loaded.spec, loaded.context.modules
    parts = {**spec.parts, "text_encoder": spec.text}
    of_parts = [phrase for name, part in parts.items() for phrase in part.given(modules[name])]
    return (*loaded.module.extra_supervision(), *of_parts)


def frozen_flops(loaded: LoadedRun) -> dict[str, float]:
    """FLOPs of frozen parts' cached encodings of the training split.

    They are reported, not charged to a budget: every run on the same data shares them.
    """
    module, train = loaded.module, loaded.source.split("train")
    found, image = {}, from_pixels(train.pixels([0])).to(loaded.context.device)
    with torch.no_grad():
        for name, target in module.targets().items():
            found[name] = count_flops(partial(target.make, image)) * len(train)
        if module.text_encoder.cacheable:
            captions = [caption for record in train.records for caption in record.captions]
            one = count_flops(lambda: module.text_encoder.encode(captions[:1]))
            found["text_encoder"] = one * len(set(captions))
    return found


def cost_facts(loaded: LoadedRun, knobs: Mapping[str, float], folder: Path) -> dict[str, Any]:
    """Training cost from the clock, sampling cost measured now and while ``folder`` was drawn."""
    module, clock, device = loaded.module, loaded.clock, loaded.context.device
    captions = [r.captions[0] for r in loaded.source.split("train").records[:256]]

    def sample(count: int) -> object:
        prompts = list(islice(cycle(captions), count))
        return module.generate(prompts, SeededNoise(range(count), device), knobs)

    seconds, known = loaded.spec.protocol.cost_seconds, timed_sampling(folder, device)
    report = measure_cost(sample, module.parts(), device, seconds=seconds, known=known)
    if report.to_dict()["busy"]:
        log.warning("%s: %s.", loaded.run.path.name, report.to_dict()["busy"])
    return {
        "train_images": clock.images_seen,
        "train_flops": clock.flops,
        "train_flops_by_part": {
            name: count * clock.images_seen for name, count in clock.flops_by_part.items()
        },
        "frozen_flops": frozen_flops(loaded),
        "train_seconds": clock.seconds,
        "parts_flops": clock.parts_flops,
        "parts_seconds": clock.parts_seconds,
    } | report.to_dict()
