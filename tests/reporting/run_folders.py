"""Writes run folders of the real schema with invented numbers."""

import colorsys
from itertools import product

import numpy as np
import torch
import yaml

from t2ibench.core.files import read_json, write_json
from t2ibench.core.types import Score
from t2ibench.evaluation.results import OperatingPoint, RunScores
from t2ibench.evaluation.samples import SampleSet, save_values
from t2ibench.runs.curves import MetricsFile

N = 96
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "cross")
LITE = "efficientnet-lite0-in1k@1280|bicubic-64|aa11bb22|shapes/test:9f8e7d6c|96"
CLIP = "shapes-clip-v1@128|area-32|cc33dd44|shapes/test:9f8e7d6c|96"
PROMPTS = "prompts:1a2b3c4d|96"
KEYS = {
    "fd": f"fd[{LITE}]",
    "fd2": f"fd[{CLIP}]",
    "kid": f"kid[{LITE}]",
    "precision": f"precision[{LITE}]",
    "recall": f"recall[{LITE}]",
    "density": f"density[{LITE}]",
    "cmmd": f"cmmd-style[{CLIP}]",
    "clip_score": f"clip_score[shapes-clip-v1@128|area-32|cc33dd44|{PROMPTS}]",
    "r_precision": f"r_precision[shapes-clip-v1@128|area-32|cc33dd44|{PROMPTS}|1-of-100]",
    "grader_colour": f"grader_colour[shapes-grader-v1@32|{PROMPTS}]",
    "grader_shape": f"grader_shape[shapes-grader-v1@32|{PROMPTS}]",
    "grader_exact": f"grader_exact[shapes-grader-v1@32|{PROMPTS}]",
}
FAMILIES = {
    "gan/gan_int_cls": ("gan", "truncation_psi", 0.75, (0.4, 0.6, 0.8, 1.0), 0.003),
    "autoregressive/vqgan_gpt": ("autoregressive", "guidance_scale", 0.9, (1, 2, 3, 5), 0.08),
    "diffusion/ldm": ("diffusion", "guidance_scale", 0.97, (1, 2, 3, 5), 0.05),
}


def picture(index, skill, seed):
    """A coloured disc or block on white, sometimes of the wrong colour."""
    rng = np.random.default_rng([index, seed])
    hue = COLOURS.index(COLOURS[index % 6]) / 6 + (0 if rng.random() < skill else 0.5)
    colour = np.array(colorsys.hsv_to_rgb(hue % 1, 0.8, 0.85)) * 255
    image = np.full((32, 32, 3), 250.0)
    y, x = np.mgrid[:32, :32]
    cx, cy = rng.uniform(11, 21, 2)
    inside = (
        (x - cx) ** 2 + (y - cy) ** 2 < 64
        if index % 2 == 0
        else (abs(x - cx) < 7) & (abs(y - cy) < 7)
    )
    image[inside] = colour
    image += rng.normal(0, 18 * (1 - skill), image.shape)
    return image.clip(0, 255).astype(np.uint8).transpose(2, 0, 1)


def score(name, value, half, n=N, note=""):
    return Score(value, n, value - half, value + half, KEYS[name], note)


def scores_at(skill, columns, shift=0.0):
    note = "underdetermined (N=96, reference 96, width 1280)"
    scores = [
        score("fd", 150 * (1.2 - skill) + 20 + shift, 3.0, note=note),
        score("fd2", 2 * (1.1 - skill) + shift / 50, 0.05),
        score("kid", 0.2 * (1.05 - skill), 0.004),
        score("precision", 0.5 + 0.4 * skill, 0.05),
        score("recall", 0.3 + 0.5 * skill, 0.05),
        score("density", 0.9 * skill, 0.05),
        score("cmmd", 9 * (1.1 - skill), 0.2),
    ]
    for name, values in columns.items():
        half = 1.96 * values.std() / len(values) ** 0.5
        scores.append(score(name, float(values.mean()), half))
    return {s.key: s for s in scores}


