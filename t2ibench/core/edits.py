"""Edits: what sampling may be given besides text, noise and knobs, one type for each.

A family names the edits it offers in ``TextToImageModule.edits``; all of them are asked for
in one way, ``generate(text, noise, knobs, edit=...)``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from t2ibench.core.errors import ConfigError
from t2ibench.core.noise import Noise, SeededNoise
from t2ibench.core.types import Images, TextFeatures, pad_to_same_length

Mixing = Literal["step", "layer"]


@dataclass(frozen=True)
class Edit:
    """One edit of a batch.

    Attributes:
        name: as families list it and users type it.
    """

    name: ClassVar[str]

    def check_count(self, count: int) -> None:
        """Refuses an edit of another number of samples than there are prompts.

        Raises:
            ConfigError: it is not.
        """
        for f in fields(self):
            value = getattr(self, f.name)
            sized = isinstance(value, Tensor | TextFeatures | SeededNoise)
            if sized and len(value) != count:
                raise ConfigError(
                    f"{self.name} has {len(value)} rows of {f.name} for {count} prompts; give as "
                    "many of each."
                )

    def rows(self, chosen: slice) -> Edit:
        """The edit of some samples of the batch."""
        cut = {f.name: _rows(getattr(self, f.name), chosen) for f in fields(self)}
        return replace(self, **cut)


def _rows(value: Any, chosen: slice) -> Any:
    if isinstance(value, SeededNoise):
        return SeededNoise(value.seeds[chosen], value.device)
    if isinstance(value, TextFeatures):
        return value[chosen]
    return value[chosen] if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class ImageToImage(Edit):
    """Sampling that begins at given images.

    Attributes:
        image: (B, 3, H, W) in [-1, 1].
        strength: share of the noise levels that are walked: 0 gives the images back, 1 forgets
            them.

    Source: Meng et al. 2022 (SDEdit), section 3.
    Differs: the image is noised to the very level at which denoising begins.
    """

    image: Images
    strength: float
    name: ClassVar[str] = "img2img"

    def __post_init__(self) -> None:
        check_share("strength", self.strength)


@dataclass(frozen=True)
class Inpainting(Edit):
    """Part of each image is painted anew, the rest stays as it is.

    Attributes:
        image: (B, 3, H, W) in [-1, 1].
        mask: (B, 1, H, W) bool, True where the image is painted anew.
    """

    image: Images
    mask: Tensor
    name: ClassVar[str] = "inpainting"

    def __post_init__(self) -> None:
        want = (len(self.image), 1, *self.image.shape[-2:])
        if tuple(self.mask.shape) != want:
            raise ConfigError(
                f"the mask is {tuple(self.mask.shape)}, images of {tuple(self.image.shape)} need "
                f"{want}; give one of the same height and width."
            )

    def paste(self, painted: Images) -> Images:
        """The given images with the painted region; pixels outside the mask are unchanged.

        Args:
            painted: (B, 3, H, W) in [-1, 1].
        """
        return torch.where(self.mask.to(painted.device), painted, self.image.to(painted))


@dataclass(frozen=True)
class PromptMixing(Edit):
    """A second prompt takes over during sampling or in the deeper layers.

    Attributes:
        text: of the second prompt.
        switch: share of the steps, or of the network's text layers, that read the first one.
        by: ``step`` or ``layer``.
    """

    text: TextFeatures
    switch: float
    by: str = "step"
    name: ClassVar[str] = "prompt_mixing"

    def __post_init__(self) -> None:
        check_share("switch", self.switch)
        if self.by not in get_args(Mixing):
            raise ConfigError(f"by={self.by} is unknown; choose {', '.join(get_args(Mixing))}.")


@dataclass(frozen=True)
class StyleMixing(Edit):
    """A second latent styles the finer layers.

    Attributes:
        noise: of the second latent.
        switch: share of the layers, from the coarsest, that the first one styles.

    Source: Karras et al. 2019 (StyleGAN), section 3.1.
    Differs: none.
    """

    noise: Noise
    switch: float
    name: ClassVar[str] = "style_mixing"

    def __post_init__(self) -> None:
        check_share("switch", self.switch)


@dataclass(frozen=True)
class Interpolation(Edit):
    """An image between two: text features on the straight line, noise on the great circle.

    Attributes:
        text: of the second image's prompt.
        noise: of the second image.
        weight: 0 is the first image, 1 the second.
    """

    text: TextFeatures
    noise: Noise
    weight: float
    name: ClassVar[str] = "interpolation"

    def __post_init__(self) -> None:
        check_share("weight", self.weight)


@dataclass(frozen=True)
class Variation(Edit):
    """Other images of the same content.

    Attributes:
        image: (B, 3, H, W) in [-1, 1].
    """

    image: Images
    name: ClassVar[str] = "variations"


@dataclass(frozen=True)
class ImageInterpolation(Edit):
    """An image whose content lies between those of two images.

    Attributes:
        image: (B, 3, H, W) in [-1, 1], where ``weight`` is 0.
        other: likewise, where it is 1.
        weight: in [0, 1].
    """

    image: Images
    other: Images
    weight: float
    name: ClassVar[str] = "image_interpolation"

    def __post_init__(self) -> None:
        check_share("weight", self.weight)


@dataclass(frozen=True)
class Upscaling(Edit):
    """Given images in place of those of a cascade's earlier stages.

    Attributes:
        image: (B, 3, h, w) in [-1, 1].
    """

    image: Images
    name: ClassVar[str] = "upscaling"


def check_share(name: str, value: float) -> None:
    """Refuses a number outside [0, 1].

    Raises:
        ConfigError: it is outside.
    """
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}={value} is outside [0, 1]; choose a value inside.")


def slerp(
    a: Float[Tensor, "B ..."], b: Float[Tensor, "B ..."], weight: float
) -> Float[Tensor, "B ..."]:
    """Spherical interpolation sin((1 - w) u) / sin(u) a + sin(w u) / sin(u) b, u each pair's angle.

    Between two draws of normal noise it keeps their length, where a straight line would lose up
    to 30 % of it.

    Source: Shoemake 1985 (Animating rotation with quaternion curves), section 3.3.
    Differs: lengths are not normalised.
    """
    flat_a, flat_b = a.flatten(1).double(), b.flatten(1).double()
    cosine = torch.cosine_similarity(flat_a, flat_b, dim=1).clamp(-1, 1)
    angle = cosine.acos()
    # Of parallel samples the straight line is the limit.
    flat = angle.sin() < 1e-6
    sine = angle.sin().masked_fill(flat, 1.0)
    first = torch.where(flat, 1 - weight, ((1 - weight) * angle).sin() / sine)
    second = torch.where(flat, weight, (weight * angle).sin() / sine)
    mixed = first[:, None] * flat_a + second[:, None] * flat_b
    return mixed.view_as(a).to(a.dtype)


def lerp_text(a: TextFeatures, b: TextFeatures, weight: float) -> TextFeatures:
    """Linear interpolation (1 - w) a + w b by token; a position is real where it is in either.

    Padding is zero, so the longer caption's last tokens fade in or out.
    """
    a, b = pad_to_same_length([a, b])
    ends = {0.0: a.mask, 1.0: b.mask}
    return TextFeatures(
        torch.lerp(a.tokens, b.tokens, weight),
        ends.get(weight, a.mask | b.mask),
        torch.lerp(a.pooled, b.pooled, weight),
    )


def extended(image: Images, sides: tuple[int, int, int, int]) -> Inpainting:
    """Outpainting as inpainting: a larger canvas whose new border is painted.

    The border begins as the repeated edge, which only a model that looks under the mask sees.

    Args:
        image: (B, 3, H, W) in [-1, 1].
        sides: pixels added left, right, top and bottom.

    Raises:
        ConfigError: a negative side, or none.
    """
    if min(sides) < 0 or max(sides) == 0:
        raise ConfigError(
            f"outpainting by {sides} pixels (left, right, top, bottom) paints nothing; give at "
            "least one positive number."
        )
    mask = torch.zeros(len(image), 1, *image.shape[-2:], device=image.device)
    whole = pad(mask, sides, value=1.0)
    return Inpainting(pad(image, sides, mode="replicate"), whole > 0)
