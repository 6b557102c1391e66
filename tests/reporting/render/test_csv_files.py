import csv
import io

from run_folders import KEYS

from t2ibench.reporting.render.csv_files import comparisons_csv, leaderboard_csv


def test_csv_keeps_every_digit_and_key(leaderboard, content):
    rows = list(csv.DictReader(io.StringIO(leaderboard_csv(content))))
    scores = [r for r in rows if r["kind"] == "score" and r["key"] == KEYS["clip_score"]]
    (row,) = [r for r in scores if r["row"] == "ldm"]
    cell = next(g for g in leaderboard.groups if g.label == "ldm").score(KEYS["clip_score"])
    assert float(row["value"]) == cell.value and float(row["sd"]) == cell.sd
    assert row["seeds"] == row["planned_seeds"] == "3"
    ranks = {f"probability of rank {rank}" for rank in (1, 2, 3)}
    assert {r["kind"] for r in rows} == {"score", "cost", "reference", "front", "pareto"} | ranks
    assert len({len(r) for r in rows}) == 1


def test_comparisons_csv_has_a_line_a_pair_and_score(analysis, content):
    rows = list(csv.DictReader(io.StringIO(comparisons_csv(content))))
    assert len(rows) == sum(len(pair.differences) for pair in analysis.pairs)
    first = analysis.pairs[0].differences[0]
    assert float(rows[0]["p_holm"]) == first.adjusted and rows[0]["key"] == first.key
    assert rows[0]["first_seeds"] == "3 seeds" and rows[0]["second_seeds"] == "1 of 3 seeds"
