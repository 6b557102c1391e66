"""Measures the grader on ground truth: accuracy under damage, false accepts, thresholds, speed.

Run ``python experiments/grader/measure.py`` (about three minutes on one core); it writes
``results.json`` beside itself. ``accept_fit_rule`` is the threshold that the calibration rule
asks for; ``grader.ACCEPT_FIT`` holds it, and a test compares the two.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2ibench.core.files import write_json
from t2ibench.data.shapes.source import ShapesSource
from t2ibench.data.shapes.world import Parse
from t2ibench.metrics.grader import Grader
from t2ibench.metrics.grader_calibration import (
    DAMAGES,
    MILD,
    accept_threshold,
    damage,
    random_blobs,
)


def measure(resolution: int, count: int, cache_dir: str) -> dict[str, Any]:
    """All numbers of one resolution."""
    exact: dict[str, dict[str, float]] = {}
    fits: dict[str, list[float]] = {name: [] for name in MILD}
    speed = {}
    grader = None
    for level in ("L1", "L2", "L3", "L4"):
        source = ShapesSource(level, resolution, 1, 1, count, cache_dir=cache_dir)
        grader = grader or Grader(source.world, resolution)
        split = source.split("test")
        parses = [Parse.from_dict(record.meta["parses"][0]) for record in split.records]
        pixels = split.pixels(slice(None)).numpy()
        exact[level] = {}
        for name in DAMAGES:
            images = torch.from_numpy(damage(pixels, name))
            start = time.process_time()
            table = grader.grade(images, parses)
            if name == "clean":
                speed[level] = round(count / (time.process_time() - start))
            exact[level][name] = round(100 * table.summary()["exact"], 1)
            if name in MILD and level != "L4":
                fits[name] += [item.fit for found in grader.detect(images) for item in found]
    assert grader is not None
    return {
        "images_per_cell": count,
        "exact_percent": exact,
        "images_per_second": speed,
        "accept_fit": grader.accept_fit,
        "accept_fit_rule": accept_threshold(fits),
        "false_accepts": false_accepts(grader, resolution),
    }


def false_accepts(grader: Grader, resolution: int, count: int = 1000) -> dict[str, Any]:
    """Share of random blobs taken for a shape, by shape, and of pure noise taken for an image."""
    world = grader.world
    radii = (min(world.radii.values()), max(world.radii.values()))
    blobs = random_blobs(count, resolution, radii, list(world.colours.values()))
    names = [item.shape for found in grader.detect(torch.from_numpy(blobs)) for item in found]
    noise = np.random.default_rng(0).integers(0, 256, (100, 3, resolution, resolution))
    seen = grader.see(torch.from_numpy(noise.astype(np.uint8)))
    return {
        "blobs": count,
        "accepted_percent": round(100 * sum(n is not None for n in names) / count, 1),
        "by_shape_percent": {n: round(100 * names.count(n) / count, 1) for n in world.shapes},
        "noise_valid_percent": round(100 * float(np.mean([image.valid for image in seen])), 1),
    }


def main() -> None:
    """Measures both resolutions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=250, help="images a cell")
    count = parser.parse_args().count
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache_dir:
        results = {str(side): measure(side, count, cache_dir) for side in (32, 64)}
    write_json(Path(__file__).parent / "results.json", results)


if __name__ == "__main__":
    main()
