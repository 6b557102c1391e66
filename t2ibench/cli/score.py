"""Score a run again, anybody's images or features, or one set under several protocols.

t2ibench score runs/NAME                              the run under its own protocol
t2ibench score runs/NAME protocol=standard data.source.num_test=10000
t2ibench score runs/NAME protocol.steps_sweep=[5,10,20]   sampling steps as a second axis
t2ibench score runs/NAME trainer.devices=4            drawn and scored by four processes
t2ibench score runs/NAME --protocols all              its images under every convention that fits
t2ibench score runs/NAME --protocols quick,dev        under these protocols alone
t2ibench score PICTURES data=shapes name=theirs       a folder of images with captions
t2ibench score PICTURES prompts=prompts.txt           images and a prompts file, by order of names
t2ibench score images.npz prompts=prompts.txt         arr_0: (N, H, W, 3) uint8
t2ibench score features.npz extractor=KEY             features: (N, D), of one of the extractors

Foreign images (also GenEval's folders) join leaderboards in a band of their own (family
external). There must be as many as the protocol scores; protocol.test.num_images=N says otherwise,
and its scores then stand in columns of their own. out=FOLDER says where scores.json goes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from t2ibench.cli.arguments import OPTION
from t2ibench.core.errors import ConfigError
from t2ibench.core.types import Score
from t2ibench.evaluation.samples import SampleSet

OWN_OPTIONS = ("name", "prompts", "extractor", "out")
TEST_SIZES = ("data.source.num_val", "data.source.num_test")
"""Data options that leave a trained run what it is: how much of its test splits is drawn."""


def run(arguments: Sequence[str]) -> int:
    """Scores each folder or file named; options are Hydra overrides and the verb's own."""
    from t2ibench.cli.compose import compose_config

    arguments, protocols = take_protocols(arguments)
    folders = [a for a in arguments if not OPTION.match(a)]
    options = dict.fromkeys(OWN_OPTIONS, "")
    overrides = []
    for name, value, whole in (o.groups() + (o[0],) for a in arguments if (o := OPTION.match(a))):
        if name in options:
            options[name] = value
        else:
            overrides.append(whole)
    if not folders:
        raise ConfigError("score needs a run folder or a folder of images: t2ibench score RUN.")
    for folder in folders:
        if (Path(folder) / "status.json").exists():
            score_trained(Path(folder), overrides, protocols)
        else:
            from t2ibench.cli.foreign import foreign_images, score_foreign

            cfg = compose_config(overrides)
            if protocols:
                from t2ibench.cli.sensitivity import score_sensitivity

                samples, source = foreign_images(Path(folder), cfg, options["prompts"])
                out = Path(options["out"] or folder)
                score_sensitivity(samples, source, cfg, protocols, overrides, out)
            else:
                score_foreign(Path(folder), cfg, options)
        sys.stdout.write(f"{folder}: scored\n")
    return 0


def take_protocols(arguments: Sequence[str]) -> tuple[list[str], str]:
    """``--protocols NAMES`` (or ``--protocols=NAMES``) taken out of the words.

    Raises:
        ConfigError: no names follow, or another flag.
    """
    words, found, rest = list(arguments), "", []
    while words:
        word = words.pop(0)
        if word == "--protocols":
            if not words or words[0].startswith("-"):
                raise ConfigError("--protocols needs names: --protocols all, or --protocols a,b.")
            found = words.pop(0)
        elif word.startswith("--protocols="):
            found = word.removeprefix("--protocols=")
        elif word.startswith("-"):
            raise ConfigError(
                f"score has no flag {word}; it has --protocols, and key=value options."
            )
        else:
            rest.append(word)
    return rest, found


def score_trained(folder: Path, overrides: Sequence[str], protocols: str = "") -> None:
    """A run under its protocol, or the images it has under several."""
    from t2ibench.cli.pipeline import open_run
    from t2ibench.cli.ranks import ranks_of
    from t2ibench.cli.score_run import score_run
    from t2ibench.core.launch import process_rank
    from t2ibench.runs.folder import Run
    from t2ibench.training.fit import check_accelerator

    run = Run.at(folder)
    stored: Any = OmegaConf.load(run.path / "config.yaml")
    cfg = scoring_config(stored, overrides)
    check_accelerator(cfg.trainer.accelerator, cfg.trainer.devices)
    devices, num_nodes = (1, 1) if protocols else (cfg.trainer.devices, cfg.trainer.num_nodes)
    work = {"score": str(folder), "overrides": list(overrides)}
    with ranks_of(devices, num_nodes, lambda: work):
        trained = open_run(run)
        if any(o.startswith(TEST_SIZES) for o in overrides):
            from t2ibench.cli.build import build_source

            trained = replace(trained, source=build_source(cfg))
        if not protocols:
            scores = score_run(trained, cfg)
            if process_rank() == 0:
                sys.stdout.write(skills_text(scores.chosen.scores))
            return
        from t2ibench.cli.sensitivity import score_sensitivity

        samples = SampleSet.load(folder / "samples" / "chosen")
        score_sensitivity(samples, trained.source, cfg, protocols, overrides, folder)


def scoring_config(cfg: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The run's configuration with another protocol, evaluator, logger, trainer or knobs.

    Where nothing is said of devices, one draws and scores, on however many it was trained.

    Raises:
        ConfigError: an override of what the run was trained with.
    """
    from t2ibench.cli.compose import compose_config

    fresh = compose_config(overrides)
    named = {o.split("=")[0] for o in overrides}
    kept: tuple[str, ...] = ("protocol", "evaluator", "knobs", "logger", "trainer")
    for name in ("devices", "num_nodes"):
        OmegaConf.update(cfg, f"trainer.{name}", 1, force_add=True)
    for key in kept:
        if any(name.split(".")[0] == key for name in named):
            cfg[key] = fresh[key]
    for name in named & set(TEST_SIZES):
        OmegaConf.update(cfg, name, OmegaConf.select(fresh, name))
    kept += ("paths",)
    other = sorted(n for n in named - set(TEST_SIZES) if n.split(".")[0] not in kept)
    if other:
        raise ConfigError(
            f"{other[0]} cannot be changed when a trained run is scored; the keys are "
            f"{', '.join([*kept, *TEST_SIZES])}."
        )
    return with_own_protocol_keys(cfg)


def with_own_protocol_keys(cfg: DictConfig) -> DictConfig:
    """Keys that protocols have got since the run was made, with the values that change nothing."""
    for key, value in {
        "heldout": None,
        "images": {"resolution": 0, "crop": "", "resize": ""},
        "extractor": "",
        "r_precision_folds": 0,
        "memorisation": False,
        "knobs": {},
        "knob_sweep": None,
        "steps_sweep": None,
    }.items():
        if key not in cfg.protocol:
            OmegaConf.update(cfg.protocol, key, value, force_add=True)
    return cfg


def skills_text(scores: Mapping[str, Score]) -> str:
    """Skill by skill: prompts like the training's beside held-out compositions; empty without."""
    by_name = {score.metric: score for score in scores.values()}
    lines = [
        f"  {name.removeprefix('grader_'):<12}{100 * by_name[name].value:>7.1f}"
        f"{100 * by_name[f'{name}_heldout'].value:>11.1f}"
        for name in by_name
        if f"{name}_heldout" in by_name
    ]
    return (
        "\n".join([f"  {'skill':<12}{'iid %':>7}{'held-out %':>11}", *lines, ""]) if lines else ""
    )
