"""Folders as people have them: read as their owner meant it, or refused by name and row."""

import io
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from t2ibench.core.errors import ConfigError, DataError
from t2ibench.data.check import check_source
from t2ibench.data.folder import FolderSource
from t2ibench.data.pictures import PictureSource, pictures_in, sizes_in
from t2ibench.data.prompts import Prompt
from t2ibench.data.resize import ResizeRecipe
from t2ibench.evaluation.external import read_external


def save(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    return folder


def opened(root, **options):
    whole = {"val_share": 0, "test_share": 0, "max_refused": 0.9} | options
    return FolderSource(root, cache_dir=root.parent / "cache", resolution=16, **whole)


def captions(source):
    return {record.key: record.captions for record in source.everything().records}


def splits(source):
    return {record.key: record.split for record in source.everything().records}


def beside(root, name, text):
    """An image with the bytes of its .txt."""
    save(root / f"{name}.png", len(name))
    (root / f"{name}.txt").write_bytes(text)


def described(root, rows):
    """Images with a metadata.jsonl."""
    for row in rows:
        save(root / row["file_name"], len(row["file_name"]))
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def tabulated(root, table):
    save(root / "a.png")
    save(root / "b.png", 1)
    (root / "metadata.csv").write_bytes(table.encode())


# ---- what captions say ----


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_believed(root, encoding):
    beside(root, "a", "ein Fluß\r\nnoch einer".encode(encoding))
    assert captions(opened(root)) == {"a.png": ("ein Fluß", "noch einer")}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le"])
def test_text_in_another_encoding_is_refused_by_name_or_read_as_told(root, encoding):
    beside(root, "a", b"a red ring")
    beside(root, "bb", "ein Fluß\nrot".encode(encoding))
    source = opened(root)
    assert captions(source) == {"a.png": ("a red ring",)}
    (told,) = source.left_out()
    assert "1 images that cannot be used (bb.png: " in told and "bb.txt: line 1" in told
    assert "data.source.encoding=" in told
    with pytest.raises(DataError, match=r"1 of 2 images cannot be used.*bb\.txt"):
        opened(root, max_refused=0.01).split("train")
    (root / "a.png").unlink()
    assert captions(opened(root, encoding=encoding)) == {"bb.png": ("ein Fluß", "rot")}


def test_metadata_in_another_encoding_is_refused_by_line(root):
    save(root / "a.png")
    table = "file_name,text\na.png,ein Fluß\n"
    (root / "metadata.csv").write_bytes(table.encode("cp1252"))
    with pytest.raises(DataError, match=r"metadata\.csv: line 2 is not UTF-8 \(byte 0xdf\)"):
        captions(opened(root))
    assert captions(opened(root, encoding="cp1252")) == {"a.png": ("ein Fluß",)}
    with pytest.raises(ConfigError, match=r"data\.source\.encoding=utf-9 is no encoding"):
        opened(root, encoding="utf-9")


@pytest.mark.parametrize("odd", ["\u2028", "\x0c", "\x85", "\x1c"])
def test_only_line_breaks_end_lines(root, odd):
    beside(root, "c", f"a red{odd}ring\nsecond".encode())
    assert captions(opened(root)) == {"c.png": ("a red ring", "second")}
    tabulated(root, f'file_name,text\na.png,"a red{odd}ring"\nb.png,one{odd}two\n')
    assert captions(opened(root)) == {"a.png": ("a red ring",), "b.png": ("one two",)}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ([{"raw": "a ring", "tokens": ["a"], "sentid": 3}, {"raw": "moon"}], ("a ring", "moon")),
        ({"text": ["one", "two"]}, ("one", "two")),
        (["one", None, float("nan"), " "], ("one",)),
        ('["one", "it\'s two"]', ("one", "it's two")),
        ("['one', \"it's two\"]", ("one", "it's two")),
        ('[{"raw": "one"}]', ("one",)),
        ("[meme] a cat", ("[meme] a cat",)),
        (7, ("7",)),
        ("nan", ("nan",)),
        ("a \ud800 ring", ("a \ufffd ring",)),
    ],
)
def test_a_cell_holds_captions_in_each_form(root, cell, expected):
    described(root, [{"file_name": "a.png", "text": cell}])
    assert captions(opened(root)) == {"a.png": expected}


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ({"en": "a ring"}, r"line 1 has text=\{'en': 'a ring'\}; a caption is a string"),
        (True, "line 1 has text=True"),
        ("['one' 'two']", "begins like a list of captions"),
        ("['one', two]", "begins like a list of captions"),
    ],
)
def test_a_cell_that_is_no_caption_is_refused_by_line(root, cell, words):
    described(root, [{"file_name": "a.png", "text": cell}])
    with pytest.raises(DataError, match=words):
        captions(opened(root))


