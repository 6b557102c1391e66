"""Image generation with a trained run from Python: images for prompts, and edits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from t2ibench.core.edits import ImageToImage, Inpainting
from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import Knob, resolve_knobs
from t2ibench.core.noise import sample_seeds
from t2ibench.core.types import PixelImages
from t2ibench.data.prompts import Prompt
from t2ibench.engine.describe import descent_flops
from t2ibench.engine.edits import WITHOUT_PROMPT, check_options, make_edit, pictures_of
from t2ibench.engine.load import LoadedRun
from t2ibench.evaluation.layouts import Layout, choose_layout, write_images
from t2ibench.evaluation.results import RunScores
from t2ibench.families.contract import generate_pixels
from t2ibench.text.contract import losses_of, warn_of_losses

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Pictures(Sequence[Image.Image]):
    """Generated images with their prompts and seeds; a sequence of PIL images.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        prompts: the prompts, each once.
        images_per_prompt: k images of each prompt, next to each other.
        seeds: seeds of the N images.
        edit_flops: counted FLOPs of one image of an edit by descent in latents; else None.
        given: (3, H, W) uint8 pictures that an edit was given, as it read them, by option.
    """

    pixels: PixelImages
    prompts: tuple[Prompt, ...]
    images_per_prompt: int
    seeds: tuple[int, ...]
    edit_flops: float | None = None
    given: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, index: Any) -> Any:
        """One image, or a list of those of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        array = self.pixels[index].permute(1, 2, 0).numpy()
        return Image.fromarray(np.ascontiguousarray(array))

    @property
    def captions(self) -> list[str]:
        """Prompts of the N images."""
        return [p.text for p in self.prompts for _ in range(self.images_per_prompt)]

    def save(self, folder: str | Path, layout: str = "auto") -> Layout:
        """Writes images and prompts in a layout of ``evaluation.layouts``; returns which.

        An earlier call's images in the folder are replaced.

        Raises:
            ConfigError: the folder holds files that no such call wrote.
        """
        chosen = choose_layout(layout, self.prompts, self.images_per_prompt)
        write_images(
            folder, chosen, self.prompts, self.images_per_prompt, self.pixels, list(self.seeds)
        )
        return chosen


