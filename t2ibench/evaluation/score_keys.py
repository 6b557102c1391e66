"""Text between the brackets of score keys: what was measured, with which network, against what."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from t2ibench.core.errors import ScoreError
from t2ibench.data.records import PreparedSplit
from t2ibench.evaluation.interfaces import ImageTextEncoder
from t2ibench.metrics.extractors.contract import FeatureExtractor


def check_keys(networks: Sequence[FeatureExtractor | ImageTextEncoder]) -> None:
    """Refuses two networks of one key, whose scores would be told apart by nothing.

    Raises:
        ScoreError: two have one key.
    """
    keys = [network.key for network in networks]
    for key in keys:
        if keys.count(key) > 1:
            raise ScoreError(
                f"two networks of the evaluator are called {key}; give one of them another name "
                "(evaluator.dual_encoders.NAME.name or .tag)."
            )


def distance_key(
    network: str, fingerprint: str, name: str, reference: PreparedSplit, n: int, m: int
) -> str:
    """Text between the brackets of a distance's key: network, weights, reference, N and M.

    Args:
        network: key of the network.
        fingerprint: of its weights.
        name: of the real images: a split, or ``shapes/test[500:]`` where they begin after the
            prompts' records in hashed order.
        reference: the split.
        n: number of images scored.
        m: number of real images.
    """
    split = f"{name}:{reference.fingerprint[:8]}"
    size = str(n) if n == m else f"{n}/{m}"
    return f"{network}|{fingerprint[:8]}|{split}|{size}"


def prompts_key(captions: Sequence[str]) -> str:
    """The prompts themselves, in any order, and N."""
    digest = hashlib.sha256("\n".join(sorted(captions)).encode()).hexdigest()
    return f"prompts:{digest[:8]}|{len(captions)}"
