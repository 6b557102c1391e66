from run_folders import KEYS, rewritten, write_run

from t2ibench.reporting import gather, read_run
from t2ibench.reporting.render.charts import cost_charts
from t2ibench.reporting.statistics.leaderboard import build_leaderboard


def test_each_key_has_its_own_column(leaderboard):
    assert leaderboard.keys[:3] == (KEYS["fd"], KEYS["kid"], KEYS["fd2"])
    assert len(set(leaderboard.keys)) == len(leaderboard.keys)
    assert KEYS["density"] not in leaderboard.keys
    assert KEYS["density"] in leaderboard.all_keys


def test_another_protocol_makes_another_column(tmp_path, study):
    other = write_run(tmp_path, "diffusion/ldm", 5)
    text = (
        (other / "scores.json").read_text().replace("shapes/test:9f8e7d6c", "shapes/test:00000000")
    )
    (other / "scores.json").write_text(text)
    board = build_leaderboard([*gather(study)[0], read_run(other)])
    distances = [key for key in board.keys if key.startswith("kid[")]
    assert len(distances) == 2
    seeds = {
        group.label: [score and score.seeds for score in map(group.score, distances)]
        for group in board.groups
    }
    assert seeds == {"ldm": [3, 1], "vqgan_gpt": [1, None], "gan_int_cls": [1, None]}


def test_references_stand_under_the_models(leaderboard):
    assert [r.label for r in leaderboard.references] == [
        "Real vs real",
        "First stage of ldm",
        "First stage of vqgan_gpt",
        "Real images",
    ]
    assert leaderboard.references[0].score(KEYS["fd"]).value == 21.0


def floored(run, **changes):
    """The run with other fields of its floor's distance."""

    def change(scores):
        scores["reference"]["floor"][KEYS["fd"]] |= changes

    return rewritten(run, change)


def test_two_floors_under_one_key_are_two_rows(tmp_path):
    runs = [
        write_run(tmp_path, "diffusion/ldm", 0),
        write_run(tmp_path, "gan/gan_int_cls", 0),
        floored(write_run(tmp_path, "autoregressive/vqgan_gpt", 0), value=21.004),
    ]
    board = build_leaderboard(*gather(runs))
    assert [r.label for r in board.references if r.kind == "floor"] == ["Real vs real"]
    assert board.floor(KEYS["fd"]) == 21.0, "rounding makes no other floor"
    floored(runs[1], value=17.0)
    board = build_leaderboard(*gather(runs))
    first, second = (r for r in board.references if r.kind == "floor")
    assert [first.label, second.label] == ["Real vs real (1)", "Real vs real (2)"]
    assert {r.score(KEYS["fd"]).value for r in (first, second)} == {21.0, 17.0}
    other = first if first.score(KEYS["fd"]).value == 17.0 else second
    assert "As scored with gan_int_cls, unlike the others." in other.meaning
    assert board.floor(KEYS["fd"]) is None and cost_charts(board)[0].y_line is None


def test_a_first_stage_is_no_floor(tmp_path):
    def without(scores):
        del scores["reference"]["floor"]

    board = build_leaderboard(
        *gather([rewritten(write_run(tmp_path, "diffusion/ldm", 0), without)])
    )
    assert any(KEYS["fd"] in row.scores for row in board.references)
    assert cost_charts(board)[0].y_line is None


def test_rows_are_ordered_by_one_whole_key(tmp_path):
    """A row without it comes last, whatever it has under another key of the metric."""

    def without_main(scores):
        del scores["chosen"]["scores"][KEYS["fd"]]

    best = rewritten(write_run(tmp_path, "diffusion/ldm", 0), without_main)
    others = [write_run(tmp_path, m, 0) for m in ("gan/gan_int_cls", "autoregressive/vqgan_gpt")]
    two = build_leaderboard(*gather([best, others[0]]), sort="fd")
    assert two.groups[0].score(KEYS["fd2"]).value < two.groups[1].score(KEYS["fd2"]).value
    three = build_leaderboard(*gather([best, *others]), sort=KEYS["fd"])
    assert [group.label for group in three.groups] == ["vqgan_gpt", "gan_int_cls", "ldm"]
