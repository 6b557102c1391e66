"""A small CLIP for data sets on which no published CLIP is at home.

open_clip's architecture at native size: its ``CLIP`` with a ``ModifiedResNet`` image tower
(a stem of stride 2 and three stages, so that 32 px leave a 4 x 4 grid to attend over) and its
text transformer over words. The weights are shipped in ``metrics/weights/NAME`` with their
configuration, vocabulary and a card that says what they were trained on and what they reach.
No generator may train against or be conditioned on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from t2ibench.core.errors import CheckpointError, MissingWeightsError
from t2ibench.core.files import atomic_path, read_json, read_json_object, write_json
from t2ibench.core.hashing import hash_file
from t2ibench.core.pixels import from_pixels
from t2ibench.core.types import Images, PixelImages
from t2ibench.metrics.causal_text import encode_to_end_token, text_features
from t2ibench.metrics.extractors.contract import FeatureExtractor

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the encoders that the package ships."""

PAD, UNKNOWN, START = 0, 1, 2
"""Token ids; the end token has the highest id, as open_clip's pooling expects."""


class Vocabulary:
    """Word tokeniser: lower case, letters and digits; everything else separates words.

    Args:
        words: the known words; ids follow their order.
        context_length: L, with start and end tokens.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        self.words = tuple(words)
        self.context_length = context_length
        self._ids = {word: i + START + 1 for i, word in enumerate(self.words)}
        self.end = START + 1 + len(self.words)

    @staticmethod
    def of(captions: Iterable[str], context_length: int, least: int = 1) -> Vocabulary:
        """The words that occur ``least`` times or more in ``captions``, sorted."""
        counts: dict[str, int] = {}
        for caption in captions:
            for word in split_words(caption):
                counts[word] = counts.get(word, 0) + 1
        return Vocabulary(sorted(w for w, n in counts.items() if n >= least), context_length)

    def __len__(self) -> int:
        return self.end + 1

    def __call__(self, captions: Sequence[str]) -> Int[Tensor, "B L"]:
        """Token ids; a caption that is too long loses its last words, never its end token."""
        ids = torch.full((len(captions), self.context_length), PAD, dtype=torch.long)
        for row, caption in enumerate(captions):
            words = split_words(caption)[: self.context_length - 2]
            tokens = [START, *(self._ids.get(word, UNKNOWN) for word in words), self.end]
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return ids


def split_words(caption: str) -> list[str]:
    """Lower-case runs of letters and digits."""
    return re.findall(r"[^\W_]+", caption.lower())


def build_clip(config: dict[str, Any], vocabulary_size: int) -> Any:
    """Builds open_clip's ``CLIP`` in the given sizes, freshly initialised.

    Args:
        config: ``image_size``, ``embed_dim``, ``vision`` {width, layers, heads} and ``text``
            {width, layers, heads, context_length}.
        vocabulary_size: rows of the token embedding.

    Source: Radford et al. (2021), "Learning transferable visual models", section 2.4.
    Differs: stem of stride 2 in place of 4, three stages in place of four, words in place of
    byte pairs.
    """
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    from open_clip.modified_resnet import AttentionPool2d

    vision, text = config["vision"], config["text"]
    width, heads = vision["width"], vision["heads"]
    clip = CLIP(
        config["embed_dim"],
        CLIPVisionCfg(
            layers=(*vision["layers"], 1),
            width=width,
            head_width=width * 32 // heads,
            image_size=config["image_size"],
        ),
        CLIPTextCfg(
            context_length=text["context_length"],
            vocab_size=vocabulary_size,
            width=text["width"],
            heads=text["heads"],
            layers=text["layers"],
        ),
    )
    clip.visual.conv1.stride = (1, 1)
    clip.visual.layer4 = nn.Identity()
    pooled = AttentionPool2d(config["image_size"] // 8, width * 16, heads, config["embed_dim"])
    for layer in (pooled.q_proj, pooled.k_proj, pooled.v_proj, pooled.c_proj):
        nn.init.normal_(layer.weight, std=(width * 16) ** -0.5)
    clip.visual.attnpool = pooled
    return clip


class DualEncoder(FeatureExtractor):
    """Image and caption towers with one space; the image tower is a feature extractor too.

    Args:
        name: with its version; new weights need a new name.
        config: see ``build_clip``.
        vocabulary: words to token ids.
        sha256: of the weights' file, once there is one.
    """

    batch_size = 256

    def __init__(
        self, name: str, config: dict[str, Any], vocabulary: Vocabulary, sha256: str = ""
    ) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.vocabulary = vocabulary
        self.sha256 = sha256
        self.image_size = int(config["image_size"])
        self.width = int(config["embed_dim"])
        self.preprocessing = f"area-{self.image_size}"
        self.clip: Any = build_clip(config, len(vocabulary))
        self.clip.visual.to(memory_format=torch.channels_last)

    @cached_property
    def fingerprint(self) -> str:
        """First 12 hex digits of the SHA-256 of the weights' file, or of the tensors."""
        return self.sha256[:12] or FeatureExtractor.fingerprint.func(self)  # type: ignore[attr-defined]

    def forward(self, pixels: PixelImages) -> Float[Tensor, "B D"]:
        """Image features of unit length; other sizes are averaged or enlarged to native."""
        return self.embed(from_pixels(pixels))

    def embed(self, images: Images) -> Float[Tensor, "B D"]:
        """Features of unit length of images in [-1, 1], with gradients to them."""
        side = self.image_size
        if images.shape[-2:] != (side, side):
            smaller = min(images.shape[-2:]) >= side
            mode = {"mode": "area"} if smaller else {"mode": "bilinear", "align_corners": False}
            images = nn.functional.interpolate(images, size=(side, side), **mode)
        return self.clip.encode_image(images, normalize=True)

    def image_features(self, pixels: PixelImages) -> Float[Tensor, "B D"]:
        """Embeds (B, 3, H, W) uint8 images as (B, D) of unit length, on the CPU."""
        return self.features(pixels)

    def encode_captions(self, captions: Sequence[str]) -> Float[Tensor, "B D"]:
        """Embeds one batch of captions with unit length, on the encoder's device."""
        features = encode_to_end_token(self.clip, self.vocabulary(captions))
        return nn.functional.normalize(features, dim=-1)

    def text_features(self, captions: Sequence[str]) -> Float[Tensor, "B D"]:
        """Embeds B captions as (B, D) of unit length, on the CPU."""
        self.eval()
        return text_features(self.encode_captions, captions, self.batch_size, self.width)

    @property
    def context_length(self) -> int:
        """Longest caption in words, with start and end."""
        return self.vocabulary.context_length

    def caption_lengths(self, captions: Sequence[str]) -> list[int]:
        """Length of each caption before any cut, with start and end."""
        return [len(split_words(caption)) + 2 for caption in captions]

    @property
    def kernel_distance_name(self) -> str:
        """Name of its kernel distance: CMMD is defined with another network."""
        return "cmmd-style"

    def save(self, folder: str | Path, card: dict[str, Any]) -> str:
        """Writes weights, configuration, vocabulary and card; returns the weights' SHA-256."""
        from safetensors.torch import save_file

        folder = Path(folder)
        with atomic_path(folder / "model.safetensors") as aside:
            state = {k: v.detach().cpu().contiguous() for k, v in self.clip.state_dict().items()}
            save_file(state, aside)
        self.sha256 = hash_file(folder / "model.safetensors")
        self.__dict__.pop("fingerprint", None)
        write_json(folder / "config.json", self.config)
        write_json(folder / "vocabulary.json", list(self.vocabulary.words))
        write_json(folder / "card.json", {"name": self.name, "sha256": self.sha256} | card)
        return self.sha256

    @staticmethod
    def load(name: str = "shapes-clip-v1", folder: str | Path | None = None) -> DualEncoder:
        """Loads a shipped encoder by name, or one from ``folder``.

        Raises:
            MissingWeightsError: there is no such encoder.
            CheckpointError: the weights are not those of the card, or do not fit the
                configuration.
        """
        from t2ibench.core.tensors import read_safetensors

        folder = Path(folder) if folder is not None else WEIGHTS / name
        if not (folder / "model.safetensors").is_file():
            shipped = ", ".join(sorted(p.parent.name for p in WEIGHTS.glob("*/card.json")))
            raise MissingWeightsError(
                f"there is no dual encoder {name!r} in {folder}; this package ships "
                f"{shipped or 'none'}, and 't2ibench evaluator train' makes one."
            )
        card = read_json_object(folder / "card.json", "name", "sha256")
        sha256 = hash_file(folder / "model.safetensors")
        if sha256 != card["sha256"]:
            raise CheckpointError(
                f"{folder / 'model.safetensors'} has SHA-256 {sha256[:12]}, its card says "
                f"{card['sha256'][:12]}; restore the file or train the encoder again."
            )
        config = read_json_object(folder / "config.json")
        words = read_json(folder / "vocabulary.json")
        vocabulary = Vocabulary(words, config["text"]["context_length"])
        encoder = DualEncoder(card["name"], config, vocabulary, sha256)
        encoder.clip.load_state_dict(read_safetensors(folder / "model.safetensors"), strict=True)
        return encoder.eval().requires_grad_(False)