def test_an_absent_caption_is_named_and_not_the_word_nan(root):
    rows = [{"file_name": f"{n}.png", "text": t} for n, t in (("a", float("nan")), ("b", "x"))]
    described(root, [*rows, {"file_name": "c.png", "text": None}, {"file_name": "d.png"}])
    source = opened(root)
    assert captions(source) == {"b.png": ("x",)}
    assert "3 images without a caption (a.png, c.png, d.png)" in source.left_out()


def test_parquet_holds_bytes_and_dates(root):
    save(root / "a.png")
    rows = [{"file_name": "a.png", "text": "ein Fluß".encode()}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "metadata.parquet")
    assert captions(opened(root)) == {"a.png": ("ein Fluß",)}
    rows[0]["text"] = b"\xff\xff"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "metadata.parquet")
    with pytest.raises(DataError, match=r"row 1 has text=b'.*not UTF-8"):
        captions(opened(root))
    (root / "metadata.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match=r"metadata\.parquet cannot be read"):
        captions(opened(root))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("file_name,text\na.png,a ring, red\nb.png,x\n", "line 2 has 3 cells and the header 2"),
        ('file_name,text\na.png,"a\nb"\nb.png,x,y\n', "line 4 has 3 cells"),
        ('file_name,text\na.png,"a 5" ring"\n', "line 2 cannot be read"),
        ('file_name,text\na.png,"a ring\nb.png,x\n', "cannot be read"),
        ("file_name;text\na.png;a ring\n", "none of the caption columns.*file_name;text"),
        ("file_name,text,text\na.png,a,b\n", "names a column twice"),
        ("name,text\na.png,a\n", "line 2 has no file_name; its columns are name, text"),
    ],
)
def test_a_table_that_lost_its_columns_is_refused_by_line(root, table, words):
    tabulated(root, table)
    with pytest.raises(DataError, match=words):
        captions(opened(root))


def test_json_that_is_deep_or_broken_is_refused_by_line(root):
    save(root / "a.png")
    for line in ("[" * 100_000, "{oops", '"a string"'):
        (root / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n' + line)
        with pytest.raises(DataError, match=r"metadata\.jsonl: line 2"):
            captions(opened(root))


# ---- splits ----


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("Train", "Test"), ("train", "test")),
        (("training", "dev"), ("train", "val")),
        (("train2017", "val2017", "TEST-2015"), ("train", "val", "test")),
        (("train_images", "test_images"), ("train", "test")),
    ],
)
def test_folders_that_mean_splits(root, folders, expected):
    for folder in folders:
        beside(root / folder, "a", folder.encode())
    source = opened(root)
    assert splits(source) == {f"{f}/a.png": s for f, s in zip(folders, expected, strict=True)}
    told = sorted(f"{f}/ is {s}" for f, s in zip(folders, expected, strict=True))
    assert source.left_out() == [f"splits by folder: {', '.join(told)}"]


