"""Train the dual encoders that the package ships, or measure them again (maintainers).

t2ibench evaluator train shapes          about ten minutes of one core; writes the weights
t2ibench evaluator train emoji_styles    needs `t2ibench data prepare emoji_styles` first
t2ibench evaluator train shapes seed=1 out=FOLDER    a twin: the same recipe, another seed
t2ibench evaluator check shapes          acceptance of the shipped weights, and whether they
                                         fall as images get worse
t2ibench evaluator check shapes twin=FOLDER          and whether the twin gives the same order

Options: out=FOLDER (default: the package's own weights), steps=N (a shorter try), seed=N,
data=FOLDER (default data_cache), device=cpu, twin=FOLDER, keep=true (`check` writes what it
found into the shipped card).
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2ibench.core.errors import ConfigError

DEFAULTS = {
    "out": "",
    "steps": "",
    "seed": "0",
    "data": "data_cache",
    "device": "cpu",
    "twin": "",
    "keep": "false",
}
NAMES = ("shapes", "emoji_styles")


def run(arguments: Sequence[str]) -> int:
    """Runs ``train NAME`` or ``check NAME``."""
    from t2ibench.cli.arguments import parse_arguments, whole_number

    parsed = parse_arguments("evaluator", arguments, DEFAULTS)
    if parsed.words not in [[verb, name] for verb in ("train", "check") for name in NAMES]:
        raise ConfigError("evaluator takes `train` or `check`, then `shapes` or `emoji_styles`.")
    options = parsed.options
    seed = whole_number("seed", options["seed"])
    if seed and not options["out"]:
        raise ConfigError(f"seed={seed} needs out=FOLDER: the shipped weights are those of seed 0.")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    action, name = parsed.words
    data = Path(options["data"])
    if action == "check":
        found = check(name, data, options["twin"], options["keep"] == "true")
    else:
        from t2ibench.evaluation import dual_encoder_recipes

        steps = whole_number("steps", options["steps"]) if options["steps"] else None
        folder = Path(options["out"]).expanduser() if options["out"] else None
        train, place = {
            "shapes": (dual_encoder_recipes.train_shapes_encoder, data / "shapes_evaluator"),
            "emoji_styles": (dual_encoder_recipes.train_emoji_encoder, data / "emoji_styles"),
        }[name]
        found = train(place, folder, steps, options["device"], seed)
    sys.stdout.write(f"{json.dumps(found, indent=2)}\n")
    return 0


def check(name: str, data: Path, twin: str, keep: bool) -> dict[str, Any]:
    """Measures the shipped encoder and, where given, a twin."""
    from t2ibench.core.files import read_json, write_json
    from t2ibench.evaluation import dual_encoder_recipes
    from t2ibench.metrics.dual_encoder import WEIGHTS, DualEncoder

    shapes = name == "shapes"
    recipe = dual_encoder_recipes.SHAPES if shapes else dual_encoder_recipes.EMOJI

    def measure(encoder: DualEncoder) -> dict[str, Any]:
        if shapes:
            return dual_encoder_recipes.check_shapes_encoder(encoder, data / "shapes_evaluator")
        return dual_encoder_recipes.check_emoji_encoder(encoder, data / "emoji_styles")

    found = measure(DualEncoder.load(recipe.name))
    if twin:
        other = DualEncoder.load(folder=twin)
        found["twin"] = dual_encoder_recipes.twin_facts(found, other, measure(other))
    if keep:
        card = WEIGHTS / recipe.name / "card.json"
        write_json(card, read_json(card) | found)
    return found
