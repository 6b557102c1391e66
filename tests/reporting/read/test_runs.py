import pytest
from run_folders import write_run

from t2ibench.core.errors import ContentError, RunError
from t2ibench.core.files import read_json, write_json
from t2ibench.reporting import gather, read_run
from t2ibench.reporting.read import runs


def test_missing_and_malformed_runs_are_named(tmp_path, study):
    with pytest.raises(RunError, match="no folder with scores.json"):
        gather([tmp_path])
    with pytest.raises(RunError, match="no folder with scores.json"):
        gather([])
    assert len(gather([study[0].parent])[0]) == len(study)
    assert len(gather([study[0], study[0].parent])[0]) == len(study)
    broken = write_run(tmp_path, "diffusion/ldm", 0)
    (broken / "config.yaml").write_text("a: [1")
    with pytest.raises(ContentError, match="config.yaml is not YAML"):
        read_run(broken)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"origin": "copied"}, "model.origin='copied'; it is one of paper, own"),
        ({"given": "word labels"}, "model.given='word labels'; it is a list of strings"),
        ({"given": [1]}, r"model.given=\[1\]; it is a list of strings"),
    ],
)
def test_facts_of_a_wrong_kind_are_refused(tmp_path, change, sentence):
    run = write_run(tmp_path, "diffusion/ldm", 0, model=change)
    with pytest.raises(RunError, match=f"scores.json has {sentence}"):
        read_run(run)


def test_facts_are_optional(tmp_path):
    path = write_run(tmp_path, "diffusion/ldm", 0)
    assert (read_run(path).origin, read_run(path).given) == ("", ())
    scores = read_json(path / "scores.json")
    scores["model"] |= {"origin": "paper", "given": ["word labels"]}
    write_json(path / "scores.json", scores)
    assert (read_run(path).origin, read_run(path).given) == ("paper", ("word labels",))


def test_values_of_images_are_read_once(tmp_path, monkeypatch):
    reads = []
    load = runs.load_values
    monkeypatch.setattr(runs, "load_values", lambda folder: reads.append(folder) or load(folder))
    run = read_run(write_run(tmp_path, "diffusion/ldm", 0))
    assert run.image_values is run.image_values and len(reads) == 1
