import json

import pytest

from t2ibench.core.errors import ContentError, RunError
from t2ibench.core.types import Score
from t2ibench.evaluation.results import (
    OperatingPoint,
    RunScores,
    by_metric,
)


def score(key, value=1.0):
    return Score(value, 500, value - 0.1, value + 0.1, key)


def run_scores():
    scores = {k: score(k) for k in ("fd[lite0@1280|x]", "fd[shapes-clip-v1@128|x]", "kid[a|b]")}
    point = OperatingPoint({"guidance_scale": 3.0}, scores, 3.0, "samples/chosen")
    return RunScores(
        model={"name": "ldm", "family": "diffusion", "data": "shapes", "seed": 0, "run": "ldm-12"},
        protocol={"name": "dev"},
        chosen=point,
        front=(point, point),
        reference={"floor": scores},
        atomicity=({"objects": 1, "value": 0.9, "ci_low": 0.8, "ci_high": 1.0, "n": 40},),
        leakage=({"part": "text_encoder", "instrument": "x", "shared_tensors": 3},),
    )


def test_round_trip(tmp_path):
    made = run_scores()
    made.write(tmp_path / "scores.json")
    assert RunScores.read(tmp_path / "scores.json") == made


def test_absent_scores_name_the_verb(tmp_path):
    with pytest.raises(RunError, match="not scored yet; run `t2ibench score`"):
        RunScores.read(tmp_path / "scores.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(schema=0), "schema 0"),
        (lambda f: f.pop("chosen"), "chosen"),
        (lambda f: f["model"].pop("family"), r"model\.family"),
        (lambda f: f["chosen"]["scores"]["kid[a|b]"].pop("n"), "'n'"),
        (lambda f: f["chosen"]["scores"]["kid[a|b]"].update(key="kid[c]"), r"filed under kid\[a"),
        (
            lambda f: f["chosen"]["knobs"].update(truncation_psi="high"),
            "knobs.truncation_psi='high'",
        ),
        (lambda f: f["front"][0].update(value="3"), "value='3'"),
        (lambda f: f["cost"].update(parameters="x"), "cost.parameters='x'"),
        (lambda f: f["cost"].update(parameters={"network": "x"}), "cost.parameters.network='x'"),
        (lambda f: f["cost"].update(train_flops="x"), "cost.train_flops='x'"),
        (lambda f: f["cost"].update(hardware=[1]), r"cost.hardware=\[1\]"),
        (lambda f: f["model"].update(name=["x"]), r"model.name=\['x'\]"),
        (lambda f: f["model"].update(seed="zero"), "model.seed='zero'"),
        (lambda f: f["model"].update(seed=True), "model.seed=True"),
        (lambda f: f.update(knob={"chosen_by": "fd"}), "'name'"),
    ],
)
def test_malformed_scores_are_named(tmp_path, change, message):
    fields = run_scores().to_dict()
    change(fields)
    (tmp_path / "scores.json").write_text(json.dumps(fields))
    with pytest.raises(RunError, match=message):
        RunScores.read(tmp_path / "scores.json")


def test_truncated_json_is_named(tmp_path):
    (tmp_path / "scores.json").write_text('{"schema": 1, ')
    with pytest.raises(ContentError, match="not JSON .*score the run again"):
        RunScores.read(tmp_path / "scores.json")


def test_short_names_keep_keys_apart():
    named = by_metric(run_scores().chosen.scores)
    assert list(named) == ["fd", "fd:shapes-clip-v1", "kid"]
