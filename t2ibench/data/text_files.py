"""Text of files that others wrote: decoded as their marks say, or refused by name and line."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2ibench.core.errors import ConfigError, DataError

MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's mark does
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks with the encoding that each stands for."""

BREAK = re.compile(r"\r\n|\r|\n")
"""Line breaks of text files; U+2028, form feeds and the like are a part of a line."""

REMEDY = "save it as UTF-8, or name its encoding, for example data.source.encoding=cp1252"


def read_text_file(path: Path, encoding: str = "utf-8", remedy: str = REMEDY) -> str:
    """Text of a file, without its byte order mark.

    Args:
        path: the file.
        encoding: of a file without a byte order mark.
        remedy: what a user can do about another encoding.

    Raises:
        DataError: it is in another encoding, or cannot be read.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    mark, named = next(((m, e) for m, e in MARKS if raw.startswith(m)), (b"", encoding))
    try:
        text = raw[len(mark) :].decode(named)
    except UnicodeDecodeError as error:
        at = len(mark) + error.start
        line = raw[:at].count(b"\n") + 1
        raise DataError(
            f"{path}: line {line} is not {named.upper()} (byte 0x{raw[at]:02x}); {remedy}."
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(
            f"{path}: line {line} holds a zero byte, as UTF-16 without its byte order mark does; "
            f"{remedy.replace('cp1252', 'utf-16-le')}."
        )
    return text


def split_lines(text: str) -> list[str]:
    r"""Lines of a text.

    Example:
        >>> split_lines("one\r\ntwo\u2028still two")
        ['one', 'two\u2028still two']
    """
    return BREAK.split(text)


def json_lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Values of a text with a JSON value a line, each with the number of its line.

    Args:
        text: what the file holds; empty lines are passed over.
        path: the file, for messages.

    Raises:
        DataError: a line is not JSON.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is not JSON ({error}).") from error
        yield number, value


def check_encoding(name: str) -> str:
    """Checks that an encoding of text has that name.

    Raises:
        ConfigError: there is none.
    """
    try:
        "a".encode(name)
    except LookupError:
        raise ConfigError(
            f"data.source.encoding={name} is no encoding of text; give utf-8, cp1252, utf-16 or "
            "another that Python knows."
        ) from None
    return name
