"""Features of captions under dual encoders: each distinct caption is encoded once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from t2ibench.evaluation.interfaces import ImageTextEncoder
from t2ibench.evaluation.real_features import CHUNK


class CaptionFeatures:
    """Features of captions and notes on their cuts, kept for all sets of the same prompts."""

    def __init__(self) -> None:
        self._features: dict[tuple[str, str], Tensor] = {}
        self._cut: dict[tuple[str, tuple[str, ...]], str] = {}

    def of(self, dual_encoder: ImageTextEncoder, captions: Sequence[str]) -> Tensor:
        """Features (len(captions), D), in float32 on the CPU."""
        kept = self._features
        missing = sorted({c for c in captions if (dual_encoder.key, c) not in kept})
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            features = dual_encoder.text_features(chunk).float().cpu()
            kept.update(zip(((dual_encoder.key, c) for c in chunk), features, strict=True))
        return torch.stack([kept[dual_encoder.key, caption] for caption in captions])

    def cut_note(self, dual_encoder: ImageTextEncoder, captions: Sequence[str]) -> str:
        """Number of captions longer than a dual encoder reads, in words; empty for none."""
        place = (dual_encoder.key, tuple(captions))
        if place not in self._cut:
            self._cut[place] = _cut_note(dual_encoder, captions)
        return self._cut[place]


def _cut_note(dual_encoder: ImageTextEncoder, captions: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(captions))
    most = dual_encoder.context_length
    lengths = zip(distinct, dual_encoder.caption_lengths(distinct), strict=True)
    long = {caption for caption, length in lengths if length > most}
    count = sum(caption in long for caption in captions)
    return f"{count} of {len(captions)} captions cut to {most} tokens" if count else ""
