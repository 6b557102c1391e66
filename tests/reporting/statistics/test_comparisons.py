import csv
import warnings

import numpy as np
import pytest
from run_folders import KEYS, write_run
from scipy.stats import t, ttest_ind

from t2ibench.core.files import read_json, write_json
from t2ibench.metrics.behrens_fisher import behrens_fisher_half_widths, behrens_fisher_p_values
from t2ibench.metrics.bootstrap import HALF_SAMPLES, bootstrap_mean
from t2ibench.metrics.inference import sign_flip_p_value
from t2ibench.reporting import analyse, gather, read_run
from t2ibench.reporting.render.sentences import correction_sentence
from t2ibench.reporting.render.terminal import verdict_text
from t2ibench.reporting.statistics.comparisons import compare_groups, differing_settings, leaders
from t2ibench.reporting.statistics.differences import MetricDifference, holm
from t2ibench.reporting.statistics.groups import group_runs
from t2ibench.reporting.statistics.metrics import metric_of


def groups_of(runs):
    return {group.label: group for group in group_runs(gather(runs)[0])}


def compare(first, second, keys):
    return compare_groups((first, second), keys)[0]


def test_means_are_compared_prompt_by_prompt(study):
    groups = groups_of(study)
    key = KEYS["clip_score"]
    (found,) = compare(groups["vqgan_gpt"], groups["gan_int_cls"], [key]).differences
    a, b = (groups[n].runs[0].image_values for n in ("vqgan_gpt", "gan_int_cls"))
    expected = bootstrap_mean(a.columns[key] - b.columns[key], a.keys)
    assert found.method == "paired by prompt"
    assert (found.difference, found.low, found.high) == pytest.approx(expected[:3], abs=1e-12)
    assert found.p_value == sign_flip_p_value(a.columns[key], b.columns[key], a.keys)
    assert found.winner("vqgan_gpt", "gan_int_cls") == "vqgan_gpt"


def test_distances_are_compared_by_their_intervals(study):
    groups = groups_of(study)
    (found,) = compare(groups["vqgan_gpt"], groups["gan_int_cls"], [KEYS["fd"]]).differences
    sd = np.array([3.0]) / t.ppf(0.975, HALF_SAMPLES["fd"] - 1)
    half = behrens_fisher_half_widths(sd, sd, 7, 7)[0]
    p_value = behrens_fisher_p_values(np.array([found.difference]), sd, sd, 7, 7)
    assert found.method == "intervals"
    assert found.high - found.low == pytest.approx(2 * half, rel=1e-4)
    assert found.p_value == pytest.approx(float(p_value[0]))
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
    text = correction_sentence(analyse(*gather(runs)))
    assert text.endswith("spread many times as much as the other's.") and "Welch's t" in text


def test_seeds_that_do_not_differ_tell_no_spread(tmp_path):
    """Welch's t would call any gap certain; the prompts and intervals still say how sure it is."""
    runs = [write_run(tmp_path, m, s) for m in ("diffusion/ldm", "gan/gan_int_cls")
            for s in (0, 1)]  # fmt: skip
    groups = groups_of(runs)
    assert {group.score(KEYS["fd"]).sd for group in groups.values()} == {0.0}
    (found,) = compare(groups["ldm"], groups["gan_int_cls"], [KEYS["fd"]]).differences
    assert found.method == "intervals" and found.low < found.difference < found.high


def test_one_seed_carries_its_caveat(study):
    groups = groups_of(study)
    caveat = compare(groups["vqgan_gpt"], groups["gan_int_cls"], [KEYS["fd"]]).caveat
    assert "gan_int_cls 1 training seed:" in caveat and "not the families" in caveat
    uneven = compare(groups["ldm"], groups["gan_int_cls"], [KEYS["fd"]]).caveat
    assert "gan_int_cls has 1 training seed and ldm 3: its trainings are taken to" in uneven


