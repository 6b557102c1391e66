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

Sheets: a row for each prompt, a column for each value of one list (seed=, knobs.NAME=,
strength=, switch=, style= or weight=); pictures that an edit is given stand first.
t2ibench sample RUN "a red ring" "a blue star" seed=0,1,2,3 sheet=seeds.png
t2ibench sample RUN "a red ring" knobs.truncation_psi=0.25,0.5,0.75,1 sheet=truncation.png
t2ibench sample RUN "a red ring" edit=prompt_mixing with="a blue star" switch=0,1 sheet=mixed.png
t2ibench sample RUN "a red ring" edit=style_mixing style=1,2,3,4 switch=0.5 sheet=styles.png
t2ibench sample RUN "a red ring" edit=upscaling image=small.png sheet=upscaled.png
Its images are those of one command a value. With out= they are also written, a list's each value
into a folder of its own (out=pictures: pictures/seed_0, pictures/seed_1, …).
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2ibench.cli.arguments import whole_number
from t2ibench.cli.columns import Column, parse_columns
from t2ibench.core.errors import ConfigError

if TYPE_CHECKING:
    from t2ibench.data.prompts import Prompt
    from t2ibench.engine.generator import Generator, Pictures
    from t2ibench.evaluation.layouts import Layout

DEFAULTS = {
    "seed": "0",
    "out": "",
    "prompts": "",
    "batch_size": "64",
    "images_per_prompt": "1",
    "layout": "auto",
    "edit": "",
    "size": "",
    "attention": "",
    "sheet": "",
}

OUT = "samples"
"""Folder of the images where neither ``out=`` nor ``sheet=`` is given."""

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

LISTS = ("seed", "strength", "switch", "style", "weight")
"""Options that may be lists where a sheet is drawn, next to all knobs."""

TITLED = ("strength", "sides", "with", "switch", "by", "style", "weight")
"""Options that a sheet's title tells; the others are pictures, which it shows."""


@dataclass(frozen=True)
class Request:
    """A command that is checked as far as it can be without the run.

    Attributes:
        folder: of the run.
        prompts: all of them.
        columns: one, or one for each value of a list.
        seeds: of the columns.
        per_prompt: images of each prompt.
        batch_size: images at a time.
        size: height and width, or None.
        layout: of the written images.
        folders: into which they are written: none, or one for each column.
    """

    folder: str
    prompts: list[Prompt]
    columns: list[Column]
    seeds: list[int]
    per_prompt: int
    batch_size: int
    size: tuple[int, int] | None
    layout: Layout
    folders: list[Path]

    @property
    def options(self) -> dict[str, str]:
        """Options that all columns share, but for the list's."""
        return self.columns[0].asked.options

    @property
    def edit(self) -> str:
        """Name of the edit, or empty."""
        return self.options["edit"]

    @property
    def images(self) -> int:
        """Number of images of a column."""
        return len(self.prompts) * self.per_prompt


def run(arguments: Sequence[str]) -> int:
    """Writes the images, with the prompt of each, into ``out``, or draws a sheet of them."""
    from t2ibench.engine.attention import check_attention, save_attention
    from t2ibench.engine.generator import Generator
    from t2ibench.engine.load import open_folder
    from t2ibench.engine.sheet import check_call, draw_sheet
    from t2ibench.reporting.render.grid import write_png

    asked = read_request(arguments)
    figure, sheet = asked.options["attention"], asked.options["sheet"]
    generator = Generator(open_folder(asked.folder))
    if figure:
        check_attention(figure, generator.loaded.module)
    for column in asked.columns:
        options, knobs = edit_options(column), column.asked.knobs
        check_call(generator, asked.edit, options, knobs, asked.size)
    found = generate(generator, asked)
    for out, pictures in zip(asked.folders, found, strict=bool(asked.folders)):
        pictures.save(out, asked.layout)
    if figure:
        save_attention(figure, generator, found[0], asked.columns[0].asked.knobs)
    if sheet:
        write_png(
            draw_sheet(dict(zip(heads_of(asked), found, strict=True)), title_of(asked)), sheet
        )
    places = [f"{out} ({asked.layout} layout)" for out in asked.folders] + [sheet] * bool(sheet)
    spent = dict.fromkeys(f"{p.edit_flops:.2e}" for p in found if p.edit_flops is not None)
    cost = f", {', '.join(spent)} FLOPs each by descent" if spent else ""
    count = asked.images * len(found)
    sys.stdout.write(f"{count} images in {', '.join(places)}{cost}\n")
    return 0


