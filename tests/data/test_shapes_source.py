"""The cached source: same pixels everywhere, damaged caches rebuilt, golden renders."""

from pathlib import Path

import numpy as np
import pytest

from t2ibench.core.errors import ConfigError, DataError
from t2ibench.data.records import DataSource
from t2ibench.data.shapes import source as shapes_source
from t2ibench.data.shapes.captions import parse, possible_words, words_of
from t2ibench.data.shapes.render import render
from t2ibench.data.shapes.scenes import sample_scene
from t2ibench.data.shapes.source import ShapesSource
from t2ibench.data.shapes.world import Parse, ShapesWorld

GOLDEN = Path(__file__).parents[1] / "golden" / "shapes_renders.npz"


def make(folder, **changes):
    settings = dict(level="L1", num_train=20, num_val=5, num_test=6, cache_dir=folder)
    return ShapesSource(**(settings | changes))


def test_a_source_yields_records_that_say_what_is_shown(tmp_path):
    source = make(tmp_path, level=["L1", "L2"], holdout="shape-colour")
    assert isinstance(source, DataSource)
    assert source.splits == ("train", "val", "test", "test_heldout")
    split = source.split("test_heldout")
    assert len(split) == 6 and split.resolution == 32
    for index, record in enumerate(split.records):
        assert len(record.captions) == 5 and record.split == "test_heldout"
        assert [parse(c) for c in record.captions] == [
            Parse.from_dict(fields) for fields in record.meta["parses"]
        ]
        np.testing.assert_array_equal(
            split.pixels([index])[0].numpy(), render(source.scenes("test_heldout")[index], 32)
        )


def test_the_cache_gives_the_same_split_and_is_used(tmp_path):
    first = make(tmp_path).split("train")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = make(tmp_path).split("train")
    assert isinstance(again.images, np.memmap)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
    np.testing.assert_array_equal(first.images, again.images)
    assert first.fingerprint == again.fingerprint
    assert first.records == again.records


@pytest.mark.parametrize("suffix", ["npy", "jsonl", "json"])
def test_a_damaged_cache_is_rendered_again(tmp_path, suffix, caplog):
    wanted = np.array(make(tmp_path).split("val").images)
    (path,) = tmp_path.glob(f"val-*.{suffix}")
    content = bytearray(path.read_bytes())
    content[-40:] = b"x" * 40
    path.write_bytes(content[:-3])
    split = make(tmp_path).split("val")
    np.testing.assert_array_equal(split.images, wanted)
    assert "corrupt" in caplog.text


def test_fingerprints_tell_sources_apart_without_rendering(tmp_path):
    prints = {
        make(tmp_path, **change).fingerprint
        for change in ({}, {"seed": 1}, {"level": "L2"}, {"resolution": 64}, {"num_train": 21})
    }
    assert len(prints) == 5
    assert make(tmp_path / "elsewhere").fingerprint in prints
    assert not list(tmp_path.iterdir())


def test_more_test_images_leave_the_training_split_what_it_is(tmp_path):
    few, many = make(tmp_path), make(tmp_path / "elsewhere", num_test=9)
    assert few.split_fingerprint("train") == many.split_fingerprint("train")
    assert few.split_fingerprint("test") != many.split_fingerprint("test")
    assert few.split_fingerprint("train") != make(tmp_path, seed=1).split_fingerprint("train")
    with pytest.raises(DataError, match="no split 'tset'"):
        few.split_fingerprint("tset")


def test_impossible_settings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="num|train"):
        make(tmp_path, num_train=0)
    with pytest.raises(DataError, match="no split 'tset'"):
        make(tmp_path).split("tset")


def golden_renders():
    """Fifty scenes over levels and sizes: what every platform must draw."""
    images = {}
    for resolution, count in ((32, 30), (64, 20)):
        world = ShapesWorld("L1+L2+L3+L4", resolution)
        scenes = [sample_scene(world, 0, "golden", i) for i in range(count)]
        images[f"px{resolution}"] = np.stack([render(scene, resolution) for scene in scenes])
    return images


def test_renders_are_the_golden_ones():
    """Regenerate: ``np.savez_compressed(GOLDEN, **golden_renders())`` with WORLD_VERSION raised."""
    with np.load(GOLDEN) as golden:
        for name, images in golden_renders().items():
            difference = np.abs(images.astype(int) - golden[name].astype(int))
            assert difference.max() <= 2, f"{name} differs by {difference.max()}"


@pytest.mark.parametrize(
    ("level", "resolution"), [("L1", 32), ("L2", 32), ("L3", 64), ("L4", 64), ("L1+L3", 32)]
)
def test_every_word_of_a_split_is_known_without_rendering_it(level, resolution, monkeypatch):
    monkeypatch.setattr(shapes_source, "render", None)
    source = ShapesSource(level, resolution, num_train=200)
    told = list(source.captions_with_every_word("train"))
    scenes = source.scenes("train")
    captions = [
        caption
        for index, scene in enumerate(scenes)
        for caption in source._captions("train", index, scene)
    ]
    assert told == captions[: len(told)] and len(told) < len(captions)
    assert set(words_of(" ".join(told))) == set(words_of(" ".join(captions)))
    assert set(words_of(" ".join(told))) == possible_words(source.world)


def test_words_that_a_split_does_not_show_are_looked_for_to_its_end(tmp_path):
    source = ShapesSource(num_train=5, captions_per_image=1, cache_dir=tmp_path)
    records = source.split("train").records
    told = list(source.captions_with_every_word("train"))
    assert told == [caption for record in records for caption in record.captions]
