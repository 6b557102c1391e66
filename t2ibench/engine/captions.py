"""Losses of a data set's captions in a text encoder, told before training and kept in its run."""

from __future__ import annotations

from t2ibench.core.errors import DataError
from t2ibench.data.records import DataSource
from t2ibench.text.contract import TextEncoder, losses_of, warn_of_losses


def caption_losses(encoder: TextEncoder, source: DataSource) -> dict[str, str]:
    """Warns of what the captions of each split lose.

    Args:
        encoder: the run's, made with the words of the training captions where it needs them.
        source: the data set.

    Returns:
        Split -> sentence, of splits whose captions lose something.
    """
    found = {}
    for name in source.splits:
        try:
            split = source.split(name)
        except DataError:  # a split without images, which only a protocol that asks for it refuses
            continue
        captions = [caption for record in split.records for caption in record.captions]
        if losses := losses_of(encoder, captions):
            warn_of_losses(encoder, losses, name)
            found[name] = losses
    return found
