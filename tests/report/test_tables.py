import csv
import io
import math

import pytest
from run_folders import KEYS, write_run

from t2ibench.core.errors import RunError
from t2ibench.core.types import Score
from t2ibench.report.analysis import analyse, score_notes
from t2ibench.report.columns import flops_text, in_order, metric_of, seconds_text
from t2ibench.report.folders import read_run
from t2ibench.report.formats import parts_text, to_csv, to_markdown
from t2ibench.report.groups import aggregate
from t2ibench.report.holes import gather
from t2ibench.report.tables import leaderboard
from t2ibench.report.terminal import terminal_text


@pytest.fixture(scope="module")
def board(study):
    return leaderboard(gather(study)[0])


@pytest.fixture(scope="module")
def found(board):
    return analyse(board)


def score(value, key="fd[x]", half=1.0):
    return Score(value, 10, value - half, value + half, key)


def test_seeds_are_averaged_with_students_t():
    cell = aggregate([score(1.0), score(2.0), score(6.0)])
    assert (cell.value, cell.seeds, cell.basis) == (3.0, 3, "training seeds")
    assert aggregate([score(1.0)]).sd is None
    sd = math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 2)
    assert cell.sd == pytest.approx(sd)
    assert cell.high - cell.value == pytest.approx(4.302653 * sd / math.sqrt(3), rel=1e-6)
    assert cell.value - cell.low == pytest.approx(cell.high - cell.value)


def test_one_seed_shows_the_sampling_interval():
    cell = aggregate([score(2.0, half=0.25)])
    assert (cell.low, cell.high, cell.basis) == (1.75, 2.25, "samples")


def test_different_keys_are_never_averaged():
    with pytest.raises(RunError, match=r"fd\[x\], fd\[y\]"):
        aggregate([score(1.0), score(2.0, key="fd[y]")])


def test_runs_that_differ_in_seed_alone_share_a_row(board):
    assert [(g.label, g.seeds) for g in board.groups] == [
        ("ldm", 3),
        ("vqgan_gpt", 1),
        ("gan_int_cls", 1),
    ]


def test_each_key_has_its_own_column(board):
    assert [c.key for c in board.columns][:3] == [KEYS["fd"], KEYS["kid"], KEYS["fd2"]]
    assert len({c.key for c in board.columns}) == len(board.columns)
    assert KEYS["density"] not in [c.key for c in board.columns]
    assert KEYS["density"] in board.all_keys


def test_another_protocol_makes_another_column(tmp_path, study):
    other = write_run(tmp_path, "diffusion/ldm", 5)
    text = (
        (other / "scores.json").read_text().replace("shapes/test:9f8e7d6c", "shapes/test:00000000")
    )
    (other / "scores.json").write_text(text)
    board = leaderboard([*gather(study)[0], read_run(other)])
    distances = [c for c in board.columns if c.metric.name == "kid"]
    assert len(distances) == 2
    seeds = {
        group.label: [cell and cell.seeds for cell in map(group.cell, [c.key for c in distances])]
        for group in board.groups
    }
    assert seeds == {"ldm": [3, 1], "vqgan_gpt": [1, None], "gan_int_cls": [1, None]}


def test_a_changed_configuration_is_another_row(tmp_path):
    runs = [
        write_run(tmp_path, "diffusion/ldm", 0),
        write_run(tmp_path, "diffusion/ldm", 1, model={"conditioning": "concat"}),
        write_run(tmp_path, "diffusion/ldm", 2, config={"lr": 0.1}),
    ]
    board = leaderboard(gather(runs)[0])
    labels = {g.label for g in board.groups}
    assert len(labels) == 3
    assert "ldm (conditioning=concat)" in labels
    (ceiling,) = (r for r in board.references if r.label.startswith("First stage of"))
    assert ceiling.label.endswith(" and 2 more") and all(
        label in ceiling.meaning for label in labels
    )


