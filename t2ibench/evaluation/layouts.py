"""Generated images on disk, in the layouts that other people's evaluators read.

* ``plain``: ``00000-a-red-ring.png`` and ``metadata.jsonl`` (file_name, text, seed, and the
  row of the prompt's file), which ``t2ibench score`` and the Hugging Face image folder read.
* ``geneval``: ``00000/metadata.jsonl`` (the prompt's own line) and ``00000/samples/00000.png``.
* ``geneval2``: ``samples/00000_0.png`` and ``image_paths_0.json``, from prompt to image, as
  GenEval 2's ``--image_filepath_data``; one such file for each of a prompt's images.
* ``t2i_compbench``: ``samples/PROMPT_000000.png``, numbered through.
* ``dpg_bench``: ``ITEM_ID.png``, up to four images of a prompt as the quarters of one (its
  ``--pic-num``; ``--resolution`` is the side of one).
* ``oneig``: ``CLASS/NAME/ID.webp``, a prompt's images as a square grid; CLASS is ``anime``,
  ``human``, ``object``, ``text``, ``reasoning`` or ``multilingualism``, NAME (the evaluator's
  ``model_names``) the folder's.
* ``adm``: ``samples_NxHxWx3.npz`` with ``arr_0``, (N, H, W, 3) uint8, which the evaluator of ADM
  (guided-diffusion) and ``t2ibench score`` read, and beside it ``captions`` and ``seeds``.

Source: the READMEs and evaluators of GenEval, GenEval 2 (Kamath et al. 2025), T2I-CompBench,
DPG-Bench (Hu et al. 2024, ELLA) and OneIG-Bench (Chang et al. 2025); Dhariwal and Nichol 2021
(ADM), released code.
Differs: GenEval's optional ``grid.png`` and ADM's class labels (``arr_1``) are not written; OneIG's
WebP is lossless.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from t2ibench.core.errors import ConfigError
from t2ibench.core.files import atomic_path
from t2ibench.core.types import PixelImages
from t2ibench.data.prompts import BENCHMARKS, ONEIG_CLASSES, Prompt, benchmark_of
from t2ibench.evaluation.sample_folder import written_samples

Layout = Literal["plain", "geneval", "geneval2", "t2i_compbench", "dpg_bench", "oneig", "adm"]

LONGEST_NAME = 240
"""Bytes of a file name before its number; file systems end at 255."""

MOST_OF_DPG = 4
"""Images of a prompt that DPG-Bench's evaluator cuts out of one file."""


def choose_layout(requested: str, prompts: Sequence[Prompt], per_prompt: int = 1) -> Layout:
    """Checks a layout's name; ``auto`` is that of the prompts' benchmark, else plain.

    Raises:
        ConfigError: an unknown layout, a benchmark's without its prompts, or a number of images a
            prompt that it cannot hold.

    Example:
        >>> choose_layout("auto", [Prompt("a red ring")])
        'plain'
    """
    benchmark = benchmark_of(prompts)
    chosen = (benchmark or "plain") if requested == "auto" else requested
    if chosen not in get_args(Layout):
        raise ConfigError(
            f"layout={requested} is unknown; choose auto, {', '.join(get_args(Layout))}."
        )
    if chosen in BENCHMARKS and chosen != benchmark:
        raise ConfigError(
            f"layout={chosen} needs {BENCHMARKS[chosen].file} as prompts=FILE: its evaluator reads "
            f"each prompt's {' and '.join(sorted(BENCHMARKS[chosen].columns))}."
        )
    if chosen == "dpg_bench" and per_prompt > MOST_OF_DPG:
        raise ConfigError(
            f"images_per_prompt={per_prompt} is more than the {MOST_OF_DPG} that DPG-Bench's "
            "evaluator reads; choose 1 to 4, or layout=plain."
        )
    if chosen == "oneig" and round(per_prompt**0.5) ** 2 != per_prompt:
        raise ConfigError(
            f"images_per_prompt={per_prompt} fills no square grid, as OneIG-Bench's evaluator cuts "
            "it; choose 1, 4 or 9, or layout=plain."
        )
    if chosen in NAMED_BY:
        names = Counter(NAMED_BY[chosen](prompt) for prompt in prompts)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            more = f", as others do {len(twice) - 1} more names" if len(twice) > 1 else ""
            raise ConfigError(
                f"layout={chosen} names its images by {twice[0]}, which {names[twice[0]]} prompts "
                f"share{more}; remove the repeats, or choose layout=plain."
            )
    return chosen  # type: ignore[return-value]


def write_images(
    folder: str | Path,
    layout: Layout,
    prompts: Sequence[Prompt],
    per_prompt: int,
    pixels: PixelImages,
    seeds: Sequence[int],
) -> None:
    """Writes images in one layout, in place of what an earlier call wrote into the folder.

    Args:
        folder: made where it is absent.
        layout: see the module.
        prompts: P of them.
        per_prompt: k images each.
        pixels: (P k, 3, H, W), a prompt's images next to each other.
        seeds: P k per-sample seeds.

    Raises:
        ConfigError: the folder holds files that sampling did not write.
    """
    folder = Path(folder).expanduser().absolute()
    images = pixels.permute(0, 2, 3, 1).cpu().numpy()
    with written_samples(folder) as aside:
        if layout == "adm":
            captions = [prompt.text for prompt in prompts for _ in range(per_prompt)]
            _write_adm(aside, captions, images, seeds)
        elif layout == "geneval2":
            _write_geneval2(aside, folder, prompts, per_prompt, images)
        elif layout == "dpg_bench":
            _write_grids(aside, prompts, images, 2 if per_prompt > 1 else 1, _dpg)
        elif layout == "oneig":
            side = round(per_prompt**0.5)
            _write_grids(aside, prompts, images, side, lambda prompt: _oneig(prompt, folder.name))
        else:
            _write_singly(aside, layout, prompts, per_prompt, images, seeds)