def test_a_split_column_is_the_split(root):
    rows = [
        {"file_name": f"{n}.png", "text": "x", "split": s}
        for n, s in (("a", "TRAIN"), ("b", "restval"), ("c", "dev"), ("d", "test"))
    ]
    described(root, rows)
    expected = {"a.png": "train", "b.png": "train", "c.png": "val", "d.png": "test"}
    assert splits(opened(root)) == expected
    assert set(splits(opened(root, split_column=None)).values()) == {"train"}
    rows[2]["split"] = "holdout"
    described(root, rows)
    with pytest.raises(DataError, match="line 3 has split='holdout'"):
        captions(opened(root))
    described(root, [rows[0], rows[0] | {"split": "test"}])
    with pytest.raises(DataError, match=r"line 2 gives a\.png another split"):
        captions(opened(root))


def test_a_folder_and_its_metadata_must_agree_on_the_split(root):
    save(root / "train" / "a.png")
    row = {"file_name": "a.png", "text": "x", "split": "test"}
    (root / "train" / "metadata.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match="split=test and lies in the folder of train"):
        captions(opened(root))


def test_a_folder_and_the_roots_metadata_must_agree_on_the_split(root):
    rows = [{"file_name": f"{s}/a.png", "text": "x", "split": s} for s in ("train", "test")]
    described(root, rows)
    assert splits(opened(root)) == {"train/a.png": "train", "test/a.png": "test"}
    described(root, [rows[0], rows[1] | {"split": "train"}])
    words = r"metadata\.jsonl: line 2 has split=train and lies in the folder of test"
    with pytest.raises(DataError, match=words):
        captions(opened(root))
    expected = {"train/a.png": "train", "test/a.png": "test"}
    assert splits(opened(root, split_column=None)) == expected


# ---- what is left out is named ----


def test_everything_left_out_is_named_each_time(root):
    beside(root / "train", "a", b"a ring")
    beside(root / "test", "b", b"a moon")
    beside(root / "extra", "c", b"unused")
    save(root / "loose.png")
    save(root / "train" / "bare.png", 2)
    (root / "train" / "photo.heic").write_bytes(b"x")
    (root / "train" / "orphan.txt").write_text("nobody's")
    (root / "train" / "cut.png").write_bytes((root / "train" / "a.png").read_bytes()[:60])
    (root / "train" / "cut.txt").write_text("x")
    for _ in range(2):  # prepared, then read back
        source = opened(root)
        report = check_source(source)
        told = "\n".join(report.notes)
        for words in (
            "left out: folder extra/: 2 files, 1 of them images",
            "left out: files beside the splits: 1 files, 1 of them images",
            "left out: 1 images without a caption (train/bare.png)",
            "left out: 1 captions (.txt) without an image of their name (train/orphan.txt)",
            "left out: files of train that are not read: 1 .heic",
            "left out: 1 images that cannot be used (train/cut.png: ",
        ):
            assert words in told, told


def test_columns_and_images_that_metadata_leave_out_are_named(root):
    described(root, [{"file_name": "a.png", "text": "x", "title": "y", "year": 3}])
    save(root / "unlisted.png")
    (root / "a.txt").write_text("another caption")
    source = opened(root)
    assert captions(source) == {"a.png": ("x",)}
    assert source.left_out() == [
        "2 columns of metadata.jsonl that are not captions (title, year)",
        "1 images that metadata.jsonl does not name (unlisted.png)",
        "files of set that are not read: 1 .txt",
    ]


def test_splits_that_lie_deeper_are_not_passed_over_in_silence(root):
    beside(root / "images" / "test", "a", b"x")
    beside(root / "images" / "train", "b", b"y")
    source = opened(root)
    assert set(splits(source).values()) == {"train"}
    assert any("(images/test, images/train)" in sentence for sentence in source.left_out())


def test_an_earlier_preparation_does_not_excuse_later_refusals(root):
    beside(root, "a", b"x")
    (root / "b.png").write_bytes(b"")
    (root / "b.txt").write_text("y")
    assert captions(opened(root)) == {"a.png": ("x",)}
    with pytest.raises(DataError, match="1 of 2 images cannot be used"):
        opened(root, max_refused=0.1).split("train")


# ---- folders as systems and hubs keep them ----


def test_a_snapshot_of_the_hub_is_read_through_its_links(root):
    blobs, snapshot = root / "blobs", root / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    save(root / "x.png").rename(blobs / "hash1")
    (blobs / "hash2").write_text(json.dumps({"file_name": "sub/a.png", "text": "from the hub"}))
    (snapshot / "sub").mkdir()
    (snapshot / "sub" / "a.png").symlink_to("../../../blobs/hash1")
    (snapshot / "metadata.jsonl").symlink_to("../../blobs/hash2")
    source = FolderSource(snapshot, cache_dir=root / "c", resolution=16)
    assert captions(source) == {"sub/a.png": ("from the hub",)}


def test_links_to_folders_are_followed_and_never_in_circles(root):
    beside(root / "elsewhere", "a", b"linked")
    whole = root / "whole"
    beside(whole, "z", b"own")
    (whole / "sub").symlink_to(root / "elsewhere")
    (root / "elsewhere" / "back").symlink_to(whole)
    source = FolderSource(whole, cache_dir=root / "c", resolution=16)
    assert captions(source) == {"sub/a.png": ("linked",), "z.png": ("own",)}


def test_hidden_and_system_files_are_passed_over(root):
    beside(root, "a", b"x")
    (root / "._a.png").write_bytes(b"\x00\x05\x16\x07")
    (root / "._a.txt").write_text("junk")
    for folder in (".ipynb_checkpoints", ".Trash-0", "__MACOSX", "@eaDir"):
        beside(root / folder, "old", b"old")
    (root / "Thumbs.db").write_bytes(b"x")
    source = opened(root)
    assert captions(source) == {"a.png": ("x",)} and source.left_out() == []


def test_names_composed_and_decomposed_are_one_file(root):
    name = "Fluß-ü.png"
    save(root / unicodedata.normalize("NFD", name))
    row = {"file_name": unicodedata.normalize("NFC", name), "text": "x"}
    (root / "metadata.jsonl").write_text(json.dumps(row))
    assert captions(opened(root)) == {unicodedata.normalize("NFC", name): ("x",)}


def test_a_name_that_is_no_text_is_refused_by_name(root):
    beside(root, "a", b"x")
    raw = renamed(save(root / "b.png"), b"caf\xe9.png")
    source = opened(root)
    assert captions(source) == {"a.png": ("x",)}
    assert any("its name is not UTF-8" in sentence for sentence in source.left_out())
    with open(raw.removesuffix(b".png") + b".txt", "w") as file:
        file.write("y")
    source = opened(root)
    assert captions(source) == {"a.png": ("x",)}
    assert any("its name is not UTF-8" in sentence for sentence in source.left_out())
    plain = PictureSource(root, cache_dir=root.parent / "c", resolution=16, max_refused=0.5)
    assert [record.key for record in plain.split("test").records] == ["a.png"]
    assert plain.report.decoding.refused == {"caf\\udce9.png": "its name is not UTF-8; rename it"}
    generated = read_external(root, ResizeRecipe(8), root.parent / "c", [Prompt("1"), Prompt("2")])
    assert generated.samples.captions == ("1", "2")
    with pytest.raises(DataError, match=r"data\.source\.root='.*udce9' is not UTF-8"):
        opened(Path(os.fsdecode(renamed(root, b"caf\xe9"))))


def renamed(path, name):
    """The path as bytes with a name that is no text."""
    raw = os.path.join(os.fsencode(path.parent), name)
    try:
        os.rename(path, raw)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    return raw


def test_a_folder_of_pictures_may_hold_a_broken_one(root):
    save(root / "a.png")
    (root / "b.png").write_bytes(b"<html>")
    assert str(sizes_in(root)) == "1 image of 20 px and 1 that cannot be read"
    (root / "a.png").unlink()
    with pytest.raises(DataError, match=r"no picture that can be read \(b\.png: "):
        sizes_in(root)


def test_digits_that_are_no_decimals_are_letters_of_a_name(root):
    for name in ("1²", "10", "2", "²"):
        save(root / f"{name}.png")
    assert [path.stem for path in pictures_in(root)] == ["1²", "2", "10", "²"]


@pytest.mark.parametrize("name", ["../b.png", "/etc/b.png", "x/../../b.png"])
def test_metadata_do_not_climb_out_of_the_folder(root, name):
    save(root / "a.png")
    (root / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "x"}))
    with pytest.raises(DataError, match="outside of"):
        captions(opened(root))


