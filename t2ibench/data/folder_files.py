"""Files of a folder that people work in: what systems and programs leave there is passed over."""

from __future__ import annotations

import os
from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    {
        ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".bmp",
        ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
    }
)  # fmt: skip

SYSTEM_NAMES = frozenset(
    {
        "__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found",
        "system volume information", "__pycache__",
    }
)  # fmt: skip
"""Names, in lower case, that operating systems and file servers give; those with a dot in front
(``._a.jpg``, ``.ipynb_checkpoints``, ``.Trash-0``) need no list."""


def visible_files(root: Path) -> list[Path]:
    """Files in a folder and its sub-folders, in the order of their paths.

    Links are followed, also those to folders, each folder once; hidden files and those of systems
    are left out.
    """
    found: list[Path] = []
    seen = {os.path.realpath(root)}
    for folder, folders, files in os.walk(root, followlinks=True):
        kept = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(folder, name))
            if not is_hidden(name) and real not in seen:
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        found += [Path(folder, name) for name in files if not is_hidden(name)]
    return sorted(path for path in found if path.is_file())


def is_hidden(name: str) -> bool:
    """True for the name of a hidden or system file or folder.

    Example:
        >>> is_hidden("._ring.jpg"), is_hidden("Thumbs.db"), is_hidden("ring.jpg")
        (True, True, False)
    """
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def is_image(path: Path) -> bool:
    """True where a file's suffix is that of an image that can be decoded."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def image_files(root: Path) -> list[Path]:
    """Images in a folder and its sub-folders, in the order of their paths."""
    return [path for path in visible_files(root) if is_image(path)]


NOT_TEXT = "its name is not UTF-8; rename it"
"""Reason for refusing a file whose name cannot be stored as text."""


def has_text_name(path: Path) -> bool:
    """True where a path can be written as UTF-8 text, as data sets store it."""
    return not any("\ud800" <= character <= "\udfff" for character in str(path))


def key_of(path: Path, root: Path) -> str:
    """A file's path below the root, with ``/``; bytes that are not text are spelled out."""
    return path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode()
