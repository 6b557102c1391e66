import json

import pytest
from run_folders import KEYS

from t2ibench.reporting.render.json_document import document


def test_json_holds_the_whole_comparison(analysis, content):
    told = json.loads(json.dumps(document(content)))
    assert [m["label"] for m in told["models"]] == ["ldm", "vqgan_gpt", "gan_int_cls"]
    ldm = told["models"][0]
    cell = analysis.leaderboard.groups[0].score(KEYS["fd"])
    score = ldm["scores"][KEYS["fd"]]
    assert (score["value"], score["sd"], score["seeds"]) == (cell.value, cell.sd, 3)
    assert sum(score["by_seed"]) / 3 == pytest.approx(cell.value)
    assert (ldm["seeds"], ldm["planned_seeds"]) == ([0, 1, 2], 3)
    tests = [t for pair in told["pairs"] for t in pair["tests"]]
    assert len(tests) == 3 * len(told["columns"]) and "Holm" in told["correction"]
    assert {t["verdict"] for t in tests if not t["distinguishable"]} == {"not distinguishable"}
    assert {front["cost"] for front in told["pareto_fronts"]} == {
        "train_flops", "seconds_per_image_best",
    }  # fmt: skip
    assert told["pairs"][0]["configuration"] and told["rank_probabilities"] and told["knob_fronts"]
    assert any("1 of 3 seeds" in sentence for sentence in told["cautions"])
