"""Every reader of run files, on thousands of damaged files: valid content, or an error of ours.

Nothing else than ``T2IBenchError`` may come out. Readers with a checksum return what was written.
"""

import random

import numpy as np
import pytest
import torch
import yaml

from t2ibench.core.errors import ContentError, T2IBenchError
from t2ibench.core.files import read_json, write_json
from t2ibench.core.tensors import read_safetensors, write_safetensors
from t2ibench.core.types import Score
from t2ibench.engine.parts.text import read_vocabulary
from t2ibench.evaluation.results import OperatingPoint, RunScores
from t2ibench.evaluation.samples import SampleSet, load_values, save_values
from t2ibench.runs.clock import Clock
from t2ibench.runs.curves import MetricsFile, read_curves
from t2ibench.runs.folder import Run
from t2ibench.runs.ledger import Cell, Ledger
from t2ibench.runs.lock import Owner, OwnerLock
from t2ibench.runs.status import is_clock
from t2ibench.training.checkpoint import WholeFiles, read_whole

MUTANTS = 10_000
"""Mutants of each file; all take about a minute of one core."""

KEY = "fd[lite@8|native-4|aa|shapes/test:bb|4]"


def mutant(content, chance):
    """The content with one damage: cut, zeroed, flipped, lost, doubled, moved or foreign bytes."""
    size = len(content)
    start = chance.randrange(size)
    end = min(size, start + chance.choice((1, 1, 2, 4, 16, 64, size)))
    kind = chance.randrange(8)
    if kind == 0:
        return content[:start]
    if kind == 1:
        return content[:start] + bytes(end - start) + content[end:]
    if kind == 2:
        flipped = content[start] ^ (1 << chance.randrange(8))
        return content[:start] + bytes([flipped]) + content[start + 1 :]
    if kind == 3:
        return content[:start] + content[end:]
    if kind == 4:
        return content[:end] + content[start:end] + content[end:]
    if kind == 5:
        other = chance.randrange(size)
        return content[:start] + content[other : other + end - start] + content[end:]
    if kind == 6:
        words = (
            b"null",
            b"-1",
            b"1e999",
            b"[]",
            b"{}",
            b'"',
            b"\xff",
            b"\n",
            b",",
            b"\x00",
            b"NaN",
        )
        return content[:start] + chance.choice(words) + content[end:]
    return (
        content[:start] + bytes(chance.randrange(256) for _ in range(end - start)) + content[end:]
    )


@pytest.fixture
def run(tmp_path):
    """A folder with each file of a run, small."""
    run = Run(tmp_path / "ldm-0123abcd", "0123abcd" * 2)
    (run.path / "checkpoints").mkdir(parents=True)
    config = {"seed": 0, "model": {"name": "ldm", "sizes": [1, 2.5]}, "paths": {"runs": "runs"}}
    (run.path / "config.yaml").write_text(yaml.safe_dump(config, explicit_end=True))
    clock = Clock(64, 1e9, 3.5, 2e9, 1.5, {"network": 1e9})
    run.set_status("finished", clock=clock.state_dict(), scored="ab", asked="cd", failures=1)
    run.write_manifest(seed=0, content={"text": "ab"}, parts={"text_encoder": {"fingerprint": "x"}})
    write_json(run.path / "vocabulary.json", ["a", "red", "ring"])
    curves = MetricsFile(run.path / "metrics.csv")
    for images in (16, 32, 48):
        curves.append({"images_seen": images, "flops": f"{images:.6e}", "seconds": 0.5, "loss": 1})
    scores = {KEY: Score(12.5, 4, 11.9, 13.1, KEY)}
    point = OperatingPoint({"guidance_scale": 2.0}, scores, 2.0, "samples/chosen")
    facts = {"name": "ldm", "family": "diffusion", "data": "shapes", "seed": 0, "run": "ldm"}
    RunScores(facts, {"name": "dev"}, point, front=(point,)).write(run.scores)
    samples = SampleSet(
        torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4),
        ("a red ring", "a blue moon, left"), ("k0", "k1"), (7, 8), {"knobs": {"w": 2.0}},
    )  # fmt: skip
    samples.save(run.path / "samples" / "chosen")
    save_values(run.path / "samples" / "chosen", samples, {KEY: [0.5, float("nan")]})
    write_safetensors({"w": torch.arange(6.0).view(2, 3), "b": torch.ones(1)}, run.weights)
    state = {
        "state_dict": {"w": torch.arange(4.0)}, "optimizer_states": [{"lr": 0.1}],
        "callbacks": {"BudgetClock": clock.state_dict()},
    }  # fmt: skip
    WholeFiles().save_checkpoint(state, run.checkpoint)
    Ledger(tmp_path, "s").register([Cell("ldm", run.identity, ("seed=0",), "seed=0")])
    lock = OwnerLock(run.path / ".lock")
    lock.acquire()
    yield run
    lock.release()


