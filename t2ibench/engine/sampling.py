"""Sample sets of a run: drawn in parts, by all ranks, and saved as they are drawn.

Part i is images i B to (i + 1) B, B being ``protocol.batch_size``, and is drawn as one batch, by
rank i modulo their number. So the set has the same bytes on any number of ranks, and sampling that
was interrupted goes on with the parts that are missing.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from t2ibench.core.errors import CheckpointError, ScoreError
from t2ibench.core.files import atomic_path
from t2ibench.core.hashing import hash_json
from t2ibench.core.ranks import barrier, from_first, rank, world_size
from t2ibench.core.tensors import read_safetensors, write_safetensors
from t2ibench.core.types import PixelImages
from t2ibench.engine.identity import sampling_settings
from t2ibench.engine.load import LoadedRun
from t2ibench.engine.progress import progress_bar
from t2ibench.evaluation.protocol import Prompts, Protocol
from t2ibench.evaluation.samples import AGAIN, SampleSet
from t2ibench.families.contract import generate_pixels

log = logging.getLogger(__name__)

PIXELS = "pixels"
"""Name of the images in the file of a part."""

SAME = ("knobs", "settings", "run")
"""Facts of a set on which its pixels depend, besides prompts and seeds."""


def sampled(loaded: LoadedRun, protocol: Protocol, knobs: Mapping[str, float], name: str) -> Path:
    """Folder with the run's images for a protocol's prompts, drawn now if it is not complete."""
    folder = loaded.run.path / "samples" / name
    meta = {
        "protocol": protocol.to_dict(),
        "knobs": dict(knobs),
        "settings": sampling_settings(loaded.spec),
        "run": loaded.run.path.name,
    }
    prompts = protocol.prompts(loaded.source.split(protocol.split))
    if not from_first(is_whole, folder, meta, prompts):
        size = loaded.spec.protocol.batch_size
        drawn_as = [prompts.captions, prompts.seeds, dict(knobs), meta["settings"], size]
        parts = folder / f"parts-{hash_json(drawn_as, 16)}"
        sample_parts(loaded, prompts, knobs, size, parts)
        barrier()
        if rank() == 0:
            pixels = torch.cat([read_part(path) for path in sorted(parts.glob("*.safetensors"))])
            prompts.answered_by(pixels, meta).save(folder)
            for old in folder.glob("parts-*"):
                shutil.rmtree(old)
        barrier()
    return folder


def is_whole(folder: Path, meta: Mapping[str, Any], prompts: Prompts) -> bool:
    """True where a complete set exists with the same prompts, seeds, knobs, settings and run.

    Another protocol may ask for the same images; its reference and name do not change them.
    """
    if not (folder / "set.json").exists():
        return False
    try:
        found = SampleSet.load(folder)
    except ScoreError as error:
        log.warning("%s It is drawn now.", error)
        return False
    same = all(found.meta.get(name) == meta[name] for name in SAME)
    made = (found.keys, found.captions, found.seeds)
    return same and made == (prompts.keys, prompts.captions, prompts.seeds)


def sample_parts(
    loaded: LoadedRun, prompts: Prompts, knobs: Mapping[str, float], size: int, parts: Path
) -> None:
    """Draws this rank's missing parts; the first rank shows the progress."""
    starts = range(0, len(prompts), size)
    label = f"sample {loaded.run.path.name} {parts.parent.name}"
    with progress_bar(label, len(prompts), shown=rank() == 0) as advance:
        for number in range(rank(), len(starts), world_size()):
            path = parts / f"{number:06d}.safetensors"
            rows = slice(starts[number], starts[number] + size)
            if not is_drawn(path):
                captions, seeds = list(prompts.captions[rows]), list(prompts.seeds[rows])
                pixels = generate_pixels(loaded.module, captions, seeds, knobs, size)
                with atomic_path(path) as aside:
                    write_safetensors({PIXELS: pixels}, aside)
            advance(min((number + 1) * size, len(prompts)))


def read_part(path: Path) -> PixelImages:
    """Images of a part."""
    return read_safetensors(path, AGAIN)[PIXELS]


def is_drawn(path: Path) -> bool:
    """True where a part is whole; one that is damaged is a warning, and drawn again."""
    try:
        if path.exists():
            read_part(path)
            return True
    except (CheckpointError, KeyError) as error:
        log.warning("%s It is drawn now.", error)
    return False
