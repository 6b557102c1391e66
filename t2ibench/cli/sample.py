"""Images for your prompts from a trained run.

t2ibench sample RUN "a large red ring" "a small blue moon" seed=3 out=pictures
t2ibench sample RUN prompts=prompts.txt knobs.guidance_scale=3 batch_size=32

The same run, prompt, seed and knobs give the same image in any company.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from t2ibench.cli.arguments import number, parse_arguments
from t2ibench.core.errors import ConfigError


def run(arguments: Sequence[str]) -> int:
    """Writes numbered PNG files and metadata.jsonl into ``out``."""
    defaults = {"seed": "0", "out": "samples", "prompts": "", "batch_size": "64"}
    given = parse_arguments("sample", arguments, defaults)
    if not given.words:
        raise ConfigError("sample needs a run folder first: t2ibench sample RUN PROMPT…")
    folder, *prompts = given.words
    prompts += read_prompts(given.options["prompts"])
    if not prompts:
        raise ConfigError("sample needs prompts: words in quotes after the run, or prompts=FILE.")

    from PIL import Image

    from t2ibench.cli.pipeline import open_run
    from t2ibench.core.noise import sample_seeds
    from t2ibench.families.base import generate_pixels
    from t2ibench.runs.folder import Run

    seed = int(number("seed", given.options["seed"]))
    module = open_run(Run.at(folder)).module
    seeds = sample_seeds(prompts, seed)
    batch_size = int(number("batch_size", given.options["batch_size"]))
    pixels = generate_pixels(module, prompts, seeds, given.knobs, batch_size)
    out = Path(given.options["out"])
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, (prompt, image) in enumerate(zip(prompts, pixels, strict=True)):
        name = f"{i:05d}-{slug(prompt)}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(out / name)
        lines.append(json.dumps({"file_name": name, "text": prompt, "seed": seed}))
    (out / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(prompts)} images in {out}\n")
    return 0


def read_prompts(path: str) -> list[str]:
    """One prompt a line; no path, no prompts.

    Raises:
        ConfigError: the file does not exist.
    """
    if not path:
        return []
    if not Path(path).exists():
        raise ConfigError(f"prompts={path} does not exist; give a text file, one prompt a line.")
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def slug(prompt: str) -> str:
    """A prompt as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "empty"
