"""Samples and scores of a trained run: its front, its chosen point, its references and costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from t2ibench.cli.drawing import drawn
from t2ibench.cli.instruments import Instruments, build_instruments, make_protocol
from t2ibench.core.errors import ConfigError
from t2ibench.core.hashing import hash_json
from t2ibench.core.knobs import Knob, front_knob, resolve_knobs
from t2ibench.core.noise import Noise
from t2ibench.core.pixels import from_pixels, to_pixels
from t2ibench.core.ranks import from_first, rank, spread
from t2ibench.evaluation.cost import count_flops, measure_cost
from t2ibench.evaluation.evaluator import Evaluation, Evaluator
from t2ibench.evaluation.leakage import Leak, find_leaks, flag
from t2ibench.evaluation.protocol import Protocol
from t2ibench.evaluation.results import OperatingPoint, RunScores, Scores, best_point
from t2ibench.evaluation.samples import SampleSet, save_values
from t2ibench.runs.folder import Run
from t2ibench.training.devices import device_here

SCORES_VERSION = 3
"""Raised when a scored run must be scored again: the evaluator says more, or otherwise."""

STEPS = "num_steps"
"""The knob that ``protocol.steps_sweep`` sweeps, where a family has it."""


def score_run(trained: Any, cfg: DictConfig) -> RunScores:
    """Samples and scores a trained run; what is already there is kept.

    The fidelity-alignment knob is swept on the front's (validation) prompts; the protocol's own
    prompts are then drawn at the value that ``protocol.choose_by`` likes best there, unless the
    user or the protocol named the value (``knobs.guidance_scale=2``).
    """
    run, module, source = trained.run, trained.module, trained.source
    test, front = make_protocol(cfg, "test"), make_protocol(cfg, "front")
    heldout = make_protocol(cfg, "heldout") if cfg.protocol.heldout else None
    if heldout is not None and heldout.split not in source.splits:
        heldout = None
    told = told_knobs(cfg, module.knobs)
    knobs = resolve_knobs(module.knobs, told)
    knob = front_knob(module.knobs)
    settings = front_settings(cfg, knob, knobs)
    choose_by = None if knob.name in told else cfg.protocol.choose_by
    inputs = hash_json(
        {
            "version": SCORES_VERSION,
            "test": test.to_dict(),
            "front": front.to_dict(),
            "heldout": heldout.to_dict() if heldout else None,
            "settings": settings,
            "evaluator": OmegaConf.to_container(cfg.evaluator, resolve=True),
            "source": source.fingerprint,
            "knobs": knobs,
            "choose_by": choose_by,
        }
    )
    kept = from_first(kept_scores, run, cfg, inputs)
    if kept is not None:
        return kept
    module.to(device_here(cfg.trainer.accelerator))
    instruments = build_instruments(cfg, source)
    evaluator, front_evaluator = instruments.evaluator(test), instruments.evaluator(front)
    leaks = leaks_of(module, instruments)
    names = [folder_of(knob.name, setting, knobs) for setting in settings]
    sets = [drawn(trained, cfg, front, *point) for point in zip(settings, names, strict=True)]
    found = spread([partial(scores_in, front_evaluator, folder) for folder in sets])
    points = [
        OperatingPoint(setting, flag(scores, leaks), setting[knob.name], f"samples/{name}")
        for setting, name, scores in zip(settings, names, found, strict=True)
    ]
    if choose_by is not None:
        # Among the steps that are asked for: more steps are a cost, not a better knob.
        alike = [p for p in points if p.knobs.get(STEPS) == knobs.get(STEPS)]
        knobs = best_point(alike, choose_by).knobs
    jobs: list[Callable[[], Any]] = [
        partial(scored, evaluator.evaluate, drawn(trained, cfg, test, knobs, "chosen")),
        partial(references, trained, evaluator, test),
    ]
    if heldout is not None:
        folder = drawn(trained, cfg, heldout, knobs, "heldout")
        jobs.append(partial(held_out, instruments.evaluator(heldout), folder))
    evaluation, reference, *of_compose = spread(jobs)
    chosen_scores = dict(evaluation.scores)
    for more in of_compose:
        chosen_scores |= more
    scores = RunScores(
        model=model_facts(cfg, run.path.name),
        protocol=test.to_dict(),
        chosen=OperatingPoint(
            knobs, flag(chosen_scores, leaks), knobs[knob.name], "samples/chosen"
        ),
        budget=dict(OmegaConf.to_container(cfg.budget)),  # type: ignore[arg-type]
        cost=from_first(cost_facts, trained, cfg, knobs),
        knob={"name": knob.name, "default": knob.default, "chosen_by": choose_by},
        front=tuple(points),
        reference=reference,
        leakage=tuple(leak.to_dict() for leak in leaks),
        size_curves={k: [asdict(p) for p in points] for k, points in evaluation.curves.items()},
    )
    if rank() == 0:
        scores.write(run.scores)
    run.set_status("finished", clock=trained.clock.state_dict(), scored=inputs, asked=asked_of(cfg))
    from t2ibench.training.tracking import track_scores

    logger: Any = OmegaConf.to_container(cfg.logger, resolve=True)
    track_scores(logger["wandb"], run)
    return scores


def kept_scores(run: Run, cfg: DictConfig, inputs: str) -> RunScores | None:
    """The scores of a run that was scored with the same inputs, else None."""
    if not run.scores.exists() or run.status().get("scored") != inputs:
        return None
    if run.status().get("asked") != asked_of(cfg):
        run.set_status("finished", **(kept_of(run) | {"asked": asked_of(cfg)}))
    return RunScores.read(run.scores)


def scores_in(evaluator: Evaluator, folder: Path) -> Scores:
    """Every score of a set on disk."""
    return evaluator.evaluate(SampleSet.load(folder)).scores


def scored(evaluate: Callable[[SampleSet], Evaluation], folder: Path) -> Evaluation:
    """An evaluation of a set on disk, its values image by image written beside it."""
    samples = SampleSet.load(folder)
    evaluation = evaluate(samples)
    save_values(folder, samples, evaluation.columns)
    return evaluation


def kept_of(run: Run) -> dict[str, Any]:
    """What the status of a finished run says of its training and its scores."""
    return {k: v for k, v in run.status().items() if k in ("clock", "scored")}


def asked_of(cfg: DictConfig) -> str:
    """A hash of what is asked of the evaluator: it is not in a run's identity."""
    asked = {k: OmegaConf.to_container(cfg[k], resolve=True) for k in ("protocol", "evaluator")}
    knobs = OmegaConf.to_container(cfg.knobs, resolve=True)
    return hash_json({**asked, "knobs": knobs, "version": SCORES_VERSION}, length=16)


