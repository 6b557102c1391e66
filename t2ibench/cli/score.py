"""Score a run again, or anybody's folder of images with captions.

t2ibench score runs/NAME                              the run under its own protocol
t2ibench score runs/NAME protocol=standard            under another one
t2ibench score PICTURES data=shapes name=theirs       a folder of images with captions

A foreign folder joins leaderboards in a band of its own (family ``external``).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from t2ibench.cli.arguments import OPTION
from t2ibench.cli.instruments import Instruments, build_instruments, make_protocol
from t2ibench.core.errors import ConfigError
from t2ibench.core.hashing import hash_json
from t2ibench.core.knobs import front_knob, resolve_knobs
from t2ibench.core.noise import Noise
from t2ibench.core.pixels import from_pixels, to_pixels
from t2ibench.evaluation.cost import measure_cost
from t2ibench.evaluation.leakage import Leak, find_leaks, flag
from t2ibench.evaluation.protocol import Protocol
from t2ibench.evaluation.results import OperatingPoint, RunScores, Scores, best_point
from t2ibench.evaluation.samples import SampleSet, save_values


def run(arguments: Sequence[str]) -> int:
    """Scores each folder named; options are Hydra overrides of protocol, evaluator, knobs."""
    from t2ibench.cli.compose import compose_config

    folders = [a for a in arguments if not OPTION.match(a)]
    overrides = [a for a in arguments if OPTION.match(a)]
    if not folders:
        raise ConfigError("score needs a run folder or a folder of images: t2ibench score RUN.")
    for folder in folders:
        if (Path(folder) / "status.json").exists():
            from t2ibench.cli.pipeline import open_run
            from t2ibench.runs.folder import Run

            trained = open_run(Run.at(folder))
            cfg = scoring_config(trained.cfg, overrides)
            score_run(trained, cfg)
        else:
            name = next((a[5:] for a in overrides if a.startswith("name=")), Path(folder).name)
            rest = [a for a in overrides if not a.startswith("name=")]
            score_folder(Path(folder), compose_config(rest), name)
        sys.stdout.write(f"{folder}: scored\n")
    return 0


def scoring_config(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The run's configuration with another protocol, evaluator, logger or knobs."""
    from t2ibench.cli.compose import compose_config

    fresh = compose_config(overrides)
    for key in ("protocol", "evaluator", "knobs"):
        if any(o.split("=")[0].split(".")[0] == key for o in overrides):
            cfg[key] = fresh[key]
    return cfg


def score_run(trained: Any, cfg: DictConfig) -> RunScores:
    """Samples and scores a trained run; what is already there is kept.

    The fidelity-alignment knob is swept on the front's (validation) prompts; the protocol's own
    prompts are then drawn at the value that ``protocol.choose_by`` likes best there, unless the
    user named the value (``knobs.guidance_scale=2``).
    """
    run, module, source = trained.run, trained.module, trained.source
    test, front = make_protocol(cfg, "test"), make_protocol(cfg, "front")
    told: Any = OmegaConf.to_container(cfg.knobs)
    knobs = resolve_knobs(module.knobs, told)
    knob = front_knob(module.knobs)
    choose_by = None if knob.name in told else cfg.protocol.choose_by
    inputs = hash_json(
        {
            "test": test.to_dict(),
            "front": front.to_dict(),
            "evaluator": OmegaConf.to_container(cfg.evaluator, resolve=True),
            "knobs": knobs,
            "choose_by": choose_by,
        }
    )
    if run.scores.exists() and run.status().get("scored") == inputs:
        return RunScores.read(run.scores)
    instruments = build_instruments(cfg, source)
    leaks = leaks_of(module, instruments)
    points = []
    front_evaluator = instruments.evaluator(front)
    for value in knob.sweep:
        setting = knobs | {knob.name: value}
        swept = drawn(trained, cfg, front, setting, folder_of(knob.name, value))
        found = front_evaluator.evaluate(swept)
        points.append(
            OperatingPoint(
                setting,
                flag(found.scores, leaks),
                value,
                f"samples/{folder_of(knob.name, value)}",
            )
        )
    if choose_by is not None:
        knobs = best_point(points, choose_by).knobs
    samples = drawn(trained, cfg, test, knobs, "chosen")
    evaluator = instruments.evaluator(test)
    evaluation = evaluator.evaluate(samples)
    save_values(run.path / "samples" / "chosen", samples, evaluation.columns)
    scores = RunScores(
        model=model_facts(cfg, run.path.name),
        protocol=test.to_dict(),
        chosen=OperatingPoint(
            knobs, flag(evaluation.scores, leaks), knobs[knob.name], "samples/chosen"
        ),
        budget=dict(OmegaConf.to_container(cfg.budget)),  # type: ignore[arg-type]
        cost=cost_facts(trained, cfg, knobs),
        knob={"name": knob.name, "default": knob.default, "chosen_by": choose_by},
        front=tuple(points),
        reference=references(trained, evaluator, test),
        leakage=tuple(leak.to_dict() for leak in leaks),
    )
    scores.write(run.scores)
    run.set_status("finished", clock=trained.clock.state_dict(), scored=inputs)
    from t2ibench.training.tracking import track_scores

    logger: Any = OmegaConf.to_container(cfg.logger, resolve=True)
    track_scores(logger["wandb"], run, scores.chosen.scores)
    return scores


