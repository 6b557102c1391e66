"""Published weights onto this machine, hash checked.

t2ibench fetch                 what there is, and what is already here
t2ibench fetch inception       fid (96 MB)
t2ibench fetch clip dinov2     clip_score and fd with those networks

On a cluster, fetch on the node that has a network; T2IBENCH_WEIGHTS names the folder. A proxy is
taken from the usual variables (https_proxy).
"""

from __future__ import annotations

import hashlib
import http.client
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from t2ibench.core.errors import ConfigError, MissingWeightsError

TIMEOUT_SECONDS = 30
BLOCK = 1 << 20


def run(arguments: Sequence[str]) -> int:
    """Fetches each set of weights named; with no name, lists them."""
    from t2ibench.metrics.extractors.published import PUBLISHED

    unknown = [name for name in arguments if name not in PUBLISHED]
    if unknown:
        raise ConfigError(f"fetch knows no {unknown[0]}; choose {', '.join(PUBLISHED)}.")
    if not arguments:
        for weights in PUBLISHED.values():
            state = "here  " if weights.present else "absent"
            sys.stdout.write(
                f"  {state} {weights.name:<10}{weights.size:>7}  {weights.licence:<11}"
                f"{weights.purpose}\n         {weights.files[0].name}  "
                f"sha256 {weights.files[0].sha256}\n         {weights.target}\n"
            )
        return 0
    for name in arguments:
        weights = PUBLISHED[name]
        for file in weights.files:
            target = weights.path_of(file)
            if target.is_file() and sha256_of(target) == file.sha256:
                sys.stdout.write(f"{target} is here and whole\n")
                continue
            sys.stdout.write(f"{file.url}\n  -> {target} (sha256 {file.sha256})\n")
            download(file.url, target, file.sha256)
        sys.stdout.write(f"{name}: {weights.target}\n")
    return 0


def download(url: str, target: Path, sha256: str) -> None:
    """Downloads one file beside its target, checks its hash and only then renames it.

    Raises:
        MissingWeightsError: no network, a refusal, a broken transfer, or another content.
    """
    from t2ibench.core.files import atomic_path

    by_hand = f"get {url} elsewhere and put it at {target} (SHA-256 {sha256})"
    try:
        with atomic_path(target) as aside:
            found = _transfer(url, aside)
            if found != sha256:
                raise MissingWeightsError(
                    f"{url} gave a file with SHA-256 {found}, the published one has {sha256}; "
                    "nothing was kept: a proxy may have answered in its place, so look at it and "
                    "fetch again."
                )
    except urllib.error.HTTPError as error:
        raise MissingWeightsError(
            f"{url} answered {error.code} {error.reason}; {by_hand}."
        ) from error
    except (urllib.error.URLError, TimeoutError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise MissingWeightsError(
            f"{url} cannot be reached from here ({reason}); {by_hand}."
        ) from error
    except OSError as error:
        raise MissingWeightsError(f"{target} cannot be written ({error}).") from error


def _transfer(url: str, aside: Path) -> str:
    """Streams a URL into a file; its SHA-256.

    Raises:
        http.client.IncompleteRead: fewer bytes came than the server said.
    """
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer, open(aside, "wb") as file:
        total, done = int(answer.headers.get("Content-Length") or 0), 0
        report = _progress(total)
        while block := answer.read(BLOCK):
            digest.update(block)
            file.write(block)
            done += len(block)
            report(done)
        if total and done < total:
            raise http.client.IncompleteRead(b"", total - done)
    return digest.hexdigest()


def _progress(total: int) -> Callable[[int], None]:
    """A line that is written over on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        return lambda done: None
    whole = f" of {total / 1e6:.0f}" if total else ""

    def report(done: int) -> None:
        sys.stderr.write(f"\r  {done / 1e6:.0f}{whole} MB")

    return report


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