def test_equal_models_are_not_distinguishable(tmp_path):
    first = write_run(tmp_path / "a", "diffusion/ldm", 0)
    second = write_run(tmp_path / "b", "diffusion/ldm", 0, config={"lr": 1})
    found = analyse(*gather([first, second]))
    (comparison,) = found.pairs
    verdicts = {d.winner(comparison.first, comparison.second) for d in comparison.differences}
    assert verdicts == {"not distinguishable"}
    assert comparison.configuration == (("lr", "–", "1"),)
    assert "not distinguishable" in verdict_text(found)


def test_holm_matches_its_definition():
    raw = [0.01, 0.04, 0.03, 0.005]
    made = [MetricDifference(str(p), 0, 0, 0, 0, 0, p, "intervals") for p in raw]
    assert [d.adjusted for d in holm(made)] == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_is_over_every_pair_and_score_of_the_comparison(analysis, tmp_path):
    pairs, keys = analysis.pairs, analysis.leaderboard.keys
    every = [difference for pair in pairs for difference in pair.differences]
    assert len(pairs) == 3 and len(every) == 3 * len(keys)
    assert [d.adjusted for d in every] == [d.adjusted for d in holm(every)]
    smallest = min(d.p_value for d in every)
    assert min(d.adjusted for d in every) == pytest.approx(min(1, len(every) * smallest))
    text = correction_sentence(analysis)
    assert f"all {len(every)} tests of this comparison (3 pairs, {len(keys)}" in text
    assert text in verdict_text(analysis, 400) and text.endswith("is wrong is at most 5%.")
    alone = analyse(*gather([write_run(tmp_path, "gan/gan_int_cls", 0)]))
    assert correction_sentence(alone) == ""


def test_a_large_family_still_tells_certain_differences_apart(tmp_path):
    """Random sign flips bound a p-value from below; the bound must survive the correction."""
    runs = [write_run(tmp_path / f"{i}", "diffusion/ldm", 0, config={"lr": i}) for i in range(7)]
    runs += [write_run(tmp_path / f"{i}", "gan/gan_int_cls", 0, config={"lr": i}) for i in range(7)]
    pairs = analyse(*gather(runs)).pairs
    assert sum(len(pair.differences) for pair in pairs) == 91 * 10
    across = [p for p in pairs if p.first.startswith("ldm") and p.second.startswith("gan")]
    told = [d for p in across for d in p.differences if d.key == KEYS["clip_score"]]
    assert len(told) == 49 and all(d.distinguishable for d in told)


def test_leaders_are_the_best_and_those_not_distinguishable_from_it(analysis):
    board, pairs = analysis.leaderboard, analysis.pairs
    found = leaders(board, pairs)
    for key in board.keys:
        values = {g.label: metric_of(key).sign * g.score(key).value for g in board.groups}
        best = max(values, key=values.get)
        tied = {
            ({p.first, p.second} - {best}).pop()
            for p in pairs
            for d in p.differences
            if best in (p.first, p.second) and d.key == key and not d.distinguishable
        }
        assert found[key] == {best} | tied
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


def test_configuration_differences_are_dotted_and_leave_out_seeds(tmp_path):
    first = {"paths": {"runs": "a"}, "model": {"lr": 1, "net": {"width": 32}}}
    second = {"paths": {"runs": "b"}, "model": {"lr": 1, "net": {"width": 64}}, "x": None}
    a, b = (
        read_run(write_run(tmp_path / str(seed), "diffusion/ldm", seed, config=config))
        for seed, config in enumerate((first, second))
    )
    assert differing_settings(a.settings, b.settings) == [
        ("model.net.width", "32", "64"),
        ("x", "–", "None"),
    ]


def test_one_call_of_welch_answers_as_a_call_a_test(tmp_path):
    """Several groups, one of them with seeds that agree exactly."""
    runs = [write_run(tmp_path, "diffusion/ldm", s) for s in range(3)]
    runs += [write_run(tmp_path, "gan/gan_int_cls", s) for s in range(3)]
    runs += [write_run(tmp_path, "autoregressive/vqgan_gpt", s) for s in range(3)]
    for run in runs[:3]:
        scores = read_json(run / "scores.json")
        scores["chosen"]["scores"][KEYS["r_precision"]]["value"] = 0.5
        write_json(run / "scores.json", scores)
    groups = groups_of(runs)
    keys = [KEYS["grader_exact"], KEYS["r_precision"], KEYS["clip_score"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare_groups(list(groups.values()), keys)
    tests = [(pair, d) for pair in found for d in pair.differences]
    assert len(tests) == 9 and {d.method for _, d in tests} == {"training seeds (Welch)"}
    for pair, difference in tests:
        a, b = (groups[n].seed_values(difference.key) for n in (pair.first, pair.second))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = ttest_ind(a, b, equal_var=False)
        interval = expected.confidence_interval()
        assert difference.p_value == pytest.approx(expected.pvalue)
        assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))