def told_knobs(cfg: DictConfig, declared: Sequence[Knob]) -> dict[str, float]:
    """The knobs that the protocol fixes, where the family has them, then those of the user."""
    names = {knob.name for knob in declared}
    fixed: Any = OmegaConf.to_container(cfg.protocol.knobs)
    told: Any = OmegaConf.to_container(cfg.knobs)
    return {name: value for name, value in fixed.items() if name in names} | told


def front_settings(
    cfg: DictConfig, knob: Knob, knobs: Mapping[str, float]
) -> list[dict[str, float]]:
    """Complete knobs of every point of the front: steps by values of the knob.

    The steps that are asked for are always among those swept; a family without the knob has a
    front of one axis.

    Raises:
        ConfigError: a swept number of steps that is not a whole number of at least 1.
    """
    values = list(cfg.protocol.knob_sweep or knob.sweep)
    swept: list[Any] = list(cfg.protocol.steps_sweep or [])
    wrong = [steps for steps in swept if not isinstance(steps, int) or steps < 1]
    if wrong:
        raise ConfigError(f"protocol.steps_sweep has {wrong[0]}; give whole numbers from 1.")
    if STEPS not in knobs or not swept:
        return [{**knobs, knob.name: value} for value in values]
    steps = sorted({*swept, int(knobs[STEPS])})
    return [{**knobs, STEPS: count, knob.name: value} for count in steps for value in values]


def held_out(evaluator: Evaluator, folder: Path) -> Scores:
    """The grader on compositions that training never showed, under ``grader_SKILL_heldout``."""
    scores = scored(evaluator.prompted, folder).scores
    graded = [score for score in scores.values() if score.metric.startswith("grader_")]
    renamed = [replace(s, key=s.key.replace(s.metric, f"{s.metric}_heldout", 1)) for s in graded]
    return {score.key: score for score in renamed}


