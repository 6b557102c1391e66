"""Rank probabilities and fronts, from run folders to the tables that print them."""

import csv
import io

import pytest
from run_folders import KEYS, write_run

from t2ibench.metrics.inference import hypervolume
from t2ibench.report.analysis import analyse
from t2ibench.report.formats import to_csv, to_markdown
from t2ibench.report.holes import gather
from t2ibench.report.ranking import (
    best_table,
    front_sentences,
    front_summaries,
    front_table,
    rankings,
)
from t2ibench.report.tables import leaderboard
from t2ibench.report.terminal import ranking_text


@pytest.fixture(scope="module")
def board(study):
    return leaderboard(gather(study)[0])


def test_one_seed_resamples_prompts_or_samples(board):
    found = {ranking.key: ranking for ranking in rankings(board)}
    assert found[KEYS["clip_score"]].basis == "prompts"
    assert found[KEYS["fd"]].basis == "samples"
    for ranking in found.values():
        shares = ranking.probabilities
        assert set(shares) == {"ldm", "vqgan_gpt", "gan_int_cls"}
        for rank in range(3):
            assert sum(row[rank] for row in shares.values()) == pytest.approx(1)
    fd = found[KEYS["fd"]]
    assert fd.best("ldm") > 0.95, "its distance is 10.5 below the next, three intervals away"
    assert fd.best("gan_int_cls") < 0.01 and fd.best("absent") is None


def test_several_seeds_resample_trainings(tmp_path):
    runs = [write_run(tmp_path, "diffusion/ldm", s) for s in range(3)]
    runs += [write_run(tmp_path, "gan/gan_int_cls", s) for s in range(3)]
    found = rankings(leaderboard(gather(runs)[0]))
    assert {ranking.basis for ranking in found} == {"training seeds"}


def test_fronts_are_summed_up_by_area_and_at_equal_alignment(board):
    summaries = {s.x_key: s for s in front_summaries(board)}
    summary = summaries[KEYS["clip_score"]]
    assert summary.y_key == KEYS["fd"]
    points = {
        group.label: [
            (p.scores[summary.x_key].value, p.scores[summary.y_key].value)
            for p in group.runs[0].scores.front
        ]
        for group in board.groups
    }
    x, y = zip(*[point for front in points.values() for point in front], strict=True)
    box = (max(x) - min(x)) * (max(y) - min(y))
    for label, front in points.items():
        area = hypervolume([(-a, b) for a, b in front], (-min(x), max(y)))
        assert summary.volumes[label] == pytest.approx(area / box)
    assert max(summary.volumes, key=summary.volumes.get) == "ldm"
    said = front_sentences([summary])
    assert len(said) == 3 and all(s.startswith("At equal CLIP-score (at least ") for s in said)
    assert KEYS["recall"] not in summaries, "precision against recall is not an alignment"


def test_every_format_shows_them(board):
    best, area = best_table(rankings(board), board), front_table(front_summaries(board))
    assert len(best) == 4 and len(area) == 4
    found = analyse(board)
    markdown, text = to_markdown(found), ranking_text(found, 200)
    for row in (best[1], area[1]):
        assert "| " + " | ".join(row) + " |" in markdown
        assert row[0] in text and row[1] in text
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    first = [r for r in rows if r["kind"] == "probability of rank 1" and r["key"] == KEYS["fd"]]
    assert sum(float(r["value"]) for r in first) == pytest.approx(1)
    assert {r["row"] for r in rows if r["kind"] == "front"} == {"ldm", "vqgan_gpt", "gan_int_cls"}


def test_one_model_has_no_rank(tmp_path):
    alone = leaderboard(gather([write_run(tmp_path, "gan/gan_int_cls", 0)])[0])
    assert rankings(alone) == [] and best_table([], alone) == []
    assert front_sentences(front_summaries(alone)) == []
