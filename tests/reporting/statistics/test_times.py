"""Sampling times: their spread beside them, and that nothing is ranked by a busy machine's."""

import csv
import io

import pytest
from run_folders import changed_scores, write_run

from t2ibench.core.errors import ScoreError
from t2ibench.evaluation.timing import Call, Latency
from t2ibench.reporting import analyse, gather, terminal_text
from t2ibench.reporting.render.charts import cost_charts
from t2ibench.reporting.render.content import Content
from t2ibench.reporting.render.csv_files import leaderboard_csv
from t2ibench.reporting.render.findings import findings
from t2ibench.reporting.render.json_document import document
from t2ibench.reporting.render.latex import escape, to_latex
from t2ibench.reporting.render.markdown import to_markdown
from t2ibench.reporting.render.page import render_page
from t2ibench.reporting.statistics.times import time_of

QUIET = (0.0520, 0.0521, 0.0522, 0.0523, 0.0524)
BUSY = (1.2, 1.5, 2.66, 3.0, 4.0)
BEST = "seconds_per_image_best"


def cost(seconds):
    """The part of ``cost`` that measuring so many calls of one image writes."""
    found = Latency.of(1, [Call(s, None) for s in seconds])
    return {
        "latency": found.to_dict(),
        "throughput": found.to_dict(),
        "seconds_per_image_batch_1": found.median,
        BEST: found.median,
        "busy": found.busy,
    }


def timed(root, model, seed, seconds):
    return changed_scores(write_run(root, model, seed), **cost(seconds))


@pytest.fixture(scope="module")
def beside_other_work(tmp_path_factory):
    """Of three models the GAN was timed on a busy machine, and one of two seeds of the LDM."""
    root = tmp_path_factory.mktemp("busy")
    busy_gan = tuple(s / 1e4 for s in BUSY)  # it would be the fastest by far
    runs = [
        timed(root, "diffusion/ldm", 0, QUIET),
        timed(root, "diffusion/ldm", 1, BUSY),
        timed(root, "gan/gan_int_cls", 0, busy_gan),
        timed(root, "autoregressive/vqgan_gpt", 0, [2 * s for s in QUIET]),
    ]
    return analyse(*gather(runs))


def test_a_time_is_that_of_the_quiet_runs():
    quiet, busy = cost(QUIET), cost(BUSY)
    time = time_of([quiet, busy], BEST)
    assert (time.seconds, time.runs, time.busy, time.left_out) == (0.0522, 1, "", 1)
    assert time.iqr == pytest.approx(0.0002)
    alone = time_of([busy, busy], BEST)
    assert (alone.seconds, alone.runs, alone.left_out) == (2.66, 2, 0)
    assert alone.busy == busy["busy"] != ""
    assert time_of([{}, {BEST: None}], BEST) is None


def test_the_mark_of_the_whole_measurement_stands_for_a_time_without_its_own():
    assert time_of([{BEST: 1.0, "busy": "so it was"}], BEST).busy == "so it was"
    assert time_of([{BEST: 1.0, "throughput": ["no mapping"]}], BEST).busy == ""


def test_nothing_is_ranked_by_a_busy_machines_time(beside_other_work):
    groups = {group.label: group for group in beside_other_work.leaderboard.groups}
    assert groups["gan_int_cls"].cost(BEST) < groups["ldm"].cost(BEST) == 0.0522
    fastest = next(f for f in findings(beside_other_work) if f.question == "Fastest to sample")
    assert fastest.leader == "ldm"
    assert fastest.sentence.endswith("Not ranked, timed on a busy machine: gan_int_cls.")
    fronts = {front.cost: front for front in beside_other_work.pareto_fronts}
    assert {point.label for point in fronts[BEST].points} == {"ldm", "vqgan_gpt"}
    assert "gan_int_cls" in {point.label for point in fronts["train_flops"].points}
    standings = {row.label: row.cells[-1].text for row in Content(beside_other_work).pareto.rows}
    assert standings["gan_int_cls"] == "not ranked: busy machine"
    (chart,) = (c for c in cost_charts(beside_other_work.leaderboard) if "time" in c.title)
    assert {s.points[0].label for s in chart.series} == {
        "ldm", "vqgan_gpt", "gan_int_cls, busy machine",
    }  # fmt: skip


def test_rows_are_not_sorted_by_a_busy_machines_time(tmp_path):
    runs = [timed(tmp_path, "diffusion/ldm", 0, QUIET)]
    runs.append(timed(tmp_path, "gan/gan_int_cls", 0, [s / 1e4 for s in BUSY]))
    found = analyse(*gather(runs), sort=BEST)
    assert [group.label for group in found.leaderboard.groups] == ["ldm", "gan_int_cls"]
    with pytest.raises(ScoreError, match=f"sort={BEST} is marked busy.*remove RUN/scores.json"):
        analyse(*gather(runs[1:]), sort=BEST)


def plain(text):
    """Blanks of any kind as one blank."""
    return " ".join(text.split())


RENDERERS = {
    "terminal": lambda content: plain(terminal_text(content.analysis, 1000)),
    "Markdown": lambda content: plain(to_markdown(content)),
    "LaTeX": lambda content: plain(to_latex(content)),
    "page": lambda content: plain(render_page(content, "t")),
}
SHOWN = {
    "terminal": ("52.2 ms* ± 0.1 ms 1 of 2 seeds", "0.266 ms* ± 0.075 ms"),
    "Markdown": (r"| 52.2 ms ± 0.1 ms\* (1 of 2 seeds) |", r"| 0.266 ms ± 0.075 ms\* |"),
    "LaTeX": (r"52.2 ms$^*$ {\tiny $\pm$\,0.1 ms} (1 of 2 seeds)", "0.266 ms$^*$ {"),
    "page": ("<td>52.2 ms<abbr title=", "*</abbr><small>± 0.075 ms</small>"),
}


@pytest.mark.parametrize("name", RENDERERS)
def test_every_renderer_shows_the_spread_and_the_mark(beside_other_work, name):
    content = Content(beside_other_work)
    text = RENDERERS[name](content)
    for shown in SHOWN[name]:
        assert shown in text, shown
    left_out, busy = content.cost_notes
    assert busy == (
        "the machine was busy, so nothing is ranked by this time: Time/image, batch 1, "
        "gan_int_cls; Time/image, best, gan_int_cls."
    )
    assert "left out of this time: Time/image, batch 1, ldm" in left_out
    for sentence in (busy, left_out, *content.costs.notes):
        assert (escape(sentence) if name == "LaTeX" else sentence) in text


def test_files_for_programs_hold_the_spread_and_the_mark(beside_other_work):
    content = Content(beside_other_work)
    costs = {model["label"]: model["cost"] for model in document(content)["models"]}
    assert costs["ldm"][f"{BEST}_iqr"] == pytest.approx(0.0002)
    assert costs["ldm"][f"{BEST}_busy"] is None
    assert costs["gan_int_cls"][f"{BEST}_busy"].endswith("the spread is 56% of the median")
    lines = csv.DictReader(io.StringIO(leaderboard_csv(content)))
    found = {(r["row"], r["quantity"]): r for r in lines if r["kind"] == "cost"}
    assert float(found["ldm", f"{BEST}_iqr"]["value"]) == pytest.approx(0.0002)
    assert "the machine was busy" in found["gan_int_cls", BEST]["note"]
    assert found["ldm", BEST]["seeds"] == "1"
