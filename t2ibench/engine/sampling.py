"""Sample sets of a run: drawn in parts, by all ranks, and saved as they are drawn.

Part i is images i B to (i + 1) B, B being ``protocol.batch_size``, and is drawn as one batch, by
rank i modulo their number. So the set has the same bytes on any number of ranks, and sampling that
was interrupted goes on with the parts that are missing.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2ibench.core.errors import CheckpointError, ScoreError
from t2ibench.core.files import atomic_path, link_or_copy, read_json_object, write_json
from t2ibench.core.hashing import hash_json
from t2ibench.core.ranks import barrier, from_first, rank, world_size
from t2ibench.core.tensors import read_safetensors, write_safetensors
from t2ibench.core.types import PixelImages
from t2ibench.engine.identity import sampling_settings
from t2ibench.engine.load import LoadedRun
from t2ibench.engine.progress import progress_bar
from t2ibench.evaluation.cost import hardware
from t2ibench.evaluation.protocol import Prompts, Protocol
from t2ibench.evaluation.samples import AGAIN, SampleSet
from t2ibench.evaluation.timing import FEWEST_CALLS, Call, Latency, timed_call
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
    from_first(adopt_drawn, loaded.run.path / "samples", folder, meta, prompts)
    if not from_first(is_whole, folder, meta, prompts):
        size = loaded.spec.protocol.batch_size
        drawn_as = [prompts.captions, prompts.seeds, dict(knobs), meta["settings"], size]
        parts = folder / f"parts-{hash_json(drawn_as, 16)}"
        sample_parts(loaded, prompts, knobs, size, parts)
        barrier()
        if rank() == 0:
            pixels = joined(sorted(parts.glob("*.safetensors")), parts / "joined")
            prompts.answered_by(pixels, meta | {"timing": times_of(parts)}).save(folder)
            for old in folder.glob("parts-*"):
                shutil.rmtree(old)
        barrier()
    return folder


def adopt_drawn(sets: Path, folder: Path, meta: dict[str, Any], prompts: Prompts) -> None:
    """Takes the same images from another scoring of the run, where it has drawn them."""
    if (folder / "set.json").exists():
        return
    for place in (sets, *sorted(path for path in sets.glob("*/") if path != folder)):
        drawn = place / folder.name
        if drawn != folder and is_whole(drawn, meta, prompts):
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("pixels.npy", "manifest.jsonl"):
                link_or_copy(drawn / name, folder / name)
            described = read_json_object(drawn / "set.json", "hash", "meta")
            times = {"timing": described["meta"].get("timing", [])}
            write_json(folder / "set.json", described | {"meta": meta | times})
            return


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
    """Draws this rank's missing parts; the first rank shows the progress.

    Where one process draws, whole batches after its first are timed, each into a file of its own.
    """
    starts = range(0, len(prompts), size)
    label = f"sample {loaded.run.path.name} {parts.parent.name}"
    device, calls = loaded.context.device, list[Call]()
    with progress_bar(label, len(prompts), shown=rank() == 0) as advance:
        for number in range(rank(), len(starts), world_size()):
            path = parts / f"{number:06d}.safetensors"
            rows = slice(starts[number], starts[number] + size)
            if not is_drawn(path):
                captions, seeds = list(prompts.captions[rows]), list(prompts.seeds[rows])
                with timed_call(calls, device):
                    pixels = generate_pixels(loaded.module, captions, seeds, knobs, size)
                if len(calls) > 1 and len(seeds) == size and world_size() == 1:
                    facts = {"batch_size": size, "hardware": hardware(device)} | asdict(calls[-1])
                    write_json(path.with_suffix(".json"), facts)
                with atomic_path(path) as aside:
                    write_safetensors({PIXELS: pixels}, aside)
            advance(min((number + 1) * size, len(prompts)))


def joined(parts: Sequence[Path], place: Path) -> PixelImages:
    """All parts in one tensor that lies in a file, so that memory holds one part at a time.

    Args:
        parts: files of (B, 3, H, W) uint8, in order.
        place: the file, made anew.
    """
    with open(place, "wb") as file:
        for path in parts:
            piece = read_part(path).numpy()
            piece.tofile(file)
    return torch.from_numpy(np.memmap(place, np.uint8, "c").reshape(-1, *piece.shape[1:]))


def times_of(parts: Path) -> list[dict[str, Any]]:
    """Timed batches of a set, as ``sample_parts`` wrote them beside its parts."""
    return [read_json_object(path) for path in sorted(parts.glob("*.json"))]


def timed_sampling(folder: Path, device: torch.device) -> Latency | None:
    """Seconds an image of a set's batches while it was drawn; None with too few of this machine."""
    here = hardware(device)
    times = [
        time
        for time in read_json_object(folder / "set.json", "meta")["meta"].get("timing", [])
        if time["hardware"] == here
    ]
    if len(times) < FEWEST_CALLS:
        return None
    calls = [Call(time["seconds"], time["waited"]) for time in times]
    return Latency.of(times[0]["batch_size"], calls)


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
