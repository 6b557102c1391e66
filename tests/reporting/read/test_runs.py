import pytest
from run_folders import unscored, write_run

from t2ibench.core.errors import ContentError, RunError
from t2ibench.core.files import read_json, write_json
from t2ibench.reporting import gather, read_run
from t2ibench.reporting.read import runs
from t2ibench.reporting.statistics.comparisons import differing_settings
from t2ibench.reporting.statistics.groups import group_runs


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


def trained_on(root, seed, data, source, data_hash="aa", content=None, **settings):
    """A run that was trained on content at a place."""
    config = {"data": {"name": "folder", "root": data, "source": source}} | settings
    run = write_run(root, "diffusion/ldm", seed, config=config)
    manifest = read_json(run / "manifest.json")
    write_json(run / "manifest.json", manifest | {"data": data_hash, "content": content or {}})
    return run


PLACES = [
    ("a", {"root": "a", "cache_dir": "/home/1"}, {"text": {"path": "x", "encoder": {"path": "x"}}}),
    ("b", {"root": "b", "cache_dir": "/home/2"}, {"text": {"path": "y", "encoder": {"path": "y"}}}),
]


def test_the_same_content_at_another_place_is_one_row(tmp_path):
    found = [
        trained_on(tmp_path, seed, data, source, **others, parts={"clip": {"path": data}})
        for seed, (data, source, others) in enumerate(PLACES)
    ]
    data, source, others = PLACES[1]
    last = trained_on(tmp_path, 2, data, source, **others, parts={"clip": {"path": "c"}})
    failed = unscored(last, "failed")
    (group,) = group_runs(*gather([*found, failed]))
    assert (group.seeds, len(group.missing)) == (2, 1)
    one, two = group.runs
    assert not differing_settings(one.settings, two.settings)
    assert (one.facts["data.root"], two.facts["data.root"]) == ("a", "b"), "to be asked for"


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"data_hash": "bb"}, "data.content"),
        ({"content": {"text_encoder": "bb"}}, "text_encoder.content"),
    ],
)
def test_other_content_at_the_same_place_is_another_row(tmp_path, changed, key):
    place = ("a", {"root": "a", "cache_dir": "c"})
    runs = [
        trained_on(tmp_path, 0, *place, content={"text_encoder": "aa"}),
        trained_on(tmp_path, 1, *place, **{"content": {"text_encoder": "aa"}} | changed),
    ]
    one, two = group_runs(*gather(runs))
    (difference,) = differing_settings(one.runs[0].settings, two.runs[0].settings)
    assert difference == (key, "aa", "bb")


def test_places_tell_runs_apart_whose_content_is_unknown(tmp_path):
    runs = [trained_on(tmp_path, seed, *PLACES[seed][:2], data_hash=None) for seed in range(2)]
    assert len(group_runs(*gather(runs))) == 2
