"""The exact grader of the procedural world as the evaluator uses it: captions in, skills out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from numpy import ndarray

from t2ibench.core.types import PixelImages
from t2ibench.data.shapes.captions import parse
from t2ibench.data.shapes.world import WORLD_VERSION, ShapesWorld
from t2ibench.metrics.grader import Grader

GRADER_VERSION = 1
"""Version of the grades, part of their score keys; raised when a grade changes."""


class ShapesGrader:
    """Grades images of a procedural world against their captions.

    Args:
        world: the world whose vocabulary the captions use; its resolution is the images'.
    """

    def __init__(self, world: ShapesWorld) -> None:
        self.grader = Grader(world, world.resolution)
        self.key = (
            f"shapes-grader-v{GRADER_VERSION}@{world.resolution}"
            f"|fit-{self.grader.accept_fit:g}|world-{WORLD_VERSION}"
        )

    def grade(
        self, pixels: PixelImages, captions: Sequence[str]
    ) -> Mapping[str, Float[ndarray, " B"]]:
        """Grades of each skill, one an image; NaN where the caption does not ask for it.

        Raises:
            DataError: a caption outside the world's vocabulary.
            ScoreError: images of another resolution.
        """
        return self.grader.grade(pixels, [parse(caption) for caption in captions]).columns

    def objects(self, captions: Sequence[str]) -> list[int]:
        """Number of objects that each caption asks for.

        Raises:
            DataError: a caption outside the world's vocabulary.
        """
        return [sum(kind.count for kind in parse(caption).objects) for caption in captions]

    @staticmethod
    def meaning(caption: str) -> str:
        """Meaning of a caption, the same for all its paraphrases.

        Raises:
            DataError: a caption outside the world's vocabulary.
        """
        return repr(parse(caption))