def test_references_stand_under_the_models(board):
    assert [r.label for r in board.references] == [
        "Real vs real",
        "First stage of ldm",
        "First stage of vqgan_gpt",
        "Real images",
    ]
    assert board.references[0].cell(KEYS["fd"]).value == 21.0


def test_costs_include_the_first_stage(board):
    costs = {g.label: (g.training_flops, g.training_seconds, g.parameters) for g in board.groups}
    assert costs["ldm"] == (8e12, 175.0, 2_610_000)
    assert costs["gan_int_cls"] == (6e12, 130.0, 2_610_000)


def test_costs_are_told_by_part(board):
    told = {g.label: parts_text(g) for g in board.groups}
    assert told["gan_int_cls"] == "D 60, G 40"
    assert told["ldm"] == "network 71, stage 1 25, text 3"


def test_csv_keeps_every_digit_and_key(board, found):
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    scores = [r for r in rows if r["kind"] == "score" and r["key"] == KEYS["clip_score"]]
    (row,) = [r for r in scores if r["row"] == "ldm"]
    cell = next(g for g in board.groups if g.label == "ldm").cell(KEYS["clip_score"])
    assert float(row["value"]) == cell.value and float(row["sd"]) == cell.sd
    assert row["seeds"] == row["planned_seeds"] == "3"
    ranks = {f"probability of rank {rank}" for rank in (1, 2, 3)}
    assert {r["kind"] for r in rows} == {"score", "cost", "reference", "front", "pareto"} | ranks
    assert len({len(r) for r in rows}) == 1


def test_markdown_has_whole_tables_and_keys(board, found):
    text = to_markdown(found)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {
        len(board.columns) + 4, len(board.columns) + 2, 11, 4,
    }  # fmt: skip
    assert all(column.key in text for column in board.columns)
    assert "*Real vs real*" in text and "underdetermined" in text


def test_the_terminal_table_fits_140_columns(found):
    text = terminal_text(found, width=140)
    assert max(len(line) for line in text.splitlines()) <= 140
    for word in (
        "ldm",
        "3 seeds",
        "1 of 3 seeds",
        "sd 0.",
        "Real vs real",
        "FLOPs/image",
        "half the 95% interval",
    ):
        assert word in text
    assert "a = efficientnet-lite0-in1k" in text


def test_notes_name_the_scores_they_belong_to(board):
    (note,) = score_notes(board)
    assert note.startswith("underdetermined") and "ldm" in note and "gan_int_cls" in note


def test_missing_and_malformed_runs_are_named(tmp_path, study):
    with pytest.raises(RunError, match="no folder with scores.json"):
        gather([tmp_path])
    with pytest.raises(RunError, match="no folder with scores.json"):
        gather([])
    assert len(gather([study[0].parent])[0]) == len(study)
    assert len(gather([study[0], study[0].parent])[0]) == len(study)
    broken = write_run(tmp_path, "diffusion/ldm", 0)
    (broken / "config.yaml").write_text("a: [1")
    with pytest.raises(RunError, match="cannot be read"):
        read_run(broken)


def test_numbers_are_printed_to_three_digits():
    assert [flops_text(v) for v in (8e12, 2.5e9, None, 0)] == ["8.00e12", "2.50e9", "–", "–"]
    assert [seconds_text(v) for v in (0.003, 5.0, 300.0, 8000.0)] == [
        "3 ms", "5 s", "5 min", "2.22 h",
    ]  # fmt: skip
    assert metric_of("fd[x]").text(0.2612) == "0.261" and metric_of("fd[x]").text(54.52) == "54.5"
    assert metric_of("grader_size[x]").text(0.5) == "50.0"
    assert in_order(["kid[b]", "fd[a]", "kid[a]"]) == ["kid[b]", "fd[a]", "kid[a]"]
    assert in_order(["recall[b]", "kid[b]", "fd[b]"]) == ["fd[b]", "kid[b]", "recall[b]"]
