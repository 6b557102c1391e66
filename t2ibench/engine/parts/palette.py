"""A palette as a part: measured once on the training images, kept with the run and in its model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from torch import nn

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.autoencoders.palette import (
    PaletteAutoencoder,
    distinct_colours,
    k_means,
    nearest_centre,
)
from t2ibench.core.files import read_json_object, write_json
from t2ibench.core.hashing import derive_seed
from t2ibench.core.ranks import from_first
from t2ibench.engine.assemble import folder_of_part
from t2ibench.engine.context import Context
from t2ibench.engine.parts.first_stage import is_whole
from t2ibench.engine.parts.part import Part, Prepared
from t2ibench.engine.spec import Trained
from t2ibench.evaluation.flops import count_flops
from t2ibench.runs.folder import Run

READ_AT_ONCE = 1024
"""Images whose colours are counted in one go."""


class MeasuredPalette(Part):
    """A palette of the training split's colours by k-means (``autoencoder=palette_512``).

    Attributes:
        colours: V.
        images: number of training images, evenly over the split, whose pixels are counted.
        iterations: of k-means, at most.
        seed: of its first centres; generators of all seeds share one palette.
    """

    weights_in_model: ClassVar[bool] = True

    colours: Annotated[int, Field(ge=2), Trained]
    images: Annotated[int, Field(ge=1), Trained]
    iterations: Annotated[int, Field(ge=1), Trained]
    seed: Annotated[int, Field(ge=0), Trained]

    def identity(self, context: Context) -> dict[str, Any]:
        """Settings of the measurement, and the images by their content."""
        return self.values(Trained) | {
            "data": context.source.split_fingerprint("train"),
            "resolution": context.spec.data.resolution,
        }

    def prepare(self, context: Context, run: Run) -> Prepared:
        """Measures the palette, or reads the one that the run was begun with."""
        folder = folder_of_part(run, "first_stage")
        cost = from_first(self._measured, context, folder)
        stage = FrozenFirstStage.load(weights_in(folder), self._empty().autoencoder)
        facts = {"fingerprint": stage.fingerprint} | cost
        return Prepared(stage.to(context.device), cost["flops"], cost["seconds"], facts)

    def restore(self, context: Context, run: Run | None) -> nn.Module:
        """Builds its layout; the colours are in the model's own weights."""
        return self._empty()

    def _empty(self) -> FrozenFirstStage:
        return FrozenFirstStage(PaletteAutoencoder(colours=self.colours))

    def _measured(self, context: Context, folder: Path) -> dict[str, Any]:
        """Cost and error of the palette in a folder, which is measured unless it is there."""
        told, weights = folder / "palette.json", weights_in(folder)
        if weights.exists() and told.exists() and is_whole(weights):
            return read_json_object(told)
        began = time.perf_counter()
        split, found = context.source.split("train"), {}
        rows = np.unique(np.linspace(0, len(split) - 1, min(self.images, len(split))).astype(int))
        parts = np.array_split(rows, -(-len(rows) // READ_AT_ONCE))
        colours, weight = distinct_colours(split.pixels(part) for part in parts)

        def measure() -> None:
            found["palette"] = k_means(
                colours,
                weight,
                self.colours,
                iterations=self.iterations,
                seed=derive_seed("palette", self.seed),
            )

        flops = count_flops(measure)
        palette = found["palette"]
        error = (colours - palette[nearest_centre(colours, palette)]).square().mean(1)
        stage = self._empty()
        stage.autoencoder.fill(palette)  # type: ignore[attr-defined, operator]
        stage.save(weights)
        cost = {
            "flops": flops,
            "seconds": time.perf_counter() - began,
            "distinct_colours": len(colours),
            "mean_squared_error": float((error * weight).sum() / weight.sum()),
        }
        write_json(told, cost)
        return cost


def weights_in(folder: Path) -> Path:
    """File of the palette in a part's folder."""
    return folder / "palette.safetensors"
