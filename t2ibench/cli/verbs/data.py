"""Prepare or check a data set.

t2ibench data prepare emoji_styles    fetch the drawings with npm, render them, write splits
t2ibench data check shapes            keys, captions, groups and identical images across splits
t2ibench data check folder data.root=PICTURES text=clip_vit_l14

The check names what is left out of a folder, and what captions lose in the text encoder: words cut
off, words that it does not know.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from t2ibench.core.errors import ConfigError

if TYPE_CHECKING:
    from t2ibench.engine.context import Context


def run(arguments: Sequence[str]) -> int:
    """Runs ``prepare NAME`` or ``check NAME [overrides]``."""
    from t2ibench.cli.compose import compose_spec

    if len(arguments) < 2 or arguments[0] not in ("prepare", "check"):
        raise ConfigError("data takes `prepare NAME` or `check NAME`, for example shapes.")
    action, name, *overrides = arguments
    spec = compose_spec([f"data={name}", *overrides])
    if action == "prepare":
        return prepare(name, Path(spec.paths.data))
    from t2ibench.data.check import check_source
    from t2ibench.engine.context import Context

    context = Context(spec)
    report = check_source(context.source)
    report.notes += caption_notes(context)
    sys.stdout.write(f"{report}\n")
    return 0 if report.ok else 1


def caption_notes(context: Context) -> list[str]:
    """Sentences on what captions lose in the chosen text encoder (``text=…``), a split each."""
    from t2ibench.core.errors import T2IBenchError
    from t2ibench.engine.captions import caption_losses

    name = context.spec.text.name
    try:
        encoder = context.spec.text.restore(context, None)
        losses = caption_losses(encoder, context.source)
    except T2IBenchError as error:
        return [f"text={name} was not asked what captions lose: {error}"]
    return [f"{split} with text={name}: {sentence}" for split, sentence in losses.items()]


def prepare(name: str, folder: Path) -> int:
    """Prepares a data set under ``folder``, unless it is there already.

    Raises:
        ConfigError: the data set needs no preparing.
    """
    if name != "emoji_styles":
        raise ConfigError(f"data={name} needs no preparing; train with it as it is.")
    from t2ibench.data.emoji_styles.prepare import prepare_emoji_styles

    found = prepare_emoji_styles(folder / name)
    sys.stdout.write(
        json.dumps({"images": found["images"], "splits": found["splits"]}, indent=2) + "\n"
    )
    sys.stdout.write(f"{name} is ready in {folder / name}; licences in LICENSES.txt there\n")
    return 0
