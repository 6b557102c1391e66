"""Score a run again, anybody's images or features, or one set under several protocols.

t2ibench score runs/NAME                              the run under its own protocol
t2ibench score runs/NAME protocol=standard data.source.num_test=20000
t2ibench score runs/NAME protocol.steps_sweep=[5,10,20]   sampling steps as a second axis
t2ibench score runs/NAME model.module.process.solver=ddim     another sampler, the same weights
t2ibench score runs/NAME trainer.devices=4            drawn and scored by four processes
t2ibench score runs/NAME --protocols all              its images under every convention that fits
t2ibench score runs/NAME --protocols quick,dev        under these protocols alone
t2ibench score A B C data=shapes                      folders of images, each in a row of its own
t2ibench score A data=shapes name=theirs seed=0       one of several training seeds of one model
t2ibench score GENERATED reference=PICTURES           two folders; all images, their own size
t2ibench score PICTURES prompts=prompts.txt           images and a prompts file, by order of names
t2ibench score images.npz prompts=prompts.txt         arr_0: (N, H, W, 3) uint8
t2ibench score features.npz extractor=KEY             features: (N, D), of one of the extractors

The row of scores is printed with its keys and its file: scores.json holds a run's own protocol,
another one lies in scores/ and is shown by `t2ibench compare protocol=NAME`. Images that no run
made (also GenEval's folders) join leaderboards in a band of their own (family external); without
captions they get distances. There must be as many as the protocol scores;
protocol.test.num_images=N sets another number, and its scores then get columns of their own.
out=FOLDER takes scores.json.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from t2ibench.cli.arguments import END, OPTION, split_at_end
from t2ibench.core.errors import ConfigError
from t2ibench.runs.folder import is_run

if TYPE_CHECKING:
    from t2ibench.engine.context import Context
    from t2ibench.engine.external import ExternalOptions
    from t2ibench.engine.protocols import ProtocolChoice
    from t2ibench.evaluation.samples import SampleSet

OWN_OPTIONS = ("name", "prompts", "extractor", "out", "reference")


def run(arguments: Sequence[str]) -> int:
    """Scores each named folder or file; options are Hydra overrides and the verb's own."""
    arguments, plain = split_at_end(arguments)
    arguments, protocols = take_protocols(arguments)
    folders = [*(a for a in arguments if not OPTION.match(a)), *plain]
    options = dict.fromkeys(OWN_OPTIONS, "")
    overrides = []
    for name, value, whole in (o.groups() + (o[0],) for a in arguments if (o := OPTION.match(a))):
        if name in options:
            options[name] = value
        else:
            overrides.append(whole)
    for named in filter(is_run, folders):
        refuse_for_run(named, options)
    if len(folders) > 1 and options["out"]:
        raise ConfigError("out= takes the scores of one folder; leave it out for several.")
    if not folders:
        raise ConfigError("score needs a run folder or a folder of images: t2ibench score RUN.")
    for folder in map(Path, folders):
        if is_run(folder):
            score_run_folder(folder, overrides, protocols)
        else:
            score_pictures(folder, overrides, protocols, options)
    return 0


def refuse_for_run(folder: str | Path, options: Mapping[str, object]) -> None:
    """Refuses the options that are for images which no run made.

    Raises:
        ConfigError: one of them is given.
    """
    given = [f"{name}=" for name, value in options.items() if value]
    if given:
        raise ConfigError(
            f"{folder} is a run, which is scored in its own folder by its protocol, on its prompts "
            f"and against its own data; {' and '.join(given)} is for images that no run made."
        )


