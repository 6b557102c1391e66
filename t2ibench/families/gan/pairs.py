"""Wrong captions and captions between two, for the losses of both players."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from t2ibench.core.ranks import gathered, greatest, own, rank, world_size
from t2ibench.core.types import TextFeatures, pad_to_same_length


def next_caption(text: TextFeatures) -> TextFeatures:
    """Wrong captions: each image gets that of its neighbour in the batch of all ranks."""
    text = text.padded(greatest(text.tokens.shape[1]))

    def before(rows: Tensor) -> Tensor:
        return own(gathered(rows).roll(1, 0), len(text))

    return TextFeatures(before(text.tokens), before(text.mask), before(text.pooled))


def halfway(text: TextFeatures) -> TextFeatures:
    """Text features averaged with the next caption's in the batch.

    Source: Reed et al. 2016 (GAN-INT-CLS), section 4.3, beta = 0.5.
    Differs: token features are interpolated too, for cross-attention.
    """
    return between(text, next_caption(text))


def first_with_second_half(text: TextFeatures) -> TextFeatures:
    """Averages of caption i with caption i + B / 2 of the batch of all ranks, B / 2 of them.

    Source: Reed et al. 2016 (GAN-INT-CLS), section 4.3, beta = 0.5; pairs of the released code.
    Differs: token features are interpolated too, for cross-attention.
    """
    text = text.padded(greatest(text.tokens.shape[1]))
    tokens, mask, pooled = map(gathered, (text.tokens, text.mask, text.pooled))
    half = len(pooled) // 2
    one, other = (
        TextFeatures(tokens[rows], mask[rows], pooled[rows])
        for rows in (slice(0, half), slice(half, 2 * half))
    )
    found = between(one, other)
    count = len(text) // 2
    return TextFeatures(own(found.tokens, count), own(found.mask, count), own(found.pooled, count))


def between(one: TextFeatures, other: TextFeatures) -> TextFeatures:
    """Means of two captions each; tokens that one of them lacks are the other's own."""
    one, other = pad_to_same_length([one, other])
    mine, theirs = (text.mask.to(text.tokens.dtype).unsqueeze(-1) for text in (one, other))
    tokens = (mine * one.tokens + theirs * other.tokens) / (mine + theirs).clamp(min=1)
    return TextFeatures(tokens, one.mask | other.mask, (one.pooled + other.pooled) / 2)


def next_rows(mine: Float[Tensor, "B C"]) -> tuple[Float[Tensor, "B2 C"], int, float]:
    """Rows i + 1 of the batch of all ranks, for this rank's rows i; the last has none.

    Returns:
        The following rows, their number, and by what this rank's mean over them is multiplied so
        that the mean over the ranks is that over all pairs.
    """
    rows = gathered(mine)
    following = own(rows.roll(-1, 0), len(mine))
    pairs = len(mine) - (rank() == world_size() - 1)
    return following[:pairs], pairs, pairs * world_size() / (len(rows) - 1)
