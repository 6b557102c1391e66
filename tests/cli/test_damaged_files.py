"""Every file of a run, damaged in every way: the next command names it, or makes it anew."""

import shutil
from itertools import product

import pytest
from by_words import FEW

from t2ibench.cli.main import main
from t2ibench.core.files import read_json


@pytest.fixture
def run(whole, tmp_path, shared_cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("T2IBENCH_CACHE", str(shared_cache))
    monkeypatch.setenv("T2IBENCH_RUNS", str(tmp_path / "runs"))
    shutil.copytree(whole.parent, tmp_path / "runs")
    return tmp_path / "runs" / whole.name


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


def flipped(path):
    content = bytearray(path.read_bytes())
    for position in range(len(content) // 3, len(content), max(1, len(content) // 7)):
        content[position] ^= 0x41
    path.write_bytes(content)


def gone(path):
    path.unlink()


DAMAGES = (empty, cut, zeroed, flipped, gone)

VERBS = {
    "train": ["train", *FEW],
    "sample": ["sample", "RUN", "a red ring", "out=pictures"],
    "score": ["score", "RUN"],
    "export": ["export", "RUN", "out=exported", "format=safetensors"],
    "compare": ["compare", "RUN"],
    "report": ["report", "RUN", "out=report.html"],
}

READ = {
    "config.yaml": {"sample", "score", "export", "compare", "report"},
    "status.json": {"train", "sample", "score", "export"},
    "manifest.json": {"train", "sample", "score", "export", "compare", "report"},
    "vocabulary.json": {"train", "sample", "score", "export"},
    "checkpoints/model.safetensors": {"train", "sample", "score", "export"},
    "scores.json": {"sample", "score", "export", "compare", "report"},
    "samples/chosen/set.json": {"report"},
    "samples/chosen/manifest.jsonl": {"report"},
    "samples/chosen/pixels.npy": {"report"},
    "samples/chosen/values.csv": {"report"},
    "metrics.csv": {"compare", "report"},
}
"""Files, and the verbs whose result depends on what they hold."""

MENDED = {"train": {"status.json", "manifest.json", "checkpoints/model.safetensors"}}
"""What a verb makes anew; ``score`` its scores, and every verb the vocabulary and curves."""

ABSENT = {
    "scores.json", "samples/chosen/set.json", "samples/chosen/values.csv", "metrics.csv",
}  # fmt: skip
"""Files that a run need not have."""

UNSEEN = {("manifest.json", gone): {"compare", "report"}}
"""Damages that verbs do not see, whose tables then lack a fact."""


def answer(verb, run, capsys):
    capsys.readouterr()
    code = main([str(run) if word == "RUN" else word for word in VERBS[verb]])
    return code, capsys.readouterr()


def check(verb, name, damage, run, capsys, caplog):
    damage(run / name)
    code, told = answer(verb, run, capsys)
    text = told.err + caplog.text
    assert code in (0, 2) and "Traceback" not in text, text
    if code == 2:
        sentences = [s for s in told.err.splitlines() if s.startswith(f"t2ibench {verb}: ")]
        assert len(sentences) == 1, told.err
    unseen = damage is gone and name in ABSENT or verb in UNSEEN.get((name, damage), ())
    if verb in READ[name] and not unseen:
        named = name.rsplit("/", 1)[-1] in text or "samples/chosen has changed" in text
        assert named, f"{name} is not named: {text}"
    elif verb not in READ[name]:
        assert code == 0, text
    mended = name in MENDED.get(verb, ()) or name in ("vocabulary.json", "metrics.csv")
    if mended or (verb == "score" and name == "scores.json"):
        assert code == 0, text
    return code


CASES = list(product(READ, VERBS))


@pytest.mark.parametrize(
    ("name", "verb", "damage"),
    [(name, verb, DAMAGES[i % 5]) for i, (name, verb) in enumerate(CASES) if verb in READ[name]],
)
def test_a_damaged_file_is_named_or_made_anew(run, capsys, caplog, name, verb, damage):
    check(verb, name, damage, run, capsys, caplog)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("name", "verb"), CASES)
def test_every_damage_of_every_file_under_every_verb(run, capsys, caplog, name, verb, damage):
    check(verb, name, damage, run, capsys, caplog)


@pytest.mark.parametrize("name", ["status.json", "manifest.json", "checkpoints/model.safetensors"])
def test_typed_again_the_command_makes_the_same_run_anew(run, whole, capsys, name):
    flipped(run / name)
    assert answer("train", run, capsys)[0] == 0
    weights = "checkpoints/model.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()
    assert read_json(run / "status.json")["state"] == "finished"
    one, two = (read_json(folder / "scores.json") for folder in (whole, run))
    assert one["chosen"] == two["chosen"] and one["front"] == two["front"]
    for verb in ("sample", "compare"):
        assert answer(verb, run, capsys)[0] == 0


def test_one_flipped_bit_of_the_weights_is_found(run, capsys):
    """Not by its format, which allows any number: by the checksum."""
    path = run / "checkpoints" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 0x10
    path.write_bytes(content)
    for verb in ("sample", "score", "export"):
        code, told = answer(verb, run, capsys)
        assert code == 2 and "has changed since it was written" in told.err


def test_scores_of_weights_that_are_gone_with_their_checkpoint_are_forgotten(run, capsys):
    shutil.rmtree(run / "checkpoints")
    for name in ("scores/other.json", "samples/other/set.json"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).touch()
    assert answer("train", run, capsys)[0] == 0
    assert not (run / "scores").exists() and not (run / "samples" / "other").exists()
    assert read_json(run / "status.json")["state"] == "finished"


@pytest.mark.parametrize("damage", [flipped, gone])
def test_a_first_stage_is_found_again_in_its_checkpoint(run, capsys, caplog, damage):
    (stage,) = run.parent.glob("first_stage-*")
    path = stage / "checkpoints" / "first_stage.safetensors"
    before = path.read_bytes()
    damage(path)
    shutil.rmtree(run)
    assert answer("train", run, capsys)[0] == 0
    assert "first_stage.safetensors" in caplog.text
    assert path.read_bytes() == before


def test_a_configuration_of_other_settings_is_refused(run, capsys):
    path = run / "config.yaml"
    text = path.read_text()
    assert "lr: " in text
    path.write_text(text.replace("lr: 0", "lr: 1", 1))
    code, told = answer("sample", run, capsys)
    assert code == 2 and "config.yaml has changed since the training" in told.err


@pytest.mark.parametrize("name", ["set.json", "manifest.jsonl", "pixels.npy"])
def test_damaged_samples_are_drawn_again(run, whole, capsys, caplog, name):
    flipped(run / "samples" / "chosen" / name)
    scores = run / "scores.json"
    scores.unlink()
    assert answer("score", run, capsys)[0] == 0
    assert name in caplog.text or "samples/chosen has changed" in caplog.text
    drawn, before = (folder / "samples" / "chosen" / "pixels.npy" for folder in (run, whole))
    assert drawn.read_bytes() == before.read_bytes()


def test_status_shows_a_damaged_cell_and_its_file(run, capsys):
    place = [f"paths.runs={run.parent}", "study.name=s"]
    assert main(["train", *FEW, *place, "seed=0", "-m"]) == 0
    for damage in DAMAGES[:4]:
        damage(run / "status.json")
        damage(run / "metrics.csv")
        damage(run / "config.yaml")
        capsys.readouterr()
        assert main(["status", "s"]) == 0
        shown = capsys.readouterr().out
        assert "interrupted" in shown and "status.json" in shown
