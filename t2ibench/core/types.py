"""The types that cross room borders.

Shape legend of the whole project: B batch, C channels, H W height and width, L caption
tokens, N image tokens, D width, A heads, E head width, V codebook, Z noise, S steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

Images = Float[Tensor, "B 3 H W"]
"""Images in [-1, 1]."""

PixelImages = UInt8[Tensor, "B 3 H W"]
"""Images as stored and scored: 0 to 255."""


@dataclass(frozen=True)
class TextFeatures:
    """Features of a batch of captions from a text encoder.

    Attributes:
        tokens: (B, L, D) one vector a token.
        mask: (B, L) True where a token is real, False where it is padding; every row has
            at least one True.
        pooled: (B, D) one vector a caption.
        embedding: (B, E) each caption in the space that a CLIP shares with images, for the
            families that need it; else None.
    """

    tokens: Float[Tensor, "B L D"]
    mask: Bool[Tensor, "B L"]
    pooled: Float[Tensor, "B D"]
    embedding: Float[Tensor, "B E"] | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def width(self) -> int:
        """D, the width of tokens and pooled."""
        return self.tokens.shape[-1]

    def to(self, *args: Any, **kwargs: Any) -> TextFeatures:
        """Moves and casts the floats as ``Tensor.to``; the mask follows to the device only."""
        tokens = self.tokens.to(*args, **kwargs)
        mask, pooled = self.mask.to(tokens.device), self.pooled.to(*args, **kwargs)
        embedding = None if self.embedding is None else self.embedding.to(*args, **kwargs)
        return TextFeatures(tokens, mask, pooled, embedding)

    def detach(self) -> TextFeatures:
        """The same features outside the autograd graph."""
        embedding = None if self.embedding is None else self.embedding.detach()
        return TextFeatures(self.tokens.detach(), self.mask, self.pooled.detach(), embedding)

    def __getitem__(self, index: Any) -> TextFeatures:
        """Selects captions: ``index`` is a slice, a bool mask or an index tensor over B."""
        embedding = None if self.embedding is None else self.embedding[index]
        return TextFeatures(self.tokens[index], self.mask[index], self.pooled[index], embedding)

    def where(self, keep: Bool[Tensor, " B"], other: TextFeatures) -> TextFeatures:
        """Takes row i from self where ``keep[i]`` and from ``other`` elsewhere.

        Used for caption dropping: ``text.where(keep, encoder.null(len(text)))``. The two
        are padded to the longer L.
        """
        mine, theirs = pad_to_same_length([self, other])
        return TextFeatures(
            torch.where(keep[:, None, None], mine.tokens, theirs.tokens),
            torch.where(keep[:, None], mine.mask, theirs.mask),
            torch.where(keep[:, None], mine.pooled, theirs.pooled),
            # Both have one or neither has: another is a mistake of the caller.
            None
            if mine.embedding is None
            else torch.where(keep[:, None], mine.embedding, theirs.embedding),  # type: ignore[arg-type]
        )

    def padded(self, length: int) -> TextFeatures:
        """Pads the tokens with zeros (mask False) to ``length`` of them."""
        missing = length - self.tokens.shape[1]
        if not missing:
            return self
        return TextFeatures(
            torch.nn.functional.pad(self.tokens, (0, 0, 0, missing)),
            torch.nn.functional.pad(self.mask, (0, missing)),
            self.pooled,
            self.embedding,
        )

    @staticmethod
    def cat(features: Sequence[TextFeatures]) -> TextFeatures:
        """Joins batches, padded to the longest L (for guidance in one batch)."""
        features = pad_to_same_length(features)
        return TextFeatures(
            torch.cat([f.tokens for f in features]),
            torch.cat([f.mask for f in features]),
            torch.cat([f.pooled for f in features]),
            None if features[0].embedding is None else torch.cat([f.embedding for f in features]),  # type: ignore[misc]
        )


def pad_to_same_length(features: Sequence[TextFeatures]) -> list[TextFeatures]:
    """Pads token axes with zeros (mask False) to the longest L among ``features``."""
    longest = max(f.tokens.shape[1] for f in features)
    return [f.padded(longest) for f in features]


@dataclass(frozen=True)
class Batch:
    """One training batch, the same for every family.

    Attributes:
        image: (B, 3, H, W) in [-1, 1].
        caption: B captions.
        index: (B,) the position of each image in its split.
        text: features of a frozen encoder from the cache, or None: then the module encodes.
        targets: what the model's frozen parts made once of each image, by the names of
            ``TextToImageModule.targets``: latents (B, C, h, w), code indices (B, N), …
    """

    image: Images
    caption: list[str]
    index: Int[Tensor, " B"]
    text: TextFeatures | None = None
    targets: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.image.shape[0]

    def rows(self, rows: slice) -> Batch:
        """A part of the batch."""
        return replace(
            self,
            image=self.image[rows],
            caption=self.caption[rows],
            index=self.index[rows],
            text=None if self.text is None else self.text[rows],
            targets={name: target[rows] for name, target in self.targets.items()},
        )

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """Moves every tensor; integers keep their types."""
        image = self.image.to(*args, **kwargs)

        def move(x: Tensor) -> Tensor:
            return x.to(*args, **kwargs) if x.is_floating_point() else x.to(image.device)

        return replace(
            self,
            image=image,
            index=move(self.index),
            text=None if self.text is None else self.text.to(*args, **kwargs),
            targets={name: move(target) for name, target in self.targets.items()},
        )


@dataclass(frozen=True)
class Score:
    """A measured value that cannot be separated from how it was measured.

    Attributes:
        value: the point estimate.
        n: how many generated images it rests on.
        ci_low: lower end of the 95% interval.
        ci_high: upper end of the 95% interval.
        key: metric, extractor, preprocessing, reference split and N, for example
            ``fd[shapes-clip-v1@128|native-32|val|2000]``. Scores with different keys are
            never compared.
        note: what a reader must know, for example ``underdetermined (N < d)``; else empty.

    Example:
        >>> score = Score(12.5, 500, 11.9, 13.1, "fd[shapes-clip-v1@128|area-32|val|500]")
        >>> score.metric
        'fd'
    """

    value: float
    n: int
    ci_low: float
    ci_high: float
    key: str
    note: str = ""

    @property
    def metric(self) -> str:
        """The metric's bare name: the part of the key before ``[``."""
        return self.key.split("[", 1)[0]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {
            "value": self.value,
            "n": self.n,
            "ci_low": self.ci_low,
            "ci_high": self.ci_high,
            "key": self.key,
            "note": self.note,
        }

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> Score:
        """The inverse of ``to_dict``.

        Raises:
            TypeError: an entry is missing, surplus or of another type.
        """
        score = Score(**fields)
        for name, kinds in SCORE_TYPES.items():
            value = getattr(score, name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise TypeError(f"{name}={value!r} of {score.key}")
        return score


SCORE_TYPES: dict[str, tuple[type, ...]] = {
    "value": (int, float),
    "n": (int,),
    "ci_low": (int, float),
    "ci_high": (int, float),
    "key": (str,),
    "note": (str,),
}
"""Types of a score's entries."""
