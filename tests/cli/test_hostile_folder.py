"""A run folder from elsewhere: each verb answers in a sentence and runs none of it."""

import json
import shutil

import pytest
import torch
import yaml

from t2ibench.cli.main import main


@pytest.fixture
def folder(whole, tmp_path, shared_cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("T2IBENCH_CACHE", str(shared_cache))
    monkeypatch.setenv("T2IBENCH_RUNS", str(tmp_path / "runs"))
    return shutil.copytree(whole, tmp_path / "elsewhere")


OPENING = {
    "sample": ["sample", "RUN", "a red ring", "out=pictures"],
    "score": ["score", "RUN", "protocol.test.num_images=15", "protocol.test.reference_size=15"],
    "export": ["export", "RUN", "out=exported", "format=safetensors"],
}
"""Verbs that open a run."""

READING = {
    "compare": ["compare", "RUN"],
    "report": ["report", "RUN", "out=report.html"],
}
"""Verbs that read what a run says."""


def said(verb, folder, capsys):
    """The exit status of a verb and what it says to standard error."""
    words = [str(folder) if w == "RUN" else w for w in (OPENING | READING)[verb]]
    capsys.readouterr()
    code = main(words)
    return code, capsys.readouterr().err


def refuses(verb, folder, capsys, words):
    """Whether a verb refuses the folder in one sentence that has the words."""
    code, told = said(verb, folder, capsys)
    assert code == 2 and "Traceback" not in told, told
    sentence = [line for line in told.splitlines() if line.startswith(f"t2ibench {verb}: ")]
    assert len(sentence) == 1 and words in sentence[0], told


def edit_config(folder, key, value):
    """Changes a setting, and takes from the manifest what would tell that one was changed."""
    facts = json.loads((folder / "manifest.json").read_text())
    assert facts.pop("settings")
    (folder / "manifest.json").write_text(json.dumps(facts))
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    node, (*above, last) = config, key.split(".")
    for part in above:
        node = node[part]
    node[last] = value
    path.write_text(yaml.safe_dump(config, sort_keys=False, explicit_end=True))


def test_the_folder_itself_is_accepted(folder, capsys):
    for verb in OPENING | READING:
        assert said(verb, folder, capsys)[0] == 0, verb


FOREIGN = {"_target_": "os.system", "command": "touch ran"}


@pytest.mark.parametrize("verb", OPENING)
@pytest.mark.parametrize(
    "key",
    ["model.module", "model.module.network", "model.module.process", "model.module.optimizer",
     "text", "text.encoder", "parts.first_stage", "parts.first_stage.module.autoencoder",
     "parts.other", "data.source"],
)  # fmt: skip
def test_a_foreign_class_is_refused_and_not_run(folder, capsys, verb, key):
    edit_config(folder, key, FOREIGN)
    refuses(verb, folder, capsys, "os.system")
    assert not (folder.parent / "ran").exists()


@pytest.mark.parametrize("target", ["torch.hub.load", "t2ibench.core.files.os.system",
                                    "torch.serialization.load", "builtins.eval",
                                    "t2ibench.engine.parts.part.Part", "torch.nn", "..",
                                    ""])  # fmt: skip
def test_what_is_no_class_of_ours_is_refused(folder, capsys, target):
    edit_config(folder, "model.module.network", {"_target_": target, "f": "x"})
    refuses("sample", folder, capsys, "model.module.network")


@pytest.mark.parametrize("verb", OPENING)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("model: [1, 2]\n...", "model"),
        ("", "config.yaml must hold a mapping"),
        ("- 1", "config.yaml must hold a mapping"),
        ("a: 1\n...", "generates no images from text"),
        ("a: 1", "config.yaml is cut short"),
        ("a: [", "config.yaml is not YAML"),
        ("model: !!python/object/apply:os.system ['touch ran']", "config.yaml is not YAML"),
        ("\x00\x01", "config.yaml is not YAML"),
    ],
)
def test_a_configuration_that_is_none_is_one_sentence(folder, capsys, verb, content, words):
    (folder / "config.yaml").write_text(content)
    refuses(verb, folder, capsys, words)
    assert not (folder.parent / "ran").exists()


@pytest.mark.parametrize("verb", OPENING)
@pytest.mark.parametrize("name", ["status.json", "manifest.json"])
@pytest.mark.parametrize("content", ["{", "[]", "7", '"a word"', '{"identity": 3}', "null"])
def test_facts_that_are_none_are_one_sentence(folder, capsys, verb, name, content):
    (folder / name).write_text(content)
    refuses(verb, folder, capsys, name)


class Call:
    def __reduce__(self):
        return eval, ("open('ran', 'w').close()",)


@pytest.mark.parametrize("verb", ["sample", "score"])
def test_weights_that_are_a_pickle_are_not_unpickled(folder, capsys, verb):
    torch.save({"weights": Call()}, folder / "checkpoints" / "model.safetensors")
    refuses(verb, folder, capsys, "model.safetensors")
    assert not (folder.parent / "ran").exists()


@pytest.mark.parametrize("verb", READING)
@pytest.mark.parametrize("content", ["{", "[]", "7", "{}", '{"model": 3}', '{"chosen": []}'])
def test_scores_that_are_none_are_one_sentence(folder, capsys, verb, content):
    (folder / "scores.json").write_text(content)
    refuses(verb, folder, capsys, "scores.json")


@pytest.mark.parametrize("verb", READING)
def test_names_are_text_and_no_markup(folder, capsys, verb):
    scores = json.loads((folder / "scores.json").read_text())
    scores["model"]["name"] = "<script>alert(1)<b>[red]\x1b[31m"
    (folder / "scores.json").write_text(json.dumps(scores))
    capsys.readouterr()
    assert main([str(folder) if w == "RUN" else w for w in READING[verb]]) == 0
    assert "\x1b" not in capsys.readouterr().out
    if verb == "report":
        page = (folder.parent / "report.html").read_text()
        assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_status_of_a_study_of_such_folders_is_one_sentence_or_a_row(folder, capsys):
    runs = folder.parent / "runs"
    study = runs / "studies" / "s"
    study.mkdir(parents=True)
    for content in ("{", "[]", '{"cells": 3}'):
        for name in ("study.json", "cells.json"):
            (study / name).write_text(content)
        capsys.readouterr()
        assert main(["status", "s"]) == 2
        assert "Traceback" not in capsys.readouterr().err
