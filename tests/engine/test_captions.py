"""What captions lose is told by the check of data, before training, and in the run's manifest."""

import json

import numpy as np
import pytest
from PIL import Image

from t2ibench.cli.compose import compose_spec
from t2ibench.cli.main import main
from t2ibench.engine.context import Context
from t2ibench.engine.train import train


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Overrides of a folder with a long training caption and a test caption in Chinese."""
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("T2IBENCH_RUNS", str(tmp_path / "runs"))
    folder = tmp_path / "pics"
    captions = {"train": "a " * 30 + "ring", "val": "a ring", "test": "红色的圆"}
    for split, caption in captions.items():
        (folder / split).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            pixels[0, 0] = len(split)
            Image.fromarray(pixels).save(folder / split / f"{i}.png")
            (folder / split / f"{i}.txt").write_text(caption, encoding="utf-8")
    Image.new("RGB", (8, 8)).save(folder / "train" / "bare.png")
    return [f"data.root={folder}", "data.resolution=32"]


def test_the_check_of_data_tells_it(words, capsys):
    main(["data", "check", "folder", *words])
    told = capsys.readouterr().out
    assert "note: train with text=word_transformer: 8 of 8 captions are cut at 24 tokens" in told
    assert "note: test with text=word_transformer: 100% of the tokens are unknown words" in told
    assert "of 8 captions no word is known" in told
    assert "left out: 1 images without a caption (train/bare.png)" in told


def test_training_tells_it_first_and_keeps_it(words, caplog):
    overrides = [
        "data=folder", *words, "model=gan/fast_painter", "budget=images", "budget.amount=32",
        "trainer=cpu",
    ]  # fmt: skip
    run = train(Context(compose_spec(overrides))).run
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert set(manifest["caption_losses"]) == {"train", "test"}
    assert "captions are cut at 24 tokens" in manifest["caption_losses"]["train"]
    assert manifest["left_out"] == ["left out: 1 images without a caption (train/bare.png)"]
    assert "train/bare.png" in caplog.text and "test, text encoder" in caplog.text
    assert manifest["data"] and manifest["seed"] == 0
