"""Export of a run's weights: diffusers' folder, or the run without its history, with a card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from t2ibench.core.types import Score
from t2ibench.engine.assemble import folder_of_part
from t2ibench.engine.load import LoadedRun, open_run
from t2ibench.evaluation.cost import count_parameters
from t2ibench.evaluation.results import RunScores
from t2ibench.interop.card import CardFacts, card
from t2ibench.runs.folder import Run

KEPT = (
    "config.yaml",
    "vocabulary.json",
    "manifest.json",
    "status.json",
    "scores.json",
    "checkpoints/model.safetensors",
    "parts",
    "index",
)
"""Files and folders of a run that sampling needs, or that record its origin."""


def export_safetensors(loaded: LoadedRun, folder: Path) -> None:
    """Writes the run without its training checkpoints and samples; the result is still a run.

    Runs that it depends on are copied as well, so that it samples anywhere.
    """
    copy_run(loaded.run, folder)
    spec = loaded.spec
    for part in (*spec.parts.values(), spec.text):
        for name, below in part.runs_below(loaded.context, loaded.run).items():
            target = folder_of_part(Run(folder, loaded.run.identity), name)
            if not target.exists():
                export_safetensors(open_run(below), target)


def copy_run(run: Run, folder: Path) -> None:
    """Copies the files of a run that sampling needs."""
    for name in KEPT:
        source = run.path / name
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, folder / name)
        elif source.exists():
            shutil.copyfile(source, folder / name)


def model_card(loaded: LoadedRun, kind: str) -> str:
    """Text of an exported folder's README.md.

    Args:
        loaded: the exported run.
        kind: format, ``diffusers`` or ``safetensors``.
    """
    module, spec = loaded.module, loaded.spec
    stage = spec.parts.get("first_stage")
    defaults = {knob.name: knob.default for knob in module.knobs}
    parts = module.parts()
    backbone = getattr(module.text_encoder, "backbone", None)
    if backbone is not None:
        # Frozen, so not among the module's own weights.
        parts |= {"text_encoder": backbone}
    counts = {name: count for name, count in count_parameters(parts).items() if count}
    model = {
        "model": f"`{spec.model.name}` ({module.family})",
        "text encoder": f"`{spec.text.name}`, conditioning by {spec.conditioning}",
        "first stage": "none" if stage is None else f"`{stage.name}`",
        "resolution": f"{module.resolution} px",
        "sampling": ", ".join(f"`{name}` {value:g}" for name, value in defaults.items()),
    }
    return card(
        CardFacts(
            name=loaded.run.path.name,
            files=DIFFUSERS_FILES if kind == "diffusers" else RUN_FILES,
            use=(DIFFUSERS_USE if kind == "diffusers" else RUN_USE).format(**defaults),
            model=model,
            parameters=counts,
            training=training_facts(loaded),
            scores=scores_of(loaded),
        )
    )


def training_facts(loaded: LoadedRun) -> dict[str, Any]:
    """Origin of the weights and their training cost."""
    imported = loaded.run.manifest().get("imported")
    if imported is not None:
        hashes = imported["sha256"]
        files = hashes if isinstance(hashes, dict) else {imported["file"]: hashes}
        source = f"`{imported['file']}` ({imported['format']}), whose licence holds"
        return {"imported from": source} | {f"sha256 of `{n}`": f"`{h}`" for n, h in files.items()}
    clock = loaded.clock
    return {
        "data": f"`{loaded.spec.data.name}`",
        "images seen": f"{clock.images_seen:,}",
        "counted FLOPs": f"{clock.flops + clock.parts_flops:.3g}, the first stage's included",
        "seed": loaded.spec.seed,
    }


def scores_of(loaded: LoadedRun) -> list[Score]:
    """Scores at the run's operating point; none where it was not scored."""
    if not loaded.run.scores.exists():
        return []
    return list(RunScores.read(loaded.run.scores).chosen.scores.values())


DIFFUSERS_FILES = {
    "model_index.json": "the pipeline's parts",
    "unet/": "the denoiser",
    "vae/": "the first stage, with the latent scale",
    "text_encoder/, tokenizer/": "CLIP text",
    "scheduler/": "noise schedule and solver",
}

DIFFUSERS_USE = """
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("FOLDER")
pipe("a prompt", guidance_scale={guidance_scale:g}, num_inference_steps={num_steps:g})
"""

RUN_FILES = {
    "checkpoints/model.safetensors": "the weights that sample (averaged where training averaged)",
    "config.yaml": "the whole configuration",
    "parts/": "what the run stands on and carries: text encoder, CLIP, the run below",
    "vocabulary.json": "words of a word-level text encoder, or null",
    "manifest.json, status.json": "code, packages, data; what training spent",
}

RUN_USE = """
t2ibench sample FOLDER "a prompt" out=pictures
"""