def with_values(run, key, value, half=0.05):
    """The run with another score, the images that make it up included."""
    file = run / "samples" / "chosen" / "values.csv"
    header, *rows = list(csv.reader(file.open(newline="")))
    hits = np.random.default_rng(int(1000 * value)).permutation(len(rows)) < value * len(rows)
    for row, hit in zip(rows, hits, strict=True):
        row[header.index(key)] = str(float(hit))
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([header, *rows])
    scores = read_json(run / "scores.json")
    found = {"value": float(hits.mean()), "ci_low": value - half, "ci_high": value + half}
    scores["chosen"]["scores"][key] |= found
    write_json(run / "scores.json", scores)
    return run


def test_one_training_against_several_counts_all_of_them(tmp_path):
    """.9, .1 and .1 against .5: the first seeds alone once made the three better, p = .0002."""
    key = KEYS["grader_exact"]
    for seed, value in enumerate((0.9, 0.1, 0.1)):
        with_values(write_run(tmp_path, "diffusion/ldm", seed), key, value)
    with_values(write_run(tmp_path, "gan/gan_int_cls", 0), key, 0.5)
    found = analyse(*gather([tmp_path]), metrics=["grader_exact"])
    (difference,) = found.pairs[0].differences
    assert difference.method == "one training against several (t)"
    assert not difference.distinguishable and difference.p_value > 0.5
    a, b = (group.seed_values(key) for group in groups_of([tmp_path]).values())
    several, one = (a, b) if len(a) > 1 else (b, a)
    pooled = ttest_ind(several, one)
    assert difference.p_value == pytest.approx(pooled.pvalue), "Student's t with one of one"
    (ranking,) = found.rankings
    assert ranking.basis == "prompts" and ranking.probabilities["gan_int_cls"][0] > 0.9


def test_unequal_numbers_of_seeds_use_behrens_fisher(tmp_path):
    runs = [write_run(tmp_path, "diffusion/ldm", s) for s in range(4)]
    runs += [write_run(tmp_path, "gan/gan_int_cls", s) for s in range(2)]
    groups, key = groups_of(runs), KEYS["clip_score"]
    (found,) = compare(groups["ldm"], groups["gan_int_cls"], [key]).differences
    values = [groups[name].seed_values(key) for name in ("ldm", "gan_int_cls")]
    errors = [np.array([v.std(ddof=1) / len(v) ** 0.5]) for v in values]
    gap = np.array([values[0].mean() - values[1].mean()])
    assert found.method == "training seeds (Behrens-Fisher)"
    assert found.p_value == pytest.approx(behrens_fisher_p_values(gap, *errors, 3, 1)[0])
    assert found.p_value > ttest_ind(*values, equal_var=False).pvalue


def test_seeds_that_do_not_differ_are_compared_by_all_of_them(tmp_path):
    """Prompt by prompt over the means of all runs, not over the first ones'."""
    key = KEYS["grader_exact"]
    for model, value in (("diffusion/ldm", 0.5), ("gan/gan_int_cls", 0.25)):
        for seed in (0, 1):
            with_values(write_run(tmp_path, model, seed), key, value)
    groups = groups_of([tmp_path])
    (found,) = compare(groups["ldm"], groups["gan_int_cls"], [key]).differences
    means = [
        np.mean([run.image_values.columns[key] for run in groups[name].runs], axis=0)
        for name in ("ldm", "gan_int_cls")
    ]
    keys = groups["ldm"].runs[0].image_values.keys
    assert found.method == "paired by prompt"
    assert found.p_value == sign_flip_p_value(*means, keys)
