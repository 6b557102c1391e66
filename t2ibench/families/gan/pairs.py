"""Wrong captions and captions between two, for the losses of both players."""

from __future__ import annotations

from torch import Tensor

from t2ibench.core.ranks import gathered, greatest, own
from t2ibench.core.types import TextFeatures, pad_to_same_length


def next_caption(text: TextFeatures) -> TextFeatures:
    """Wrong captions: each image gets that of its neighbour in the batch of all ranks."""
    text = text.padded(greatest(text.tokens.shape[1]))

    def before(rows: Tensor) -> Tensor:
        return own(gathered(rows).roll(1, 0), len(text))

    return TextFeatures(before(text.tokens), before(text.mask), before(text.pooled))


def halfway(text: TextFeatures) -> TextFeatures:
    """Text features averaged with the next caption's in the batch.

    Tokens are averaged where both captions have one, and are the one's own elsewhere.

    Source: Reed et al. 2016 (GAN-INT-CLS), section 4.3, beta = 0.5.
    Differs: token features are interpolated too, for cross-attention.
    """
    text, other = pad_to_same_length([text, next_caption(text)])
    weight = text.mask.float().unsqueeze(-1)
    others = other.mask.float().unsqueeze(-1)
    tokens = (weight * text.tokens + others * other.tokens) / (weight + others).clamp(min=1)
    return TextFeatures(tokens, text.mask | other.mask, (text.pooled + other.pooled) / 2)