class Generator:
    """A trained run that draws images.

    A knob that is not given has the value of the operating point that the run's scoring chose, or
    the model's default before it was scored.

    Args:
        loaded: the trained run.
    """

    def __init__(self, loaded: LoadedRun) -> None:
        self.loaded = loaded
        self._told: set[str] = set()

    def __repr__(self) -> str:
        spec = self.loaded.spec
        return f"Generator({spec.model.name}, {spec.data.resolution} px, {self.path})"

    @property
    def path(self) -> Path:
        """Folder of the run."""
        return self.loaded.run.path

    @property
    def knobs(self) -> dict[str, Knob]:
        """Sampling knobs by name."""
        return {knob.name: knob for knob in self.loaded.module.knobs}

    @property
    def edits(self) -> list[str]:
        """Names of the edits that the model offers."""
        return sorted(self.loaded.module.edits)

    @property
    def scores(self) -> RunScores | None:
        """Scores of the run; None before it was scored."""
        return RunScores.read(self.loaded.run.scores) if self.loaded.run.scores.exists() else None

    def generate(
        self,
        prompts: str | Sequence[str | Prompt],
        *,
        seed: int = 0,
        images_per_prompt: int = 1,
        batch_size: int = 64,
        size: tuple[int, int] | None = None,
        on_progress: Progress | None = None,
        **knobs: float,
    ) -> Pictures:
        """Generates images for prompts.

        The same run, prompt, seed and knobs give the same image in any batch.

        Args:
            prompts: one or several prompts.
            seed: base of the images' seeds; a prompt's second image gets another one.
            images_per_prompt: k images of each prompt.
            batch_size: number of images at a time; does not change the images.
            size: height and width in pixels, for models that offer other sizes.
            on_progress: called with the number of images done.
            **knobs: ``guidance_scale=2`` and others of ``knobs``.

        Raises:
            ConfigError: no prompt, or a knob or size that the model does not have.
        """
        return self._generate(
            prompts, "", {}, seed, images_per_prompt, batch_size, size, on_progress, knobs
        )

    def edit(
        self,
        edit: str,
        prompts: str | Sequence[str | Prompt] = (),
        *,
        seed: int = 0,
        images_per_prompt: int = 1,
        batch_size: int = 64,
        size: tuple[int, int] | None = None,
        on_progress: Progress | None = None,
        **options: Any,
    ) -> Pictures:
        """Generates images by an edit: img2img, inpainting, … (``edits``).

        Args:
            edit: name of the edit.
            prompts: one or several prompts; some edits need none.
            seed: as for ``generate``.
            images_per_prompt: as for ``generate``.
            batch_size: as for ``generate``.
            size: height and width to which given images are cropped.
            on_progress: as for ``generate``.
            **options: those of the edit (``image=``, ``mask=``, ``strength=``, ``with_=`` for the
                second prompt), files or pictures in memory, and knobs.

        Raises:
            ConfigError: an edit that the model does not offer, or an option missing or too many.
        """
        given = {("with" if name == "with_" else name): v for name, v in options.items()}
        knobs = {name: given.pop(name) for name in list(given) if name in self.knobs}
        if not edit:
            raise ConfigError(f"edit needs a name; this model offers {', '.join(self.edits)}.")
        return self._generate(
            prompts, edit, given, seed, images_per_prompt, batch_size, size, on_progress, knobs
        )

    def _generate(
        self,
        prompts: str | Sequence[str | Prompt],
        edit: str,
        options: Mapping[str, Any],
        seed: int,
        images_per_prompt: int,
        batch_size: int,
        size: tuple[int, int] | None,
        on_progress: Progress | None,
        knobs: Mapping[str, float],
    ) -> Pictures:
        check_options(edit, options)
        prompt_list = as_prompts(prompts, edit)
        check_whole(seed=seed, batch_size=batch_size, images_per_prompt=images_per_prompt)
        if min(batch_size, images_per_prompt) < 1:
            raise ConfigError(
                f"batch_size={batch_size} and images_per_prompt={images_per_prompt} must be at "
                "least 1."
            )
        module = self.loaded.module
        texts = [prompt.text for prompt in prompt_list for _ in range(images_per_prompt)]
        losses = losses_of(module.text_encoder, [prompt.text for prompt in prompt_list])
        if losses not in self._told:  # columns of a sheet share their prompts
            warn_of_losses(module.text_encoder, losses, "prompts")
            self._told.add(losses)
        seeds = sample_seeds(seed_names(texts), seed)
        changed = make_edit(edit, options, module, len(texts), size, seed)
        values = self.loaded.operating_point() | dict(knobs)
        pixels = generate_pixels(
            module,
            texts,
            seeds,
            values,
            batch_size,
            on_progress,
            size=None if changed is not None else size,
            edit=changed,
        )
        spent = None
        if isinstance(changed, ImageToImage | Inpainting):
            left = 1 - getattr(changed, "strength", 0.0)
            spent = descent_flops(module, resolve_knobs(module.knobs, values), module.device, left)
        return Pictures(
            pixels,
            tuple(prompt_list),
            images_per_prompt,
            tuple(seeds),
            spent,
            {} if changed is None else pictures_of(changed),
        )


def check_whole(**given: Any) -> None:
    """Checks that arguments are whole numbers.

    Raises:
        ConfigError: one is not.
    """
    for name, value in given.items():
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise ConfigError(f"{name}={value!r} must be a whole number.")


def as_prompts(prompts: Any, edit: str = "") -> list[Prompt]:
    """Prompts from one text or several, or from prompts.

    Raises:
        ConfigError: there are none, and the edit needs some; or one is no text.
    """
    if isinstance(prompts, (str, Prompt)):
        given: list[str | Prompt] = [prompts]
    elif isinstance(prompts, Iterable):
        given = list(prompts)
    else:
        raise ConfigError(f"prompts={prompts!r} must be a text, or several of them.")
    if not given and edit in WITHOUT_PROMPT:
        given = [""]
    if not given:
        raise ConfigError("images need prompts: give at least one.")
    if odd := [p for p in given if not isinstance(p, (str, Prompt))]:
        raise ConfigError(f"prompts hold {odd[0]!r}; each must be a text.")
    return [p if isinstance(p, Prompt) else Prompt(p) for p in given]


def seed_names(prompts: Sequence[str]) -> list[str]:
    """Names of seeds: a prompt's first image has the prompt as its name, each repeat another."""
    seen: Counter[str] = Counter()
    names = []
    for prompt in prompts:
        names.append(prompt if not seen[prompt] else f"{prompt}#{seen[prompt]}")
        seen[prompt] += 1
    return names
