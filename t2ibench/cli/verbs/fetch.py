"""Fetch published weights onto this machine, hash checked.

t2ibench fetch                 what there is, and what is already here
t2ibench fetch inception       fid (96 MB)
t2ibench fetch clip dinov2     clip_score and fd with those networks

On a cluster, fetch on the node that has a network; T2IBENCH_WEIGHTS names the folder. A proxy is
taken from the usual variables (https_proxy).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from t2ibench.core.errors import ConfigError


def run(arguments: Sequence[str]) -> int:
    """Fetches each named set of weights; without a name, lists them."""
    from t2ibench.metrics.extractors.download import fetch
    from t2ibench.metrics.extractors.published import PUBLISHED

    unknown = [name for name in arguments if name not in PUBLISHED]
    if unknown:
        raise ConfigError(f"fetch knows no {unknown[0]}; choose {', '.join(PUBLISHED)}.")
    if not arguments:
        for weights in PUBLISHED.values():
            sys.stdout.write(f"{weights}\n")
        return 0
    for name in arguments:
        for line in fetch(PUBLISHED[name]):
            sys.stdout.write(f"{line}\n")
        sys.stdout.write(f"{name}: {PUBLISHED[name].target}\n")
    return 0
