"""Images for your prompts from a trained run.

t2ibench sample RUN "a large red ring" "a small blue moon" seed=3 out=pictures
t2ibench sample RUN prompts=prompts.txt knobs.guidance_scale=3 batch_size=32
t2ibench sample RUN prompts=PartiPrompts.tsv out=parti
t2ibench sample RUN prompts=evaluation_metadata.jsonl images_per_prompt=4 out=geneval
t2ibench sample RUN prompts=color_val.txt layout=t2i_compbench images_per_prompt=10 out=color
t2ibench sample RUN prompts=geneval2_data.jsonl out=geneval2
t2ibench sample RUN prompts=dpg_bench/prompts images_per_prompt=4 out=dpg
t2ibench sample RUN prompts=OneIG-Bench.csv images_per_prompt=4 out=oneig
t2ibench sample RUN out=odd -- "e=mc2" "-5 degrees"       prompts with = or a leading minus

Edits, and sizes other than the training's:
t2ibench sample RUN "a red ring" size=64x96
t2ibench sample RUN "a red ring" edit=img2img image=photo.png strength=0.6
t2ibench sample RUN "a red ring" edit=inpainting image=photo.png mask=white-where-painted.png
t2ibench sample RUN "a red ring" edit=outpainting image=photo.png sides=16,16,0,0
t2ibench sample RUN "a red ring" edit=prompt_mixing with="a blue star" switch=0.3 by=step|layer
t2ibench sample RUN "a red ring" edit=style_mixing style=3 switch=0.5
t2ibench sample RUN "a red ring" edit=interpolation with="a blue star" weight=0.5
t2ibench sample RUN edit=variations image=photo.png images_per_prompt=4
t2ibench sample RUN edit=image_interpolation image=one.png other=two.png weight=0.5
t2ibench sample RUN "a red ring" edit=upscaling image=small.png
t2ibench sample RUN "a red ring" attention=words.png     where each word was looked at, as a figure
An image is cut to the model's square, or to size=HEIGHTxWIDTH. `t2ibench info` lists the edits that
a model has.

Knobs that are not named have the values of the run's chosen operating point.
prompts=FILE reads .txt (a prompt a line, T2I-CompBench), PartiPrompts' .tsv, DrawBench's and
OneIG-Bench's .csv, GenEval's and GenEval 2's .jsonl, and DPG-Bench's folder of .txt.
layout=auto|plain|geneval|geneval2|t2i_compbench|dpg_bench|oneig|adm is what an evaluator reads;
auto is that of the prompts' benchmark and plain (images and metadata.jsonl) for all others.
Images of an earlier call in out= are replaced; a folder with other files is refused.
The same run, prompt, seed and knobs give the same image in any batch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2ibench.cli.arguments import parse_arguments, whole_number
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
    "attention": "",
}

EDIT_OPTIONS = (
    "image",
    "strength",
    "mask",
    "sides",
    "with",
    "switch",
    "by",
    "style",
    "weight",
    "other",
)
"""Options of edits, equal to those of ``engine/edits.py`` (a test checks it)."""


def run(arguments: Sequence[str]) -> int:
    """Writes the images, with the prompt of each, into ``out``."""
    options = DEFAULTS | dict.fromkeys(EDIT_OPTIONS, "")
    given = parse_arguments("sample", arguments, options)
    if not given.words:
        raise ConfigError("sample needs a run folder first: t2ibench sample RUN PROMPT…")
    from t2ibench.data.prompts import Prompt, read_prompts
    from t2ibench.engine.attention import check_attention, save_attention
    from t2ibench.engine.edits import check_options
    from t2ibench.engine.generator import Generator, as_prompts
    from t2ibench.engine.load import open_folder
    from t2ibench.engine.progress import progress_bar
    from t2ibench.evaluation.layouts import choose_layout
    from t2ibench.evaluation.sample_folder import check_free

    folder, *words = given.words
    prompts = [Prompt(word) for word in words]
    prompts += read_prompts(given.options["prompts"]) if given.options["prompts"] else []
    edit, size = given.options["edit"], read_size(given.options["size"])
    typed = {name: given.options[name] for name in EDIT_OPTIONS if given.options[name]}
    # Before the run is read: mistakes in words need no weights.
    check_options(edit, typed)
    prompts = as_prompts(prompts, edit)
    check_free(Path(given.options["out"]).expanduser())
    seed, batch_size, per_prompt = (
        whole_number(name, given.options[name])
        for name in ("seed", "batch_size", "images_per_prompt")
    )
    layout = choose_layout(given.options["layout"], prompts, per_prompt)
    generator = Generator(open_folder(folder))
    figure = given.options["attention"]
    if figure:
        if edit or size:
            raise ConfigError(
                f"attention={figure} is drawn without edit= and size=; leave one out."
            )
        check_attention(figure, generator.loaded.module)
    with progress_bar("sample", len(prompts) * per_prompt) as advance:
        shared: dict[str, Any] = {
            "seed": seed,
            "images_per_prompt": per_prompt,
            "batch_size": batch_size,
            "size": size,
            "on_progress": advance,
        }
        if edit:
            found = generator.edit(edit, prompts, **(shared | typed | given.knobs))
        else:
            found = generator.generate(prompts, **(shared | given.knobs))
    found.save(given.options["out"], layout)
    if figure:
        save_attention(figure, generator, found, given.knobs)
    cost = f", {found.edit_flops:.2e} FLOPs each by descent" if found.edit_flops is not None else ""
    sys.stdout.write(f"{len(found)} images in {given.options['out']} ({layout} layout){cost}\n")
    return 0


def read_size(typed: str) -> tuple[int, int] | None:
    """Size ``HEIGHTxWIDTH`` in pixels, or None where none is typed.

    Raises:
        ConfigError: not two positive numbers.
    """
    if not typed:
        return None
    parts = typed.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"size={typed} must be HEIGHTxWIDTH in pixels, for example size=64x96.")
    return int(parts[0]), int(parts[1])