def take_protocols(arguments: Sequence[str]) -> tuple[list[str], str]:
    """Removes ``--protocols NAMES`` (or ``--protocols=NAMES``) from the words; returns both.

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
                f"score has no flag {word}; it has --protocols, and key=value options. Names that "
                f"begin with a minus stand after {END}: t2ibench score … {END} {shlex.quote(word)}."
            )
        else:
            rest.append(word)
    return rest, found


def score_run_folder(folder: Path, overrides: Sequence[str], protocols: str) -> None:
    """Scores a run under its protocol, or its images under several."""
    from t2ibench.cli.compose import rescored
    from t2ibench.cli.score_lines import row_text, skills_text
    from t2ibench.core.launch import process_rank
    from t2ibench.engine.context import Context
    from t2ibench.engine.rescore import score_trained
    from t2ibench.engine.scorings import scores_file
    from t2ibench.evaluation.samples import SampleSet
    from t2ibench.runs.folder import Run

    run = Run.at(folder)
    spec = rescored(run, overrides)
    if protocols:
        samples = SampleSet.load(folder / "samples" / "chosen")
        score_under(samples, Context.of(spec), protocols, overrides, folder)
        return
    scores = score_trained(run, spec)
    if process_rank() == 0:
        sys.stdout.write(row_text(scores, scores_file(folder, scores.scoring)))
        sys.stdout.write(skills_text(scores.chosen.scores))


def score_pictures(
    folder: Path, overrides: Sequence[str], protocols: str, options: Mapping[str, str]
) -> None:
    """Scores images or features that no run made."""
    from t2ibench.cli.compose import compose_spec
    from t2ibench.cli.score_lines import row_text
    from t2ibench.data.prompts import read_prompts
    from t2ibench.engine.context import Context
    from t2ibench.engine.external import (
        ExternalOptions,
        out_folder,
        read_images,
        score_external,
    )
    from t2ibench.engine.scorings import scores_file

    seeded = any(o.startswith("seed=") for o in overrides)
    if options["reference"]:
        overrides = with_reference(folder, options["reference"], overrides)
    context = Context.of(compose_spec(overrides))
    given: ExternalOptions = ExternalOptions(
        options["name"],
        tuple(read_prompts(options["prompts"])) if options["prompts"] else (),
        options["extractor"],
        Path(options["out"]) if options["out"] else None,
        context.spec.seed if seeded else None,
    )
    if protocols:
        samples = read_images(folder, context, given)
        score_under(samples, context, protocols, overrides, given.out or folder)
    else:
        scores = score_external(folder, context, given)
        file = scores_file(out_folder(folder, given), scores.scoring)
        sys.stdout.write(row_text(scores, file))


def with_reference(folder: Path, reference: str, overrides: Sequence[str]) -> list[str]:
    """The overrides with those that make a folder of pictures the reference; says the sizes.

    Raises:
        ConfigError: the reference is named twice or is no folder, or there are features.
    """
    from t2ibench.cli.reference import reference_words, sizes_of
    from t2ibench.data.pictures import sizes_in

    sizes = sizes_of(folder)
    words = reference_words(sizes, reference, overrides)
    size = [word for word in words if word.startswith("data.resolution=")][-1]
    theirs = sizes_in(Path(reference).expanduser())
    sys.stderr.write(f"{folder}: {sizes}; reference {reference}: {theirs}; {size}\n")
    return words


def score_under(
    samples: SampleSet, context: Context, protocols: str, overrides: Sequence[str], out: Path
) -> None:
    """Scores one set under several protocols and prints the table."""
    from t2ibench.engine.protocols import score_under_protocols

    chosen = any(o.startswith("evaluator") for o in overrides)
    choice = protocol_choice(protocols, context if chosen else None)
    sys.stdout.write(score_under_protocols(samples, context, choice, out))


def protocol_choice(words: str, context: Context | None) -> ProtocolChoice:
    """Protocols and networks that ``--protocols`` names.

    Args:
        words: ``all``, or names joined by commas.
        context: context with the evaluator's networks; None: all conventions.

    Raises:
        ConfigError: a name that conf/protocol does not have.
    """
    from t2ibench.cli.compose import compose_spec, config_files
    from t2ibench.cli.reference import FOLDERS
    from t2ibench.engine.protocols import ProtocolChoice

    known = sorted(config_files("protocol").keys() - {FOLDERS})
    names = known if words == "all" else words.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"--protocols {words}: {unknown[0]!r} is unknown; choose all, or some of "
            f"{','.join(known)}."
        )
    networks = context.spec if context is not None else compose_spec(["evaluator=conventions"])
    specs = tuple(compose_spec([f"protocol={name}"]).protocol for name in names)
    return ProtocolChoice(specs, networks.evaluator.extractors, words == "all")