def write_run(root, model, seed, /, **changes):
    """One run folder; returns its path."""
    family, knob, skill, sweep, seconds = FAMILIES[model]
    run = root / f"{model.split('/')[-1]}-{family[:2]}{seed:06d}"
    rng = np.random.default_rng([seed, len(model)])
    captions = [f"a large {COLOURS[i % 6]} {SHAPES[i % 2]} on white, no. {i}" for i in range(N)]
    samples = SampleSet(
        torch.from_numpy(np.stack([picture(i, skill, 7) for i in range(N)])),
        tuple(captions),
        tuple(f"k{i}" for i in range(N)),
        tuple(1000 + i for i in range(N)),
        {"knobs": {knob: sweep[2]}},
    )
    samples.save(run / "samples" / "chosen")
    columns = {
        "clip_score": 30 * skill + rng.normal(0, 3, N),
        "r_precision": (rng.random(N) < skill).astype(float),
        "grader_colour": (rng.random(N) < skill).astype(float),
        "grader_shape": (rng.random(N) < skill - 0.1).astype(float),
        "grader_exact": (rng.random(N) < skill - 0.2).astype(float),
    }
    save_values(run / "samples" / "chosen", samples, {KEYS[n]: v for n, v in columns.items()})
    chosen = OperatingPoint(
        {knob: float(sweep[2])}, scores_at(skill, columns), float(sweep[2]), "samples/chosen"
    )
    front = tuple(
        OperatingPoint(
            {knob: float(v)},
            scores_at(skill, {n: c + 0.04 * i * c for n, c in columns.items()}, 6 * (i - 2) ** 2),
            float(v),
        )
        for i, v in enumerate(sweep)
    )
    latent = family != "gan"
    facts = {"name": model, "family": family, "size": "xs", "data": "shapes"}
    facts |= {"text": "word_transformer", "conditioning": "cross_attention"}
    reference = {"floor": {s.key: s for s in [score("fd", 21.0, 1.0), score("kid", 0.0003, 0.001)]}}
    reference["ground_truth"] = {
        s.key: s for s in [score("clip_score", 31.0, 0.2), score("grader_exact", 1.0, 0.0)]
    }
    if latent:
        ceiling = 30.0 if family == "diffusion" else 33.0
        reference["ceiling"] = {s.key: s for s in [score("fd", ceiling, 1.0)]}
    RunScores(
        model=facts | {"seed": seed, "run": run.name} | changes.get("model", {}),
        protocol={"name": "dev", "split": "test", "num_images": N, "sampling_seed": 0},
        budget={"unit": "flops", "amount": 8e12},
        chosen=chosen,
        cost={
            "train_images": 60000.0 if latent else 90000.0,
            "train_flops": 6e12,
            "train_flops_by_part": {"network": 5.7e12, "text_encoder": 0.27e12, "other": 0.03e12}
            if latent
            else {"discriminator": 3.6e12, "generator": 2.4e12},
            "train_seconds": 130.0,
            "parts_flops": 2e12 if latent else 0,
            "frozen_flops": {"latents": 1.5e11, "text_encoder": 2e10} if latent else {},
            "parts_seconds": 45.0 if latent else 0,
            "parameters": {"network": 2_400_000, "text_encoder": 210_000},
            "sample_flops_per_image": 8e10 * seconds,
            "seconds_per_image_batch_1": seconds * 2,
            "seconds_per_image_best": seconds,
            "peak_memory_gib": 0.2,
            "hardware": {"device": "Example CPU, 1 thread"},
        },
        knob={"name": knob, "default": float(sweep[2]), "chosen_by": "fd"},
        front=front,
        reference=reference,
        leakage=changes.get("leakage", ()),
    ).write(run / "scores.json")
    config = {"seed": seed, "model": {"name": model, "training": {"batch_size": 32 + latent}}}
    (run / "config.yaml").write_text(
        yaml.safe_dump(config | changes.get("config", {}), explicit_end=True)
    )
    write_json(run / "manifest.json", {"t2ibench": "0.1.0", "cpu": "Example CPU"})
    curve = MetricsFile(run / "metrics.csv")
    curve.rows = [
        {"images_seen": i * 512, "flops": i * 5e10, "seconds": i, "loss": 0.3 + 2 / (1 + i / 9)}
        for i in range(1, 120)
    ]
    curve.append({"images_seen": 120 * 512, "loss": 0.42, "late_column": 1})
    return run


def write_study(root):
    """The study's run folders: three diffusion seeds, one of each other family."""
    runs = [write_run(root, "diffusion/ldm", seed) for seed in (0, 1, 2)]
    return [
        *runs,
        write_run(root, "gan/gan_int_cls", 0),
        write_run(root, "autoregressive/vqgan_gpt", 0),
    ]


MODELS = ("diffusion/ldm", "gan/gan_int_cls")


def unscored(run, state, reason=""):
    """The run as it lies when it was never scored."""
    (run / "scores.json").unlink()
    extra = {"reason": reason} if reason else {}
    write_json(run / "status.json", {"state": state, "identity": "x"} | extra)
    return run


def write_incomplete(root):
    """Two models by three seeds: one seed of the GAN failed, a first stage beside them."""
    runs = {(m, s): write_run(root, m, s) for m in MODELS for s in range(3)}
    unscored(runs["gan/gan_int_cls", 2], "failed", "CUDA out of memory\nTraceback ...")
    stage = root / "first_stage-kl_f2-42810ee2"
    stage.mkdir()
    (stage / "config.yaml").write_text(
        yaml.safe_dump({"first_stage": {"name": "kl_f2"}}, explicit_end=True)
    )
    write_json(stage / "status.json", {"state": "finished", "identity": "y"})
    return root


def write_ledger(root, name="iso", typed=MODELS):
    """A study's ledger: one JSON file a run that it asks for, its model as it was ``typed``."""
    for (model, word), seed in product(zip(MODELS, typed, strict=True), range(4)):
        run = f"{model.split('/')[-1]}-{model[:2]}{seed:06d}"
        overrides = [f"model={word}", f"seed={seed}", "budget=demo"]
        facts = {"run": run, "identity": run, "overrides": overrides, "label": ""}
        write_json(root / "studies" / name / f"{run}.json", facts)


def changed_scores(run, **changes):
    """The run with other costs or distances (``fd=(value, half)``)."""
    scores = read_json(run / "scores.json")
    if "fd" in changes:
        value, half = changes.pop("fd")
        scores["chosen"]["scores"][KEYS["fd"]] |= {
            "value": value,
            "ci_low": value - half,
            "ci_high": value + half,
        }
    scores["cost"] |= changes
    write_json(run / "scores.json", scores)
    return run


def rewritten(run, change):
    """The run after ``change`` of the mapping in its scores.json."""
    scores = read_json(run / "scores.json")
    change(scores)
    write_json(run / "scores.json", scores)
    return run
