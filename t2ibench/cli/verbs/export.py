"""A run's weights for others: a folder that diffusers loads, or safetensors with a card.

t2ibench export runs/NAME out=NAME-diffusers format=diffusers
t2ibench export runs/NAME out=NAME-weights format=safetensors

format=diffusers is for runs of the published latent-diffusion layout with CLIP text; diffusers'
StableDiffusionPipeline.from_pretrained(out) then draws the run's images from the same latents.
format=safetensors takes any run: sampling weights, configuration, the runs and networks that it
depends on, and README.md with the facts. The folder is still a run, and samples anywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from t2ibench.cli.arguments import parse_arguments
from t2ibench.core.errors import ConfigError

FORMATS = ("diffusers", "safetensors")

OPTIONS = {"out": "", "format": ""}


def run(arguments: Sequence[str]) -> int:
    """Writes the folder ``out``, which is whole or absent."""
    given = parse_arguments("export", arguments, OPTIONS)
    if len(given.words) != 1 or given.knobs:
        raise ConfigError("export needs one run folder: t2ibench export RUN out=FOLDER format=…")
    out, kind = given.options["out"], given.options["format"]
    if kind not in FORMATS:
        raise ConfigError(f"format={kind} is unknown; choose {', '.join(FORMATS)}.")
    if not out or Path(out).expanduser().exists():
        raise ConfigError(f"out={out} must name a folder that does not exist yet.")

    from t2ibench.core.files import whole_folder
    from t2ibench.engine.export import export_safetensors, model_card
    from t2ibench.engine.load import open_folder
    from t2ibench.interop.diffusers_model import diffusers_model
    from t2ibench.interop.diffusers_writer import write_folder

    loaded = open_folder(given.words[0])
    with whole_folder(Path(out).expanduser()) as aside:
        if kind == "diffusers":
            write_folder(diffusers_model(loaded.module, loaded.spec.config()), aside)
        else:
            export_safetensors(loaded, aside)
        (aside / "README.md").write_text(model_card(loaded, kind), encoding="utf-8")
    sys.stdout.write(f"{given.words[0]} as {kind} in {out}\n")
    return 0
