import csv
import json
import os
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from t2ibench.core.errors import ConfigError, DataError
from t2ibench.core.hashing import hash_file
from t2ibench.data import file_hashes as file_hashes_module
from t2ibench.data.check import check_source
from t2ibench.data.file_hashes import file_hashes
from t2ibench.data.folder import FolderSource
from t2ibench.data.records import DataSource


def save(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def open_source(root, tmp_path, **options):
    return FolderSource(root, cache_dir=tmp_path / "cache", resolution=16, **options)


def all_records(source):
    records = {}
    for name in source.splits:
        try:
            records |= {record.key: record for record in source.split(name).records}
        except DataError as error:
            assert "no image" in str(error)
    return records


def write_metadata(root, rows, kind):
    if kind == "jsonl":
        (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "metadata.parquet")
    else:
        with open(root / "metadata.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_each_metadata_format_gives_the_same_records(tmp_path, kind):
    root = tmp_path / "set"
    names = [f"deep/{i}.png" for i in range(6)] + ["top.png"]
    for i, name in enumerate(names):
        save(root / name, i)
    rows = [{"file_name": n, "text": f' a "{n}"\n picture, ok ', "year": 7} for n in names]
    write_metadata(root, rows, kind)
    records = all_records(open_source(root, tmp_path, val_share=0.2, test_share=0.2))
    assert sorted(records) == sorted(names)
    assert records["top.png"].captions == ('a "top.png" picture, ok',)
    assert int(records["top.png"].meta["year"]) == 7


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_lists_of_captions_and_several_columns(tmp_path, kind):
    root = tmp_path / "set"
    save(root / "a.png")
    write_metadata(root, [{"file_name": "a.png", "caption": ["one", "", "two"], "alt": "x"}], kind)
    source = open_source(
        root, tmp_path, caption_columns=["caption", "alt"], val_share=0, test_share=0
    )
    assert source.split("train").records[0].captions == ("one", "two", "x")


def test_one_row_a_caption_is_merged(tmp_path):
    root = tmp_path / "set"
    save(root / "a.png")
    rows = [{"file_name": "a.png", "text": text} for text in ("one", "two")]
    write_metadata(root, rows, "csv")
    source = open_source(root, tmp_path, val_share=0, test_share=0)
    assert source.split("train").records[0].captions == ("one", "two")


def test_sidecars_and_split_folders(tmp_path):
    root = tmp_path / "set"
    for i, name in enumerate(("train/a", "train/b", "validation/c", "test/d")):
        save(root / f"{name}.jpg", i)
        (root / f"{name}.txt").write_text(f"caption of {name}\nanother\n")
    source = open_source(root, tmp_path)
    assert isinstance(source, DataSource)
    keys = {name: [r.key for r in source.split(name).records] for name in source.splits}
    assert keys == {
        "train": ["train/a.jpg", "train/b.jpg"],
        "val": ["validation/c.jpg"],
        "test": ["test/d.jpg"],
    }
    assert source.split("val").records[0].captions == ("caption of validation/c", "another")


def test_root_metadata_may_name_files_in_split_folders(tmp_path):
    root = tmp_path / "set"
    names = ["train/a.png", "val/b.png", "test/c.png"]
    for i, name in enumerate(names):
        save(root / name, i)
    write_metadata(root, [{"file_name": n, "text": n} for n in names], "jsonl")
    source = open_source(root, tmp_path)
    assert [source.split(s).records[0].key for s in source.splits] == names


def test_split_by_hash_is_stable_and_keeps_groups_whole(tmp_path):
    root = tmp_path / "set"
    rows = [{"file_name": f"{i}.png", "text": "x", "who": f"p{i // 4}"} for i in range(160)]
    for i, row in enumerate(rows):
        save(root / row["file_name"], i)
    write_metadata(root, rows, "jsonl")
    options = {"group_column": "who", "val_share": 0.2, "test_share": 0.2}
    source = open_source(root, tmp_path, **options)
    before = {r.key: r.split for r in all_records(source).values()}
    groups = [{r.group for r in source.split(s).records} for s in source.splits]
    assert all(groups) and sum(map(len, groups)) == 40
    assert 90 <= len(source.split("train")) <= 140
    assert check_source(source).ok
    for row in rows[:8]:
        (root / row["file_name"]).unlink()
    write_metadata(root, rows[8:], "jsonl")
    after = {r.key: r.split for r in all_records(open_source(root, tmp_path, **options)).values()}
    assert after == {key: before[key] for key in after} and len(after) == 152


def test_everything_is_all_splits_in_the_order_of_keys(tmp_path):
    root = tmp_path / "set"
    for i in range(5):
        save(root / f"{i}.png", i)
        (root / f"{i}.txt").write_text(f"number {i}")
    whole = open_source(root, tmp_path, val_share=0.3, test_share=0.3).everything()
    assert [r.captions for r in whole.records] == [(f"number {i}",) for i in range(5)]
    plain = open_source(root, tmp_path, val_share=0, test_share=0)
    assert np.array_equal(whole.images, plain.split("train").images)


def broken_set(root):
    for i in range(8):
        save(root / f"{i}.png", i)
    (root / "8.png").write_bytes((root / "0.png").read_bytes()[:90])
    (root / "9.png").write_bytes(b"")
    names = [f"{i}.png" for i in range(12)]
    rows = [{"file_name": n, "text": "" if n == "7.png" else "word"} for n in names]
    write_metadata(root, rows, "jsonl")


def test_unusable_files_are_named_and_too_many_stop(tmp_path):
    root = tmp_path / "set"
    broken_set(root)
    options = {"val_share": 0, "test_share": 0}
    with pytest.raises(DataError, match=r"4 of 11 images cannot be used.*max_refused"):
        open_source(root, tmp_path, **options).split("train")
    for _ in range(2):  # prepared, then read back
        source = open_source(root, tmp_path, max_refused=0.5, **options)
        assert len(source.split("train")) == 7
        assert sorted(source.report.decoding.refused) == ["8.png", "9.png"]
        assert source.report.missing == ["10.png", "11.png"]
        assert source.report.without_caption == ["7.png"]


def test_an_earlier_preparation_does_not_tell_what_is_left_out_today(tmp_path):
    root = tmp_path / "set"
    broken_set(root)
    options = {"val_share": 0, "test_share": 0, "max_refused": 0.5}
    folder = open_source(root, tmp_path, **options)._prepare()
    names = [f"{i}.png" for i in range(10)]  # 10 and 11 are gone from the table, 12 is new in it
    save(root / "bare.png")
    rows = [{"file_name": n, "text": "" if n in ("7.png", "bare.png") else "word"} for n in names]
    write_metadata(root, [*rows, {"file_name": "bare.png"}, {"file_name": "12.png"}], "jsonl")
    source = open_source(root, tmp_path, **options)
    assert source._prepare() == folder
    assert source.report.without_caption == ["7.png", "bare.png"]
    assert source.report.missing == ["12.png"]
    assert sorted(source.report.decoding.refused) == ["8.png", "9.png"]


def test_odd_images_are_decoded_into_the_split(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    Image.new("CMYK", (9, 9), (0, 0, 0, 0)).save(root / "cmyk.jpg")
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(root / "alpha.png")
    Image.fromarray(np.full((9, 9), 65535, np.uint16)).save(root / "deep.png")
    for name in ("cmyk", "alpha", "deep"):
        (root / f"{name}.txt").write_text("white")
    source = open_source(root, tmp_path, val_share=0, test_share=0)
    assert source.split("train").images.min() == 255
    assert source.report.decoding.treated == {"cmyk": 1, "alpha": 1, "16 bit": 1}


def test_the_prepared_set_is_kept_until_the_folder_changes(tmp_path):
    root = tmp_path / "set"
    save(root / "a.png", 1)
    (root / "a.txt").write_text("first")
    options = {"val_share": 0, "test_share": 0}
    first = open_source(root, tmp_path, **options)
    pixels = first.split("train").images.copy()
    assert np.array_equal(open_source(root, tmp_path, **options).split("train").images, pixels)
    assert len(list((tmp_path / "cache/folder").glob("*/dataset.json"))) == 1
    (root / "a.txt").write_text("second")
    second = open_source(root, tmp_path, **options)
    assert second.fingerprint != first.fingerprint
    assert second.split("train").records[0].captions == ("second",)


def test_a_split_is_known_by_its_content_wherever_it_lies(tmp_path):
    root = tmp_path / "set"
    for name in ("train", "val", "test"):
        for i in range(3):
            save(root / name / f"{i}.png", len(name) * 10 + i)
            (root / name / f"{i}.txt").write_text(f"picture {i}")
    source = open_source(root, tmp_path)
    known = {name: source.split_fingerprint(name) for name in source.splits}
    assert len(set(known.values())) == 3
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    moved = open_source(tmp_path / "copy", tmp_path, name="set")
    assert {name: moved.split_fingerprint(name) for name in moved.splits} == known
    assert moved.fingerprint == source.fingerprint
    save(tmp_path / "copy/val/1.png", 77)
    changed = open_source(tmp_path / "copy", tmp_path, name="set")
    differing = [n for n in known if changed.split_fingerprint(n) != known[n]]
    assert differing == ["val"] and changed.fingerprint != source.fingerprint
    with pytest.raises(DataError, match="no split 'dev'"):
        source.split_fingerprint("dev")


def test_files_are_hashed_once_and_again_when_they_change(tmp_path, monkeypatch, caplog):
    files = {name: tmp_path / name for name in ("a", "b")}
    for name, path in files.items():
        path.write_text(name)
    files["gone"] = tmp_path / "gone"
    read = []

    def counted(path, digits):
        read.append(path.name)
        return hash_file(path, digits)

    monkeypatch.setattr(file_hashes_module, "hash_file", counted)
    memory = tmp_path / "memory"
    first = file_hashes(tmp_path, files, memory)
    assert sorted(read) == ["a", "b"] and first["gone"] == "" and first["a"] != first["b"]
    assert file_hashes(tmp_path, files, memory) == first and len(read) == 2
    files["a"].write_text("A")
    os.utime(files["a"], ns=(1, 1))
    assert file_hashes(tmp_path, files, memory)["a"] != first["a"]
    assert read[2:] == ["a"]
    (memo,) = memory.iterdir()
    memo.write_text("{")
    assert file_hashes(tmp_path, files, memory)["b"] == first["b"]
    assert len(read) == 5 and "hashed again" in caplog.text


def test_clear_errors(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        open_source(tmp_path / "none", tmp_path)
    root = tmp_path / "set"
    save(root / "a.png")
    with pytest.raises(DataError, match=r"metadata\.jsonl"):
        open_source(root, tmp_path).split("train")
    write_metadata(root, [{"file_name": "../cache/x.png", "text": "x"}], "jsonl")
    with pytest.raises(DataError, match="outside"):
        open_source(root, tmp_path).split("train")
    write_metadata(root, [{"file_name": "a.png", "title": "x"}], "jsonl")
    with pytest.raises(DataError, match="caption columns"):
        open_source(root, tmp_path).split("train")
    (root / "metadata.jsonl").write_text("{oops")
    with pytest.raises(DataError, match=r"metadata\.jsonl: line 1 is not JSON"):
        open_source(root, tmp_path).split("train")
    with pytest.raises(ConfigError, match="val_share"):
        open_source(root, tmp_path, val_share=0.5, test_share=0.5)


@pytest.mark.parametrize("crop", ["reed-box-short-side", "reed-box-squash"])
@pytest.mark.parametrize("as_text", [True, False])
def test_birds_are_cut_out_by_their_boxes(tmp_path, crop, as_text):
    root = tmp_path / "birds"
    root.mkdir()
    # A red square of 10 px, the box, on grey, near the left edge: the crop reaches 7 px around
    # its centre (9, 15) and is cut by nothing; then by the left edge for the second image.
    boxes = [[4, 10, 10, 10], [0, 10, 10, 10]]
    for i, (left, top, width, height) in enumerate(boxes):
        pixels = np.full((40, 50, 3), 128, np.uint8)
        pixels[top : top + height, left : left + width] = (255, 0, 0)
        Image.fromarray(pixels).save(root / f"{i}.png")
    rows = [
        {"file_name": f"{i}.png", "text": "a bird", "bbox": str(box) if as_text else box}
        for i, box in enumerate(boxes)
    ]
    write_metadata(root, rows, "jsonl")
    source = FolderSource(root, cache_dir=tmp_path / "cache", resolution=14, crop=crop)
    split = source.everything()
    assert source.recipe.name == f"bicubic-{crop}-14"
    first, second = (split.pixels([i])[0].numpy() for i in range(2))
    assert (first[0, 2:12, 2:12] == 255).all() and (first[1, 2:12, 2:12] == 0).all()
    assert (first[:, :2] == 128).all() and (first[:, :, 12:] == 128).all()
    # 12 px wide, 14 high: the middle 12 rows, stretched, or all 14.
    edge = second[0, :, 7] > 192
    assert edge.sum() == (10 if crop == "reed-box-squash" else 12)


def test_a_crop_around_the_box_says_which_image_has_none(tmp_path):
    root = tmp_path / "birds"
    save(root / "0.png")
    write_metadata(root, [{"file_name": "0.png", "text": "a bird", "bbox": [1, 2, 3]}], "jsonl")
    source = FolderSource(
        root, cache_dir=tmp_path / "cache", resolution=8, crop="reed-box-short-side"
    )
    with pytest.raises(DataError, match=r"0\.png has bbox=\[1, 2, 3\].*left, top, width, height"):
        source.everything()
    with pytest.raises(ConfigError, match=r"data\.source\.crop=square is unknown"):
        FolderSource(root, cache_dir=tmp_path, resolution=8, crop="square")