def slug(prompt: str) -> str:
    """A prompt as part of a file name.

    Example:
        >>> slug("A red/blue ring!")
        'a-red-blue-ring'
    """
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "empty"


# ---- an image a file ----


def _write_singly(
    folder: Path,
    layout: Layout,
    prompts: Sequence[Prompt],
    per_prompt: int,
    images: np.ndarray,
    seeds: Sequence[int],
) -> None:
    """Writes each image as a file of its own."""
    writers: dict[str, Callable[..., Path]] = {
        "plain": _plain,
        "geneval": _geneval,
        "t2i_compbench": _compbench,
    }
    rows = []
    for number, image in enumerate(images):
        prompt = prompts[number // per_prompt]
        path = folder / writers[layout](number, per_prompt, prompt)
        _save(image, path)
        if layout == "geneval" and number % per_prompt == 0:
            _write_text(path.parents[1] / "metadata.jsonl", [prompt.meta])
        row: dict[str, object] = {"file_name": str(path.relative_to(folder)), "text": prompt.text}
        row |= {"seed": seeds[number]} | ({"category": prompt.category} if prompt.category else {})
        rows.append(row | ({"benchmark": prompt.meta} if prompt.meta else {}))
    # GenEval's folders hold the prompts themselves.
    if layout != "geneval":
        _write_text(folder / "metadata.jsonl", rows)


def _plain(number: int, per_prompt: int, prompt: Prompt) -> Path:
    return Path(f"{number:05d}-{slug(prompt.text)}.png")


def _geneval(number: int, per_prompt: int, prompt: Prompt) -> Path:
    return Path(f"{number // per_prompt:05d}", "samples", f"{number % per_prompt:05d}.png")


def _compbench(number: int, per_prompt: int, prompt: Prompt) -> Path:
    # Its evaluator reads the prompt from the name; a slash cannot stand in one.
    name = prompt.text.replace("/", " ").encode()[:LONGEST_NAME].decode(errors="ignore")
    return Path("samples", f"{name}_{number:06d}.png")


def _write_geneval2(
    folder: Path, final: Path, prompts: Sequence[Prompt], per_prompt: int, images: np.ndarray
) -> None:
    """Writes images and, for each of a prompt's k, a file from prompt to path.

    Its evaluator opens the paths from wherever it is run, hence they are absolute; its keys are the
    prompts as its file has them.
    """
    for sample in range(per_prompt):
        paths = {}
        for number, prompt in enumerate(prompts):
            path = Path("samples", f"{number:05d}_{sample}.png")
            _save(images[number * per_prompt + sample], folder / path)
            paths[str(prompt.meta["prompt"])] = str(final / path)
        text = json.dumps(paths, indent=2, ensure_ascii=False)
        (folder / f"image_paths_{sample}.json").write_text(text + "\n", encoding="utf-8")


# ---- the images of a prompt as a grid ----


def _write_grids(
    folder: Path,
    prompts: Sequence[Prompt],
    images: np.ndarray,
    side: int,
    place: Callable[[Prompt], Path],
) -> None:
    """Writes a prompt's images, row by row, as one picture of ``side`` x ``side`` of them.

    Places without an image are black.
    """
    per_prompt = len(images) // len(prompts)
    _, height, width, _ = images.shape
    for number, prompt in enumerate(prompts):
        grid = np.zeros((side * height, side * width, 3), np.uint8)
        for sample, image in enumerate(images[number * per_prompt : (number + 1) * per_prompt]):
            top, left = sample // side * height, sample % side * width
            grid[top : top + height, left : left + width] = image
        _save(grid, folder / place(prompt))


def _dpg(prompt: Prompt) -> Path:
    return Path(f"{prompt.meta['item_id']}.png")


def _oneig(prompt: Prompt, model: str) -> Path:
    return Path(ONEIG_CLASSES[prompt.meta["category"]], model, f"{prompt.meta['id']}.webp")


NAMED_BY: dict[str, Callable[[Prompt], str]] = {
    "geneval2": lambda prompt: str(prompt.meta["prompt"]),
    "dpg_bench": lambda prompt: str(prompt.meta["item_id"]),
    "oneig": lambda prompt: f"{prompt.meta['category']} {prompt.meta['id']}",
}
"""Name by which an evaluator finds a prompt's image, in layouts where no two can share it."""


# ---- files ----


def _save(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lossless: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(np.ascontiguousarray(image)).save(path, **lossless)


def _write_adm(
    folder: Path, captions: Sequence[str], images: np.ndarray, seeds: Sequence[int]
) -> None:
    path = folder / f"samples_{'x'.join(map(str, images.shape))}.npz"
    with open(path, "wb") as file:
        np.savez(file, arr_0=images, captions=np.array(captions), seeds=np.array(seeds))


def _write_text(path: Path, rows: Sequence[object]) -> None:
    with atomic_path(path) as aside:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