def valid_status(run):
    found = run.status()
    assert isinstance(found["identity"], str) and is_clock(found.get("clock", {}))
    Clock().load_state_dict(found.get("clock", {}))
    assert run.state in ("created", "running", "interrupted", "trained", "finished", "failed")


def valid_curves(run):
    found = read_curves(run.path / "metrics.csv")
    images = [row["images_seen"] for row in found.numbers()]
    assert images == sorted(set(images))
    whole = len(found.rows) == 3 and {"flops", "loss"} <= set(found.columns)
    assert found.damage or len(found.rows) <= 4 or whole


def valid_words(run):
    words = read_vocabulary(run.path / "vocabulary.json")
    assert words and all(isinstance(word, str) for word in words)


def valid_scores(run):
    found = RunScores.read(run.scores)
    for score in found.chosen.scores.values():
        assert isinstance(score.value + score.ci_low + score.ci_high, (int, float))
    assert all(isinstance(v, (int, float)) for v in found.chosen.knobs.values())
    assert isinstance(found.chosen.samples, str) and isinstance(found.model["name"], str)


def same_samples(run):
    found = SampleSet.load(run.path / "samples" / "chosen")
    assert found.captions == ("a red ring", "a blue moon, left") and found.seeds == (7, 8)
    assert found.pixels.flatten().tolist() == list(range(96)) and isinstance(found.meta, dict)


def valid_values(run):
    found = load_values(run.path / "samples" / "chosen")
    assert len(found.keys) == len(found.seeds)
    assert all(column.dtype == np.float64 for column in found.columns.values())


def same_weights(run):
    found = read_safetensors(run.weights)
    assert found["w"].flatten().tolist() == [0, 1, 2, 3, 4, 5] and found["b"].tolist() == [1]


def same_checkpoint(run):
    found = read_whole(run.checkpoint)
    assert found["state_dict"]["w"].tolist() == [0, 1, 2, 3]
    assert found["callbacks"]["BudgetClock"]["images_seen"] == 64


def valid_owner(run):
    holder = OwnerLock(run.path / ".lock").holder()
    assert holder is None or isinstance(holder, Owner)
    OwnerLock(run.path / ".lock").held()


def valid_cell(run):
    (cell,) = Ledger(run.path.parent, "s").cells()
    assert isinstance(cell.run, str) and all(isinstance(o, str) for o in cell.overrides)


READERS = {
    "config.yaml": lambda run: run.config().get("model"),
    "status.json": valid_status,
    "manifest.json": lambda run: (run.manifest(), run.fingerprint("text_encoder")),
    "vocabulary.json": valid_words,
    "metrics.csv": valid_curves,
    "scores.json": valid_scores,
    "samples/chosen/set.json": same_samples,
    "samples/chosen/manifest.jsonl": same_samples,
    "samples/chosen/pixels.npy": same_samples,
    "samples/chosen/values.csv": valid_values,
    "checkpoints/model.safetensors": same_weights,
    "../studies/s/ldm.json": valid_cell,
    ".lock": valid_owner,
}


def fuzz(run, name, reader):
    """Reads the mutants of a file; returns how many were read and how many refused."""
    path, chance = run.path / name, random.Random(name)
    content = path.read_bytes()
    reader(run)
    read = refused = 0
    for _ in range(MUTANTS):
        damaged = mutant(content, chance)
        path.write_bytes(damaged)
        try:
            reader(run)
            read += 1
        except T2IBenchError as error:
            assert str(error) and "Traceback" not in str(error)
            assert "unsafe" not in str(error).lower() and "weights_only" not in str(error)
            refused += 1
        except Exception as error:
            raise AssertionError(f"{damaged!r} of {name}") from error
    path.write_bytes(content)
    reader(run)
    return read, refused


@pytest.mark.parametrize("name", READERS)
def test_a_reader_gives_valid_content_or_an_error(run, name, record_property):
    read, refused = fuzz(run, name, READERS[name])
    record_property("mutants", read + refused)
    assert read + refused == MUTANTS
    assert refused > 0 or name in ("metrics.csv", ".lock")  # these two are read as far as they go


def test_a_checkpoint_is_read_as_written_or_refused(run):
    read, refused = fuzz(run, "checkpoints/last.ckpt", same_checkpoint)
    assert read + refused == MUTANTS and refused > read


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 50_000, "9" * 10_000])
def test_json_of_any_depth_and_length_is_an_error(tmp_path, content):
    path = tmp_path / "status.json"
    path.write_text(content)
    with pytest.raises(ContentError, match=r"status\.json is not JSON"):
        read_json(path)
