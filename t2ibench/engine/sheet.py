"""Sheets: images of several calls side by side, a row for each image and a column for each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import resolve_knobs
from t2ibench.engine.edits import check_options, make_edit
from t2ibench.engine.generator import Generator, Pictures
from t2ibench.reporting.render.grid import Row, check_png, draw_grid

MOST_ROWS = 100
"""Rows of a sheet."""


def check_sheet(path: str, images: int) -> None:
    """Refuses a file that is no PNG, and more images a call than a sheet has rows.

    Raises:
        ConfigError: either.
    """
    check_png("sheet", path)
    if images > MOST_ROWS:
        raise ConfigError(
            f"sheet={path} would have {images} rows; it has at most {MOST_ROWS}: give fewer "
            "prompts, or fewer images_per_prompt."
        )


def check_call(
    generator: Generator,
    edit: str,
    options: Mapping[str, Any],
    knobs: Mapping[str, float],
    size: tuple[int, int] | None,
) -> None:
    """Refuses what a call would refuse of its options and knobs, before the calls ahead of it run.

    Raises:
        ConfigError: a knob or option is unknown, absent or out of range.
        DataError: an image cannot be read.
    """
    check_options(edit, options)
    module = generator.loaded.module
    resolve_knobs(module.knobs, generator.loaded.operating_point() | dict(knobs))
    make_edit(edit, options, module, 1, size, 0)


def draw_sheet(columns: Mapping[str, Pictures], title: str = "") -> Image.Image:
    """A row for each image of the calls, with its prompt, and a column for each call.

    Pictures that an edit was given stand first, as it read them.

    Args:
        columns: head of each column, and the images; all of the same prompts.
        title: text above the sheet.

    Raises:
        ConfigError: no column, or images of different prompts.
    """
    calls = list(columns.values())
    if not calls or any(call.captions != calls[0].captions for call in calls):
        raise ConfigError("a sheet needs one column or more, all of the same prompts.")
    given = calls[0].given
    heads = [*given, *columns] if any(columns) or given else []
    rows = []
    for n, prompt in enumerate(calls[0].captions):
        cells = [*given.values(), *(call.pixels[n] for call in calls)]
        first = n % calls[0].images_per_prompt == 0
        rows.append(Row(cells, prompt if first else "", [] if n else heads))
    return draw_grid(rows, title)
