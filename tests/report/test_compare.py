import numpy as np
import pytest
from run_folders import KEYS, write_run
from scipy.stats import ttest_ind

from t2ibench.metrics.bootstrap import paired_difference
from t2ibench.report.compare import (
    MetricDifference,
    compare,
    compare_all,
    configuration_difference,
    family_sentence,
    holm,
    leaders,
)
from t2ibench.report.groups import group_runs
from t2ibench.report.holes import gather
from t2ibench.report.tables import leaderboard
from t2ibench.report.terminal import comparison_text


def groups_of(runs):
    return {group.label: group for group in group_runs(gather(runs)[0])}


def test_means_are_compared_prompt_by_prompt(study):
    groups = groups_of(study)
    key = KEYS["clip_score"]
    (found,) = compare(groups["vqgan_gpt"], groups["gan_int_cls"], [key]).differences
    a, b = (groups[n].runs[0].image_values() for n in ("vqgan_gpt", "gan_int_cls"))
    expected = paired_difference(a.columns[key], b.columns[key], a.keys)
    assert found.method == "paired by prompt"
    assert (found.difference, found.low, found.high) == expected[:3]
    assert found.winner("vqgan_gpt", "gan_int_cls") == "vqgan_gpt"


def test_distances_are_compared_by_their_intervals(study):
    groups = groups_of(study)
    (found,) = compare(groups["vqgan_gpt"], groups["gan_int_cls"], [KEYS["fd"]]).differences
    assert found.method == "intervals"
    assert found.high - found.low == pytest.approx(2 * np.hypot(3.0, 3.0))
    assert found.winner("vqgan_gpt", "gan_int_cls") == "vqgan_gpt", "lower is better"


def test_several_seeds_use_welch(tmp_path):
    runs = [write_run(tmp_path, "diffusion/ldm", s) for s in range(4)]
    runs += [write_run(tmp_path, "gan/gan_int_cls", s) for s in range(4)]
    groups = groups_of(runs)
    key = KEYS["grader_exact"]
    comparison = compare(groups["ldm"], groups["gan_int_cls"], [key])
    (found,) = comparison.differences
    a, b = (
        [r.scores.chosen.scores[key].value for r in groups[n].runs] for n in ("ldm", "gan_int_cls")
    )
    expected = ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval()
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert comparison.caveat == ""


def test_seeds_that_do_not_differ_tell_no_spread(tmp_path):
    """Welch's t would call any gap certain; the prompts and intervals still say how sure it is."""
    runs = [write_run(tmp_path, m, s) for m in ("diffusion/ldm", "gan/gan_int_cls")
            for s in (0, 1)]  # fmt: skip
    groups = groups_of(runs)
    assert {group.cell(KEYS["fd"]).sd for group in groups.values()} == {0.0}
    (found,) = compare(groups["ldm"], groups["gan_int_cls"], [KEYS["fd"]]).differences
    assert found.method == "intervals" and found.low < found.difference < found.high


def test_one_seed_carries_its_caveat(study):
    groups = groups_of(study)
    caveat = compare(groups["ldm"], groups["gan_int_cls"], [KEYS["fd"]]).caveat
    assert "gan_int_cls 1 training seed:" in caveat and "not the families" in caveat


def test_equal_models_are_not_distinguishable(tmp_path):
    first = write_run(tmp_path / "a", "diffusion/ldm", 0)
    second = write_run(tmp_path / "b", "diffusion/ldm", 0, config={"lr": 1})
    (comparison,) = compare_all(leaderboard(gather([first, second])[0]))
    verdicts = {d.winner(comparison.first, comparison.second) for d in comparison.differences}
    assert verdicts == {"not distinguishable"}
    assert comparison.configuration == (("lr", "–", "1"),)
    assert "not distinguishable" in comparison_text([comparison])


def test_holm_matches_its_definition():
    raw = [0.01, 0.04, 0.03, 0.005]
    made = [MetricDifference(str(p), 0, 0, 0, 0, 0, p, "intervals") for p in raw]
    assert [d.adjusted for d in holm(made)] == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_is_over_every_pair_and_score_of_the_comparison(study):
    board = leaderboard(gather(study)[0])
    pairs = compare_all(board)
    every = [difference for pair in pairs for difference in pair.differences]
    assert len(pairs) == 3 and len(every) == 3 * len(board.columns)
    assert [d.adjusted for d in every] == [d.adjusted for d in holm(every)]
    smallest = min(d.p_value for d in every)
    assert min(d.adjusted for d in every) == pytest.approx(min(1, len(every) * smallest))
    text = family_sentence(pairs)
    assert f"all {len(every)} tests of this comparison (3 pairs, {len(board.columns)}" in text
    assert text in comparison_text(pairs, 400) and family_sentence([]) == ""


def test_a_large_family_still_tells_certain_differences_apart(tmp_path):
    """Random sign flips bound a p-value from below; the bound must survive the correction."""
    runs = [write_run(tmp_path / f"{i}", "diffusion/ldm", 0, config={"lr": i}) for i in range(7)]
    runs += [write_run(tmp_path / f"{i}", "gan/gan_int_cls", 0, config={"lr": i}) for i in range(7)]
    pairs = compare_all(leaderboard(gather(runs)[0]))
    assert sum(len(pair.differences) for pair in pairs) == 91 * 10
    across = [p for p in pairs if p.first.startswith("ldm") and p.second.startswith("gan")]
    told = [d for p in across for d in p.differences if d.key == KEYS["clip_score"]]
    assert len(told) == 49 and all(d.distinguishable for d in told)


def test_leaders_are_the_best_and_those_not_distinguishable_from_it(study):
    board = leaderboard(gather(study)[0])
    pairs = compare_all(board)
    found = leaders(board, pairs)
    for column in board.columns:
        sign = 1 if column.metric.better == "higher" else -1
        cells = {g.label: sign * g.cell(column.key).value for g in board.groups}
        best = max(cells, key=cells.get)
        tied = {
            ({p.first, p.second} - {best}).pop()
            for p in pairs
            for d in p.differences
            if best in (p.first, p.second) and d.key == column.key and not d.distinguishable
        }
        assert found[column.key] == {best} | tied
    assert found[KEYS["kid"]] == {"ldm"}


def test_a_row_with_fewer_seeds_is_a_caveat(study):
    groups = groups_of(study)
    caveat = compare(groups["vqgan_gpt"], groups["ldm"], [KEYS["fd"]]).caveat
    assert "vqgan_gpt has 1 of 3 seeds" in caveat


def test_different_prompts_are_not_paired(tmp_path):
    runs = [write_run(tmp_path, m, 0) for m in ("diffusion/ldm", "gan/gan_int_cls")]
    values = runs[0] / "samples" / "chosen" / "values.csv"
    values.write_text(values.read_text().replace("k5,", "other,"))
    groups = groups_of(runs)
    (found,) = compare(groups["ldm"], groups["gan_int_cls"], [KEYS["clip_score"]]).differences
    assert found.method == "intervals"


def test_configuration_differences_are_dotted_and_leave_out_seeds():
    first = {"seed": 0, "paths": {"runs": "a"}, "model": {"lr": 1, "net": {"width": 32}}}
    second = {
        "seed": 1,
        "paths": {"runs": "b"},
        "model": {"lr": 1, "net": {"width": 64}},
        "x": None,
    }
    assert configuration_difference(first, second) == [
        ("model.net.width", "32", "64"),
        ("x", "–", "None"),
    ]
