"""Captions of any text come back from each format as they were written, cleaned."""

import csv
import io
import json
import re

import pyarrow
import pyarrow.parquet
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from t2ibench.data.captioned_files import Reading, list_captioned_files
from t2ibench.data.records import clean_caption

CAPTIONS = st.lists(st.text(max_size=40), min_size=1, max_size=4)
LIKE_A_LIST = re.compile(r"^\s*\[['\"{].*\]\s*$", re.DOTALL)


def read_back(folder):
    (file,) = list_captioned_files(folder, Reading()).files
    assert not file.refused
    return list(file.captions)


def cleaned(captions):
    """What is expected; a folder without any caption is no data set."""
    found = [clean_caption(caption) for caption in captions]
    assume(any(found))
    assume(not any(LIKE_A_LIST.match(caption) for caption in found))
    return [caption for caption in found if caption]


def fresh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    (folder / "a.png").write_bytes(b"")  # listed, never opened
    return folder


@settings(max_examples=150)
@given(CAPTIONS)
def test_jsonl(tmp_path_factory, captions):
    folder, expected = fresh(tmp_path_factory), cleaned(captions)
    for ascii_only in (True, False):
        row = json.dumps({"file_name": "a.png", "text": captions}, ensure_ascii=ascii_only)
        (folder / "metadata.jsonl").write_bytes((row + "\r\n").encode())
        assert read_back(folder) == expected


@settings(max_examples=150)
@given(CAPTIONS, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_csv(tmp_path_factory, captions, end, everything_quoted):
    folder, expected = fresh(tmp_path_factory), cleaned(captions)
    assume(not any("\0" in caption for caption in captions))  # refused as UTF-16
    text = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if everything_quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(text, lineterminator=end, quoting=quoting)
    writer.writerows([("file_name", "text"), *(("a.png", caption) for caption in captions)])
    (folder / "metadata.csv").write_bytes(text.getvalue().encode())
    assert read_back(folder) == expected


@settings(max_examples=100)
@given(CAPTIONS)
def test_parquet(tmp_path_factory, captions):
    folder, expected = fresh(tmp_path_factory), cleaned(captions)
    for cell in (captions, [caption.encode() for caption in captions]):
        table = pyarrow.Table.from_pylist([{"file_name": "a.png", "text": cell}])
        pyarrow.parquet.write_table(table, folder / "metadata.parquet")
        assert read_back(folder) == expected


@settings(max_examples=150)
@given(
    CAPTIONS,
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_txt(tmp_path_factory, captions, end, encoding):
    folder = fresh(tmp_path_factory)
    lines = [re.sub("[\r\n\0]", " ", caption) for caption in captions]
    found = [clean_caption(line) for line in lines]
    assume(any(found) and not lines[0].startswith("\ufeff"))
    (folder / "a.txt").write_bytes(end.join(lines).encode(encoding))
    assert read_back(folder) == [caption for caption in found if caption]
