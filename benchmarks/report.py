"""Seconds and memory of comparing many runs, against the number of runs.

python benchmarks/report.py                                  10, 20 and 50 runs of 10,000 prompts
python benchmarks/report.py --runs 50 --prompts 2000         another size
python benchmarks/report.py --seeds 3                        three training seeds a model

Run folders of the real format with invented scores: ten columns, five of them image by image,
models near enough to each other that many pairs are hard to tell apart. Each size runs in a
process of its own, on one core: read, analyse, terminal tables, every file but the PDF figures,
in seconds of the processor (``elapsed``: of the clock). Before
anything is timed, p-values and intervals of one pair out of many must equal those of the pair
alone.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml

from t2ibench.core.types import Score
from t2ibench.evaluation.results import OperatingPoint, RunScores
from t2ibench.evaluation.samples import SampleSet, save_values
from t2ibench.metrics.bootstrap import bootstrap_mean

PER_IMAGE = ("clip_score", "r_precision", "grader_colour", "grader_shape", "grader_exact")
DISTANCES = ("fd", "kid", "precision", "recall", "cmmd-style")
SIDE = 8
"""Pixels of the invented images: what is measured is statistics and tables."""


def key_of(metric: str, prompts: int) -> str:
    """A score key of the real form."""
    judge = "shapes-clip-v1@128|area-32|cc33dd44" if metric in PER_IMAGE else "lite0@1280|aa11bb22"
    return f"{metric}[{judge}|prompts:1a2b3c4d|{prompts}]"


def write_run(root: Path, model: int, seed: int, prompts: int) -> None:
    """A run folder of invented scores; models differ by little more than their noise."""
    rng = np.random.default_rng([model, seed])
    skill = 0.5 + 0.3 * np.sin(model) + 0.01 * rng.standard_normal()
    run = root / f"model{model:02d}-{seed:08d}"
    hard = np.random.default_rng(0).random(prompts)
    columns = {
        "clip_score": 25 + 4 * skill + 2 * hard + rng.normal(0, 3, prompts),
        **{
            name: (rng.random(prompts) < skill * (1 - hard / 3)).astype(float)
            for name in PER_IMAGE[1:]
        },
    }
    keys = tuple(f"k{i}" for i in range(prompts))
    pixels = torch.from_numpy(rng.integers(0, 255, (prompts, 3, SIDE, SIDE), dtype=np.uint8))
    samples = SampleSet(
        pixels, tuple(f"prompt {i}" for i in range(prompts)), keys, tuple(range(prompts))
    )
    samples.save(run / "samples" / "chosen")
    save_values(
        run / "samples" / "chosen", samples, {key_of(n, prompts): v for n, v in columns.items()}
    )
    scores = {}
    for name in DISTANCES:
        value, half = 50 * (1.2 - skill) + rng.normal(0, 1), 1.5
        key = key_of(name, prompts)
        scores[key] = Score(value, prompts, value - half, value + half, key)
    for name, values in columns.items():
        key, found = key_of(name, prompts), bootstrap_mean(values, replicates=100)
        scores[key] = Score(found.value, prompts, found.ci_low, found.ci_high, key)
    RunScores(
        model={"name": f"diffusion/model{model:02d}", "family": "diffusion", "size": "xs",
               "data": "shapes", "text": "words", "conditioning": "concat", "seed": seed,
               "run": run.name},
        protocol={"name": "speed", "split": "test", "num_images": prompts, "sampling_seed": 0},
        budget={"unit": "flops", "amount": 1e15},
        chosen=OperatingPoint({"guidance_scale": 2.0}, scores, 2.0, "samples/chosen"),
        cost={"train_images": 1e6, "train_flops": 1e15, "train_seconds": 1e3,
              "parameters": {"network": 10_000_000}, "sample_flops_per_image": 1e11,
              "seconds_per_image_batch_1": 0.1, "seconds_per_image_best": 0.01 * (1 + model)},
        knob={"name": "guidance_scale", "default": 2.0, "chosen_by": "kid"},
        front=tuple(
            OperatingPoint({"guidance_scale": float(v)}, scores, float(v)) for v in (1, 2, 4)
        ),
    ).write(run / "scores.json")  # fmt: skip
    config = {"seed": seed, "model": {"name": f"model{model}", "width": 64 + model}}
    (run / "config.yaml").write_text(yaml.safe_dump(config, explicit_end=True))


def check_equal(root: Path) -> None:
    """One pair among all must have the numbers of the pair alone, Holm's correction apart."""
    from t2ibench.reporting.read.gather import gather
    from t2ibench.reporting.statistics.comparisons import compare_groups
    from t2ibench.reporting.statistics.groups import group_runs

    groups = group_runs(gather([root])[0])[:6]
    keys = list(groups[0].scores)
    among = {(p.first, p.second): p for p in compare_groups(groups, keys)}
    alone = compare_groups(groups[:2], keys)[0]
    for one, other in zip(
        alone.differences, among[alone.first, alone.second].differences, strict=True
    ):
        assert abs(one.p_value - other.p_value) < 1e-3, (one, other)
        assert np.allclose((one.low, one.high), (other.low, other.high)), (one, other)


def measure(root: Path) -> None:
    """Times one size in this process and prints its row."""
    from t2ibench.reporting import (
        analyse,
        gather,
        terminal_text,
        verdict_text,
        write_page,
        write_tables,
    )

    began = time.perf_counter()
    marks = [time.process_time()]
    runs, missing = gather([root])
    marks.append(time.process_time())
    found = analyse(runs, missing)
    marks.append(time.process_time())
    terminal_text(found, 140)
    verdict_text(found, 140)
    marks.append(time.process_time())
    write_tables(found, root / "tables")
    marks.append(time.process_time())
    write_page(found, root / "report.html")
    marks.append(time.process_time())
    steps = [f"{end - start:8.1f}" for start, end in zip(marks, marks[1:], strict=False)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    elapsed = time.perf_counter() - began
    page = (root / "report.html").stat().st_size / 2**20
    sys.stdout.write(
        f"{len(runs):5d} {sum(len(p.differences) for p in found.pairs):6d} {''.join(steps)}"
        f"{marks[-1] - marks[0]:8.1f} {elapsed:7.1f} {memory:6.2f} {page:8.1f}\n"
    )


def main() -> None:
    """Prints seconds against runs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="measure this folder of runs in this process")
    given = parser.parse_args()
    if given.folder is not None:
        measure(given.folder)
        return
    sys.stdout.write(
        " runs  tests    read analyse terminal tables    page   total elapsed    GiB page MiB\n"
    )
    for count in given.runs:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(count):
                write_run(Path(folder), number // given.seeds, number % given.seeds, given.prompts)
            if count == given.runs[0]:
                check_equal(Path(folder))
            sys.stdout.flush()
            subprocess.run([sys.executable, __file__, "--folder", folder], check=True)


if __name__ == "__main__":
    main()
