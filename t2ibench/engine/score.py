"""Scoring of a trained run: its front, operating point, references and costs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from t2ibench.core.errors import ContentError, RunError
from t2ibench.core.pixels import from_pixels, to_pixels
from t2ibench.core.ranks import from_first, rank, spread
from t2ibench.core.types import PixelImages
from t2ibench.data.records import DataSource
from t2ibench.engine.costs import cost_facts
from t2ibench.engine.identity import sampling_key
from t2ibench.engine.interrupt import LASTING
from t2ibench.engine.judges import Judges, floor_of, make_judges
from t2ibench.engine.likelihood import likelihood_scores
from t2ibench.engine.load import LoadedRun
from t2ibench.engine.parts.first_stage import reconstructions
from t2ibench.engine.sampling import sampled
from t2ibench.engine.scoring_plan import STEPS, ScoringPlan
from t2ibench.engine.scorings import Scoring
from t2ibench.engine.spec import ProtocolSpec, RunSpec
from t2ibench.evaluation.evaluator import Evaluation, Evaluator
from t2ibench.evaluation.leakage import Leak, find_leaks, flag
from t2ibench.evaluation.operating_point import Candidate, choose_point
from t2ibench.evaluation.protocol import Protocol
from t2ibench.evaluation.results import OperatingPoint, RunScores, Scores
from t2ibench.evaluation.samples import SampleSet, save_values
from t2ibench.runs.folder import Run
from t2ibench.training.tracking import track_scores

log = logging.getLogger(__name__)


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
        partial(references, loaded, evaluator, judges.compared(plan.test)),
        partial(likelihood_scores, loaded, plan.test),
    ]
    if plan.heldout is not None:
        folder = sampled(loaded, plan.heldout, knobs, scoring.samples("heldout"))
        jobs.append(partial(heldout_scores, judges.evaluator(plan.heldout), folder))
    evaluation, (reference, without), *others = spread(jobs)
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
        absent=evaluation.absent | without,
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
    return knobs, {"reason": choice.reason, "edge": choice.edge}


def evaluation_of(evaluator: Evaluator, folder: Path) -> Evaluation:
    """Evaluation of a set on disk."""
    return evaluator.evaluate(SampleSet.load(folder))


def evaluate_folder(evaluate: Callable[[SampleSet], Evaluation], folder: Path) -> Evaluation:
    """Evaluation of a set on disk; its values image by image are saved beside it."""
    samples = SampleSet.load(folder)
    evaluation = evaluate(samples)
    save_values(folder, samples, evaluation.columns)
    return evaluation


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


def shared_for_want(asked: ProtocolSpec, protocol: Protocol) -> bool:
    """True where the reference shares the prompts' records only for want of others."""
    return asked.test.reference_records == "auto" and protocol.reference_records == "shared"


def references(
    loaded: LoadedRun, evaluator: Evaluator, real: DataSource
) -> tuple[dict[str, Scores], dict[str, str]]:
    """Reference scores: floor, ground truth and, with a first stage, its ceiling.

    Args:
        loaded: the run.
        evaluator: the evaluator of its protocol.
        real: the data set as the protocol compares it.

    Returns:
        The scores by the name of the reference, and why one is absent by its name.
    """
    protocol = evaluator.protocol
    found, without = floor_of(evaluator, real)
    found["ground_truth"] = evaluator.ground_truth(real.split(protocol.split))
    stage: Any = loaded.context.modules.get("first_stage")
    if stage is not None:
        # As the stage was trained on it, which may be larger than what is compared.
        split = loaded.source.split(protocol.split)
        prompts = protocol.prompts(split)

        def rebuilt(rows: slice) -> PixelImages:
            images = from_pixels(split.pixels(prompts.indices[rows]))
            return to_pixels(reconstructions(stage, images))

        found["ceiling"] = evaluator.answers(prompts, rebuilt).scores
    return found, without


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