def read_request(arguments: Sequence[str]) -> Request:
    """Reads and checks a command; mistakes in words need no weights.

    Raises:
        ConfigError: what is typed cannot be meant together, or is out of range.
    """
    from t2ibench.data.prompts import Prompt, read_prompts
    from t2ibench.engine.edits import check_options
    from t2ibench.engine.generator import as_prompts
    from t2ibench.engine.sheet import check_sheet
    from t2ibench.evaluation.layouts import choose_layout
    from t2ibench.evaluation.sample_folder import check_free

    defaults = DEFAULTS | dict.fromkeys(EDIT_OPTIONS, "")
    columns = parse_columns("sample", arguments, defaults, LISTS)
    given = columns[0].asked
    options = given.options
    if not given.words:
        raise ConfigError("sample needs a run folder first: t2ibench sample RUN PROMPT…")
    folder, *words = given.words
    prompts = [Prompt(word) for word in words]
    prompts += read_prompts(options["prompts"]) if options["prompts"] else []
    check_figures(columns[0])
    for column in columns:
        check_options(options["edit"], edit_options(column))
    prompts = as_prompts(prompts, options["edit"])
    folders = folders_of(columns)
    for out in folders:
        check_free(out)
    seeds = [whole_number("seed", column.asked.options["seed"]) for column in columns]
    batch_size, per_prompt = (
        whole_number(name, options[name]) for name in ("batch_size", "images_per_prompt")
    )
    if options["sheet"]:
        check_sheet(options["sheet"], len(prompts) * per_prompt)
    layout = choose_layout(options["layout"], prompts, per_prompt)
    size = read_size(options["size"])
    return Request(folder, prompts, columns, seeds, per_prompt, batch_size, size, layout, folders)


def generate(generator: Generator, asked: Request) -> list[Pictures]:
    """Images of each column."""
    from t2ibench.engine.progress import progress_bar

    found: list[Pictures] = []
    with progress_bar("sample", asked.images * len(asked.columns)) as advance:
        for column, seed in zip(asked.columns, asked.seeds, strict=True):
            before = asked.images * len(found)
            shared: dict[str, Any] = {
                "seed": seed,
                "images_per_prompt": asked.per_prompt,
                "batch_size": asked.batch_size,
                "size": asked.size,
                "on_progress": lambda done, before=before: advance(before + done),
            }
            shared |= edit_options(column) | column.asked.knobs
            if asked.edit:
                found.append(generator.edit(asked.edit, asked.prompts, **shared))
            else:
                found.append(generator.generate(asked.prompts, **shared))
    return found


def check_figures(column: Column) -> None:
    """Refuses figures that cannot be drawn of what is asked.

    Raises:
        ConfigError: a list without a sheet, or word attention of an edit, a size or a sheet.
    """
    options = column.asked.options
    if column.name and not options["sheet"]:
        raise ConfigError(
            f"{column.name} is a list, whose values are the columns of a sheet; add "
            "sheet=FILE.png, or give one value."
        )
    if options["attention"] and (options["edit"] or options["size"] or options["sheet"]):
        raise ConfigError(
            f"attention={options['attention']} is drawn without edit=, size= and sheet=; leave one "
            "out."
        )


def edit_options(column: Column) -> dict[str, str]:
    """Options of the edit that are typed."""
    options = column.asked.options
    return {name: options[name] for name in EDIT_OPTIONS if options[name]}


def folders_of(columns: Sequence[Column]) -> list[Path]:
    """Folders of the images: none with a sheet alone, else one for each column."""
    options = columns[0].asked.options
    if options["sheet"] and not options["out"]:
        return []
    out = Path(options["out"] or OUT).expanduser()
    return [out / f"{c.name}_{c.value}" if c.name else out for c in columns]


def heads_of(asked: Request) -> list[str]:
    """Heads of a sheet's columns: the list's option and value, or the edit."""
    return [f"{c.name} {c.value}" if c.name else asked.edit for c in asked.columns]


def title_of(asked: Request) -> str:
    """Edit, options, seed and knobs that all images of a sheet share, as they were typed."""
    swept, options = asked.columns[0].name, asked.options
    told = [asked.edit] if asked.edit and swept else []
    settings: dict[str, Any] = {name: options[name] for name in TITLED if options[name]}
    if options["with"]:
        settings["with"] = f'"{options["with"]}"'
    if options["seed"] != DEFAULTS["seed"]:
        settings["seed"] = options["seed"]
    settings |= {name: f"{value:g}" for name, value in asked.columns[0].asked.knobs.items()}
    told += [f"{name} {value}" for name, value in settings.items() if name != swept]
    return ", ".join(told)


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
