"""Generated images on disk, in the layouts that other people's evaluators read.

* ``plain``: ``00000-a-red-ring.png`` and ``metadata.jsonl`` (file_name, text, seed, and the
  row of the prompt's file), which ``t2ibench score`` and the Hugging Face image folder read.
* ``geneval``: ``00000/metadata.jsonl`` (the prompt's own line) and ``00000/samples/00000.png``.
* ``t2i_compbench``: ``samples/PROMPT_000000.png``, numbered through.
* ``adm``: ``samples_NxHxWx3.npz`` with ``arr_0``, (N, H, W, 3) uint8, which the evaluator of ADM
  (guided-diffusion) and ``t2ibench score`` read, and beside it ``captions`` and ``seeds``.

Source: the READMEs of GenEval and T2I-CompBench; Dhariwal and Nichol 2021 (ADM), released code.
Differs: GenEval's optional ``grid.png`` and ADM's class labels (``arr_1``) are not written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from t2ibench.core.errors import ConfigError
from t2ibench.core.files import atomic_path
from t2ibench.core.types import PixelImages
from t2ibench.data.prompts import Prompt, is_geneval

Layout = Literal["plain", "geneval", "t2i_compbench", "adm"]

LONGEST_NAME = 240
"""Bytes of a file name before its number; file systems end at 255."""


def choose_layout(requested: str, prompts: Sequence[Prompt]) -> Layout:
    """Checks a layout's name; ``auto`` is GenEval's for GenEval's prompts, else plain.

    Raises:
        ConfigError: an unknown layout, or GenEval's without GenEval's metadata.

    Example:
        >>> choose_layout("auto", [Prompt("a red ring")])
        'plain'
    """
    if requested == "auto":
        return "geneval" if is_geneval(prompts) else "plain"
    if requested not in get_args(Layout):
        raise ConfigError(
            f"layout={requested} is unknown; choose auto, {', '.join(get_args(Layout))}."
        )
    if requested == "geneval" and not is_geneval(prompts):
        raise ConfigError(
            "layout=geneval needs GenEval's evaluation_metadata.jsonl as prompts=FILE: its "
            "detector reads each prompt's tag and objects."
        )
    return requested  # type: ignore[return-value]


def write_images(
    folder: str | Path,
    layout: Layout,
    prompts: Sequence[Prompt],
    per_prompt: int,
    pixels: PixelImages,
    seeds: Sequence[int],
) -> None:
    """Writes images in one layout.

    Args:
        folder: made where it is absent.
        layout: see the module.
        prompts: P of them.
        per_prompt: k images each.
        pixels: (P k, 3, H, W), a prompt's images next to each other.
        seeds: P k per-sample seeds.
    """
    from PIL import Image

    folder = Path(folder)
    if layout == "adm":
        captions = [prompt.text for prompt in prompts for _ in range(per_prompt)]
        _write_adm(folder, captions, pixels, seeds)
        return
    writers: dict[Layout, Callable[..., Path]] = {
        "plain": _plain,
        "geneval": _geneval,
        "t2i_compbench": _compbench,
    }
    rows = []
    for number, image in enumerate(pixels):
        prompt = prompts[number // per_prompt]
        path = folder / writers[layout](number, per_prompt, prompt)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(path)
        if layout == "geneval" and number % per_prompt == 0:
            _write_text(path.parents[1] / "metadata.jsonl", [prompt.meta])
        row: dict[str, object] = {"file_name": str(path.relative_to(folder)), "text": prompt.text}
        row |= {"seed": seeds[number]} | ({"category": prompt.category} if prompt.category else {})
        rows.append(row | ({"benchmark": prompt.meta} if prompt.meta else {}))
    # GenEval's evaluator takes every entry of the folder for a prompt's folder.
    if layout != "geneval":
        _write_text(folder / "metadata.jsonl", rows)


def slug(prompt: str) -> str:
    """A prompt as part of a file name.

    Example:
        >>> slug("A red/blue ring!")
        'a-red-blue-ring'
    """
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "empty"


def _plain(number: int, per_prompt: int, prompt: Prompt) -> Path:
    return Path(f"{number:05d}-{slug(prompt.text)}.png")


def _geneval(number: int, per_prompt: int, prompt: Prompt) -> Path:
    return Path(f"{number // per_prompt:05d}", "samples", f"{number % per_prompt:05d}.png")


def _compbench(number: int, per_prompt: int, prompt: Prompt) -> Path:
    # Its evaluator reads the prompt from the name; a slash cannot stand in one.
    name = prompt.text.replace("/", " ").encode()[:LONGEST_NAME].decode(errors="ignore")
    return Path("samples", f"{name}_{number:06d}.png")


def _write_adm(
    folder: Path, captions: Sequence[str], pixels: PixelImages, seeds: Sequence[int]
) -> None:
    images = pixels.permute(0, 2, 3, 1).cpu().numpy()
    path = folder / f"samples_{'x'.join(map(str, images.shape))}.npz"
    with atomic_path(path) as aside, open(aside, "wb") as file:
        np.savez(file, arr_0=images, captions=np.array(captions), seeds=np.array(seeds))


def _write_text(path: Path, rows: Sequence[object]) -> None:
    with atomic_path(path) as aside:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
