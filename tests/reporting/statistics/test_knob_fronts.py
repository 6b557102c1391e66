"""Fronts of quality against alignment, from run folders."""

import numpy as np
import pytest
from run_folders import KEYS, write_run

from t2ibench.metrics.inference import hypervolume
from t2ibench.reporting import analyse, gather
from t2ibench.reporting.render.standing_tables import front_sentences


def test_fronts_are_summed_up_by_area_and_at_equal_alignment(analysis):
    summaries = {s.x_key: s for s in analysis.knob_fronts}
    summary = summaries[KEYS["clip_score"]]
    assert summary.y_key == KEYS["fd"]
    axes = (summary.x_key, summary.y_key)
    points = {
        group.label: [
            tuple(np.mean([p.scores[key].value for p in of_seeds]) for key in axes)
            for of_seeds in zip(*(run.scores.front for run in group.runs), strict=True)
        ]
        for group in analysis.leaderboard.groups
    }
    x, y = zip(*[point for front in points.values() for point in front], strict=True)
    box = (max(x) - min(x)) * (max(y) - min(y))
    for label, front in points.items():
        area = hypervolume([(-a, b) for a, b in front], (-min(x), max(y)))
        assert summary.volumes[label] == pytest.approx(area / box)
    assert max(summary.volumes, key=summary.volumes.get) == "ldm"
    said = front_sentences(summary)
    assert len(said) == 3 and all(s.startswith("At equal CLIP-score (at least ") for s in said)
    assert KEYS["recall"] not in summaries, "precision against recall is not an alignment"


def test_one_model_has_nobody_to_compare_its_front_with(tmp_path):
    (fronts, _) = analyse(*gather([write_run(tmp_path, "gan/gan_int_cls", 0)])).knob_fronts
    assert set(fronts.volumes) == {"gan_int_cls"} and front_sentences(fronts) == []