def folder_of(knob: str, setting: Mapping[str, float], knobs: Mapping[str, float]) -> str:
    """Name of the sample folder of a point of the front; other steps than asked are in it."""
    name = f"front-{knob}-{setting[knob]:g}"
    steps = setting.get(STEPS)
    return name if steps == knobs.get(STEPS) else f"{name}-{STEPS}-{steps:g}"


def references(trained: Any, evaluator: Any, protocol: Protocol) -> dict[str, Scores]:
    """Floor, ground truth and, where there is a first stage, its ceiling."""
    source = trained.source
    split = source.split(protocol.split)
    found = {
        "floor": evaluator.floor(source.split("train")),
        "ground_truth": evaluator.ground_truth(split),
    }
    stage = getattr(trained.module, "first_stage", None)
    if stage is not None:
        from t2ibench.cli.first_stage import reconstructions

        prompts = protocol.prompts(split)
        images = from_pixels(split.pixels(prompts.indices))
        rebuilt = to_pixels(reconstructions(stage, images.to(trained.module.device)).cpu())
        found["ceiling"] = evaluator.evaluate(prompts.answered_by(rebuilt)).scores
    return found


def leaks_of(module: Any, instruments: Instruments) -> list[Leak]:
    """Weights that the generator shares with what judges it."""
    return find_leaks(guarded_parts(module), instruments.networks())


def guarded_parts(module: Any) -> dict[str, Any]:
    """What a module was conditioned on or trained against, the stages below it included."""
    if getattr(module, "base", None) is not None:
        below = guarded_parts(module.base.module)
        return {f"base {name}": part for name, part in below.items()}
    parts = {"text_encoder": module.text_encoder}
    frozen = getattr(module.text_encoder, "backbone", None)
    if frozen is not None:
        parts["frozen text encoder"] = frozen
    if getattr(module, "first_stage", None) is not None:
        parts["first_stage"] = module.first_stage
    if getattr(module, "clip", None) is not None:
        parts["clip"] = module.clip.towers
    return parts


def model_facts(cfg: DictConfig, run: str) -> dict[str, Any]:
    """What the leaderboard says of a model."""
    return {
        "name": cfg.model.name,
        "family": cfg.model.family,
        "size": cfg.size.name,
        "data": cfg.data.name,
        "text": cfg.text.name,
        "conditioning": cfg.conditioning,
        "seed": cfg.seed,
        "run": run,
    }


def frozen_flops(trained: Any) -> dict[str, float]:
    """FLOPs of what frozen parts made once of the training split, kept in caches since.

    They are told, not charged to a budget: every run on the same data shares them.
    """
    module, train = trained.module, trained.source.split("train")
    found = {}
    stage = getattr(module, "first_stage", None)
    if stage is not None and module.trains_on != "image":
        encode = stage.encode if module.trains_on == "latents" else stage.codes
        image = from_pixels(train.pixels([0])).to(module.device)
        with torch.no_grad():
            found["first_stage"] = count_flops(lambda: encode(image)) * len(train)
    if trained.cfg.text.cached:
        captions = [caption for record in train.records for caption in record.captions]
        with torch.no_grad():
            one = count_flops(lambda: module.text_encoder.encode(captions[:1]))
        found["text_encoder"] = one * len(set(captions))
    return found


def cost_facts(trained: Any, cfg: DictConfig, knobs: Mapping[str, float]) -> dict[str, Any]:
    """Training cost from the clock and sampling cost measured now."""
    module, clock = trained.module, trained.clock
    captions = [r.captions[0] for r in trained.source.split("train").records[:256]]

    def sample(count: int) -> object:
        asked = list(islice(cycle(captions), count))
        return module.generate(asked, Noise(range(count), module.device), knobs)

    seconds = float(cfg.protocol.cost_seconds)
    report = measure_cost(sample, module.parts(), module.device, seconds=seconds)
    return {
        "train_images": clock.images_seen,
        "train_flops": clock.flops,
        "train_flops_by_part": {
            name: count * clock.images_seen for name, count in clock.flops_by_part.items()
        },
        "frozen_flops": frozen_flops(trained),
        "train_seconds": clock.seconds,
        "parts_flops": clock.parts_flops,
        "parts_seconds": clock.parts_seconds,
    } | report.to_dict()
