"""Train the dual encoders that the package ships, or measure them again (maintainers).

t2ibench evaluator train shapes          about ten minutes of one core; writes the weights
t2ibench evaluator train emoji_styles    needs `t2ibench data prepare emoji_styles` first
t2ibench evaluator check shapes          acceptance of the shipped weights on test scenes

Options: out=FOLDER (default: the package's own weights), steps=N (a shorter try),
data=FOLDER (default data_cache), device=cpu.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from t2ibench.core.errors import ConfigError

DEFAULTS = {"out": "", "steps": "", "data": "data_cache", "device": "cpu"}


def run(arguments: Sequence[str]) -> int:
    """``train shapes|emoji_styles`` or ``check shapes``."""
    from t2ibench.cli.arguments import number, parse_arguments

    parsed = parse_arguments("evaluator", arguments, DEFAULTS)
    actions = (["train", "shapes"], ["train", "emoji_styles"], ["check", "shapes"])
    if parsed.words not in actions:
        raise ConfigError("evaluator takes `train shapes`, `train emoji_styles` or `check shapes`.")
    options = parsed.options
    steps = int(number("steps", options["steps"])) if options["steps"] else None
    folder = Path(options["out"]) if options["out"] else None
    data, device = Path(options["data"]), options["device"]
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    from t2ibench.evaluation import own_encoders
    from t2ibench.metrics.dual_encoder import DualEncoder

    action, name = parsed.words
    if action == "check":
        encoder = DualEncoder.load(own_encoders.SHAPES.name, folder)
        found = own_encoders.shapes_acceptance(encoder, data / "shapes_evaluator")
    elif name == "shapes":
        cache = data / "shapes_evaluator"
        found = own_encoders.train_shapes_encoder(cache, folder, steps, device)
    else:
        found = own_encoders.train_emoji_encoder(data / "emoji_styles", folder, steps, device)
    sys.stdout.write(f"{json.dumps(found, indent=2)}\n")
    return 0
