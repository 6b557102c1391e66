"""The command line: one verb, then Hydra overrides or run folders.

Nothing heavy is imported before the verb needs it, so that ``--help``, ``--cfg job`` and
``doctor`` answer at once, without a GPU and without weights.
"""

from __future__ import annotations

import codecs
import importlib
import io
import os
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import suppress

from t2ibench import __version__
from t2ibench.core.errors import T2IBenchError, printable

VERBS = {
    "train": "train (and sample, and score) one model or a sweep: Hydra overrides, -m",
    "sample": "images for your prompts from a trained run",
    "score": "score a run again, anybody's images or features, or several protocols side by side",
    "fetch": "published weights (Inception, CLIP, DINOv2) onto this machine, hash checked",
    "import": "published weights (CompVis file, diffusers folder) as a run that samples and scores",
    "export": "a run as a folder that diffusers loads, or as safetensors with a card",
    "status": "how far a study's cells are: finished, running, interrupted, failed, missing",
    "compare": "leaderboard and paired tests over runs",
    "report": "one self-contained HTML page over runs",
    "info": "parameters, FLOPs, knobs of a configuration, without training it",
    "demo": "three families trained, scored and compared; experiment=NAME for another study",
    "data": "prepare or check a data set",
    "evaluator": "train the dual encoder of an embedded data set (maintainers)",
    "bench": "training and sampling speed of a configuration on this machine",
    "doctor": "what this machine has and what is missing",
}

MODULES = {"import": "import_"}
"""Modules of verbs whose names are Python keywords."""

HELP = """t2ibench {version}: text-to-image generator families compared under one protocol

usage: t2ibench VERB [WORDS] [key=value ...]

{verbs}

examples:
  t2ibench demo
  t2ibench train model=diffusion/fast_unet data=shapes seed=0,1 study.name=first -m
  t2ibench status first
  t2ibench train model=gan/fast_painter conditioning=modulation budget=images budget.amount=50000
  t2ibench sample runs/NAME "a large red ring on a white background" seed=3 out=pictures
  t2ibench sample runs/NAME prompts=evaluation_metadata.jsonl images_per_prompt=4 out=geneval
  t2ibench score runs/NAME --protocols all
  t2ibench score pictures/ prompts=prompts.txt data=shapes protocol.test.num_images=100
  t2ibench fetch inception
  t2ibench import v1-5-pruned-emaonly.safetensors out=runs/sd15
  t2ibench export runs/NAME out=NAME-diffusers format=diffusers
  t2ibench compare runs/*
  t2ibench train --cfg job      the whole configuration;  t2ibench train --help  its groups
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Returns:
        0 on success, 2 after a user's mistake (one sentence on stderr), 130 when interrupted,
        141 where nobody reads the output any more (``| head``).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAIN)
    try:
        code = run_verb(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # What Python still flushes at its end goes nowhere.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141


PLAIN = "t2ibench-plain"
"""Name of the error handler of the output: what a terminal cannot show, it shows as ASCII."""

LINES = {"─": "-", "━": "-", "│": "|", "┃": "|", "–": "-", "—": "-", "…": "...", "·": ".", "×": "x"}


def plain_characters(error: UnicodeError) -> tuple[str, int]:
    """Characters of ASCII for those that an encoding lacks: lines, accents removed, else ``?``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = []
    for character in error.object[error.start : error.end]:
        bare = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        box = "+" if "BOX DRAWINGS" in unicodedata.name(character, "") else bare or "?"
        found.append(LINES.get(character, box))
    return "".join(found), error.end


codecs.register_error(PLAIN, plain_characters)


def run_verb(arguments: Sequence[str]) -> int:
    """Runs the verb that the words name; its exit status."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        verbs = "\n".join(f"  {name:<10}{text}" for name, text in VERBS.items())
        sys.stdout.write(HELP.format(version=__version__, verbs=verbs))
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"{__version__}\n")
        return 0
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        sys.stderr.write(f"t2ibench: {verb} is not a verb; choose {', '.join(VERBS)}.\n")
        return 2
    module = importlib.import_module(f"t2ibench.cli.verbs.{MODULES.get(verb, verb)}")
    if rest and rest[0] in ("-h", "--help") and verb not in ("train",):
        sys.stdout.write(f"t2ibench {verb}: {VERBS[verb]}\n\n{(module.__doc__ or '').strip()}\n")
        return 0
    try:
        code = module.run(rest)
    except T2IBenchError as error:
        sys.stderr.write(f"t2ibench {verb}: {printable(str(error))}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"t2ibench {verb}: interrupted; type the same command to go on.\n")
        return 130
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