def folder_of(knob: str, value: float) -> str:
    """Name of the sample folder of a point of the front."""
    return f"front-{knob}-{value:g}"


def drawn(
    trained: Any,
    cfg: DictConfig,
    protocol: Protocol,
    knobs: Mapping[str, float],
    name: str,
) -> SampleSet:
    """The run's images for a protocol's prompts, from its folder or drawn now."""
    from t2ibench.cli.progress import counted
    from t2ibench.families.base import generate_pixels

    folder = trained.run.path / "samples" / name
    meta = {"protocol": protocol.to_dict(), "knobs": dict(knobs), "run": trained.run.path.name}
    if (folder / "set.json").exists():
        found = SampleSet.load(folder)
        if found.meta == meta:
            return found
    prompts = protocol.prompts(trained.source.split(protocol.split))
    with counted(f"sample {trained.run.path.name} {name}", len(prompts)) as advance:
        pixels = generate_pixels(
            trained.module,
            list(prompts.captions),
            list(prompts.seeds),
            knobs,
            int(cfg.protocol.batch_size),
            advance,
        )
    samples = prompts.answered_by(pixels, meta)
    samples.save(folder)
    return samples


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
    parts = {"text_encoder": module.text_encoder}
    frozen = getattr(module.text_encoder, "backbone", None)
    if frozen is not None:
        parts["frozen text encoder"] = frozen
    if getattr(module, "first_stage", None) is not None:
        parts["first_stage"] = module.first_stage
    return find_leaks(parts, instruments.networks())


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


def cost_facts(trained: Any, cfg: DictConfig, knobs: Mapping[str, float]) -> dict[str, Any]:
    """Training cost from the clock and sampling cost measured now."""
    module, clock = trained.module, trained.clock
    captions = [r.captions[0] for r in trained.source.split("train").records[:256]]

    def sample(count: int) -> object:
        return module.generate(captions[:count], Noise(range(count), module.device), knobs)

    parts = {name: part for name, part in module.named_children()}
    report = measure_cost(sample, parts, module.device, seconds=float(cfg.protocol.cost_seconds))
    return {
        "train_images": clock.images_seen,
        "train_flops": clock.flops,
        "train_seconds": clock.seconds,
        "first_stage_flops": clock.first_stage_flops,
        "first_stage_seconds": clock.first_stage_seconds,
    } | report.to_dict()


def foreign_samples(folder: Path, resolution: int, cfg: DictConfig) -> SampleSet:
    """A folder of images with captions as a sample set, decoded by the data layer."""
    from t2ibench.data.folder import FolderSource

    theirs = FolderSource(root=folder, resolution=resolution, cache_dir=cfg.paths.cache)
    whole = theirs.everything()
    records = whole.records
    return SampleSet(
        whole.pixels(range(len(whole))),
        tuple(record.captions[0] for record in records),
        tuple(record.key for record in records),
        tuple(range(len(records))),
        {"folder": str(folder)},
    )


def score_folder(folder: Path, cfg: DictConfig, name: str) -> RunScores:
    """Scores anybody's images against a data set's reference split."""
    from t2ibench.cli.build import build_source

    source = build_source(cfg)
    samples = foreign_samples(folder, source.resolution, cfg)
    wanted: Any = OmegaConf.to_container(cfg.protocol.test, resolve=True)
    protocol = Protocol(name=cfg.protocol.name, **(wanted | {"num_images": len(samples)}))
    evaluation = build_instruments(cfg, source).evaluator(protocol).evaluate(samples)
    scores = RunScores(
        model={"name": name, "family": "external", "data": cfg.data.name, "seed": 0, "run": name},
        protocol=protocol.to_dict(),
        chosen=OperatingPoint({}, evaluation.scores),
    )
    scores.write(folder / "scores.json")
    return scores
