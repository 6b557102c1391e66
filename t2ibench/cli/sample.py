"""Images for your prompts from a trained run.

t2ibench sample RUN "a large red ring" "a small blue moon" seed=3 out=pictures
t2ibench sample RUN prompts=prompts.txt knobs.guidance_scale=3 batch_size=32
t2ibench sample RUN prompts=PartiPrompts.tsv out=parti
t2ibench sample RUN prompts=evaluation_metadata.jsonl images_per_prompt=4 out=geneval
t2ibench sample RUN prompts=color_val.txt layout=t2i_compbench images_per_prompt=10 out=color

Edits, and sizes other than the training's:
t2ibench sample RUN "a red ring" size=64x96
t2ibench sample RUN "a red ring" edit=img2img image=photo.png strength=0.6
t2ibench sample RUN "a red ring" edit=inpainting image=photo.png mask=white-where-painted.png
t2ibench sample RUN "a red ring" edit=outpainting image=photo.png sides=16,16,0,0
t2ibench sample RUN "a red ring" edit=prompt_mixing with="a blue star" switch=0.3 by=step|layer
t2ibench sample RUN "a red ring" edit=interpolation with="a blue star" weight=0.5
t2ibench sample RUN edit=variations image=photo.png images_per_prompt=4
t2ibench sample RUN edit=image_interpolation image=one.png other=two.png weight=0.5
t2ibench sample RUN "a red ring" edit=upscaling image=small.png
An image is cut to the model's square, or to size=HEIGHTxWIDTH. `t2ibench info` lists the edits that
a model has.

prompts=FILE reads .txt (a prompt a line, T2I-CompBench), PartiPrompts' .tsv, DrawBench's .csv and
GenEval's .jsonl. layout=auto|plain|geneval|t2i_compbench is the folder that a detector reads; auto
is GenEval's for GenEval's prompts and plain (images and metadata.jsonl) for all others.
The same run, prompt, seed and knobs give the same image in any company.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from t2ibench.cli.arguments import number, parse_arguments
from t2ibench.cli.edits import NAMES, WITHOUT_PROMPT, check_options, make_edit, read_size
from t2ibench.core.errors import ConfigError

DEFAULTS = {
    "seed": "0",
    "out": "samples",
    "prompts": "",
    "batch_size": "64",
    "images_per_prompt": "1",
    "layout": "auto",
    "edit": "",
    "size": "",
} | dict.fromkeys(NAMES, "")


def run(arguments: Sequence[str]) -> int:
    """Writes the images and what was asked of each into ``out``."""
    given = parse_arguments("sample", arguments, DEFAULTS)
    if not given.words:
        raise ConfigError("sample needs a run folder first: t2ibench sample RUN PROMPT…")
    from t2ibench.data.prompts import Prompt, read_prompts
    from t2ibench.evaluation.layouts import choose_layout, write_images

    folder, *words = given.words
    prompts = [Prompt(word) for word in words]
    prompts += read_prompts(given.options["prompts"]) if given.options["prompts"] else []
    edit, size = given.options["edit"], read_size(given.options["size"])
    typed = {name: given.options[name] for name in NAMES}
    check_options(edit, typed)
    if not prompts and edit in WITHOUT_PROMPT:
        prompts = [Prompt("")]
    if not prompts:
        raise ConfigError("sample needs prompts: words in quotes after the run, or prompts=FILE.")
    layout = choose_layout(given.options["layout"], prompts)
    seed, batch_size, per_prompt = (
        int(number(name, given.options[name]))
        for name in ("seed", "batch_size", "images_per_prompt")
    )
    if min(batch_size, per_prompt) < 1:
        raise ConfigError(
            f"batch_size={batch_size} and images_per_prompt={per_prompt} must be at least 1."
        )

    from t2ibench.cli.pipeline import open_run
    from t2ibench.cli.progress import counted
    from t2ibench.core.noise import sample_seeds
    from t2ibench.families.contract import generate_pixels
    from t2ibench.runs.folder import Run

    module = open_run(Run.at(folder)).module
    asked = [prompt.text for prompt in prompts for _ in range(per_prompt)]
    seeds = sample_seeds(numbered(asked), seed)
    changed = make_edit(edit, typed, module, len(asked), size, seed)
    with counted("sample", len(asked)) as advance:
        pixels = generate_pixels(
            module,
            asked,
            seeds,
            given.knobs,
            batch_size,
            advance,
            size=None if changed is not None else size,
            edit=changed,
        )
    write_images(Path(given.options["out"]), layout, prompts, per_prompt, pixels, seeds)
    sys.stdout.write(f"{len(asked)} images in {given.options['out']} ({layout} layout)\n")
    return 0


def numbered(prompts: Sequence[str]) -> list[str]:
    """Names for seeds: a prompt's first image has the prompt's own, each repeat another."""
    met: Counter[str] = Counter()
    names = []
    for prompt in prompts:
        names.append(prompt if not met[prompt] else f"{prompt}#{met[prompt]}")
        met[prompt] += 1
    return names