def test_a_root_with_dots_and_a_home_is_read(root, monkeypatch):
    described(root, [{"file_name": "deep/../a.png", "text": "x"}])
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(root.parent))
    for typed in (".", "../set", "~/set"):
        source = FolderSource(typed, cache_dir=root.parent / "cache", resolution=16)
        assert captions(source) == {"a.png": ("x",)}


# ---- boxes and pointers ----


def test_a_box_outside_of_its_image_refuses_that_image_alone(root):
    rows = [
        {"file_name": f"{n}.png", "text": "x", "bbox": box}
        for n, box in (("a", [2, 2, 9, 9]), ("b", [90, 90, 5, 5]))
    ]
    described(root, rows)
    source = opened(root, crop="reed-box-squash")
    assert captions(source) == {"a.png": ("x",)}
    assert source.report.decoding.decoded == 1
    assert "has no area inside" in source.report.decoding.refused["b.png"]
    described(root, [rows[0] | {"bbox": [float("nan"), 1, 2, 3]}])
    with pytest.raises(DataError, match=r"a\.png has bbox"):
        captions(opened(root, crop="reed-box-squash"))


def test_a_pointer_of_git_lfs_is_named_as_one(root):
    beside(root, "a", b"x")
    (root / "b.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (root / "b.txt").write_text("y")
    source = opened(root)
    assert captions(source) == {"a.png": ("x",)}
    assert "git lfs pull" in source.report.decoding.refused["b.png"]


def test_npz_captions_of_bytes_are_text(tmp_path):
    images = np.zeros((2, 8, 8, 3), np.uint8)
    words = np.array(["ein Fluß".encode(), b"a ring"])
    np.savez(tmp_path / "a.npz", arr_0=images, captions=words)
    read = read_external(tmp_path / "a.npz", ResizeRecipe(8), tmp_path / "cache")
    assert read.samples.captions == ("ein Fluß", "a ring")
    np.savez(tmp_path / "a.npz", arr_0=images, captions=np.array([b"\xff", b"x"]))
    with pytest.raises(DataError, match=r"a\.npz has captions=b'.*not UTF-8"):
        read_external(tmp_path / "a.npz", ResizeRecipe(8), tmp_path / "cache")


def test_a_scored_folder_has_no_hidden_images(tmp_path):
    for name in ("1", "2"):
        save(tmp_path / "out" / f"{name}.png")
    (tmp_path / "out" / "._1.png").write_bytes(b"x")
    prompts = [Prompt("one"), Prompt("two")]
    read = read_external(tmp_path / "out", ResizeRecipe(8), tmp_path / "cache", prompts)
    assert read.samples.captions == ("one", "two")


def test_surviving_images_are_kept_whatever_their_exif_says(root):
    buffer = io.BytesIO()
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x05\x01\x12\0\x03\xff\xff\xff\xff\0\0"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(buffer, "JPEG", exif=exif)
    (root / "a.jpg").write_bytes(buffer.getvalue())
    (root / "a.txt").write_text("red")
    assert captions(opened(root)) == {"a.jpg": ("red",)}
