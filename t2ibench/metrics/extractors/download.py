"""Download of published weights: one file after the other, each checked by its hash."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from t2ibench.core.errors import MissingWeightsError
from t2ibench.core.hashing import hash_file
from t2ibench.metrics.extractors.published import PublishedWeights

TIMEOUT_SECONDS = 30
BLOCK_BYTES = 1 << 20


def fetch(weights: PublishedWeights) -> Iterator[str]:
    """Brings every file of a network to its place; a file that is there and whole stays.

    Yields:
        A line before each file: what is here already, or what is downloaded from where to where.

    Raises:
        MissingWeightsError: see ``download``.
    """
    for file in weights.files:
        target = weights.path_of(file)
        if target.is_file() and hash_file(target) == file.sha256:
            yield f"{target} is here and whole"
            continue
        yield f"{file.url}\n  -> {target} (sha256 {file.sha256})"
        download(file.url, target, file.sha256)


def download(url: str, target: Path, sha256: str) -> None:
    """Downloads one file beside its target, checks its hash and only then renames it.

    A proxy is taken from the usual variables (``https_proxy``); progress is shown on a terminal.

    Args:
        url: where it is published.
        target: where it belongs; its folder is made.
        sha256: what the file must have.

    Raises:
        MissingWeightsError: no network, a refusal, a broken transfer, or another content.
    """
    # Here alone, so that nothing else waits for an HTTP library.
    import pooch
    import requests

    by_hand = f"get {url} elsewhere and put it at {target} (SHA-256 {sha256})"
    pooch.get_logger().setLevel(logging.WARNING)
    transfer = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(), chunk_size=BLOCK_BYTES, timeout=TIMEOUT_SECONDS
    )

    def transfer_checked(source: str, aside: str, manager: object) -> None:
        transfer(source, aside, manager)
        if (found := hash_file(aside)) != sha256:
            raise MissingWeightsError(
                f"{source} gave a file with SHA-256 {found}, the published one has {sha256}; "
                "nothing was kept: a proxy may have answered in its place, so look at it and "
                "fetch again."
            )

    try:
        pooch.retrieve(
            url,
            f"sha256:{sha256}",
            fname=target.name,
            path=target.parent,
            downloader=transfer_checked,
        )
    except requests.RequestException as error:
        if error.response is not None:
            answer = f"answered {error.response.status_code} {error.response.reason}"
        else:
            # What failed lies inside of the account of all tries.
            cause = getattr(error.args[0] if error.args else None, "reason", error)
            answer = f"cannot be reached from here ({cause})"
        raise MissingWeightsError(f"{url} {answer}; {by_hand}.") from error
    except OSError as error:
        raise MissingWeightsError(f"{target} cannot be written ({error}); {by_hand}.") from error
