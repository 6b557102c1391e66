"""A reader of many runs asks for some of them, in an order."""

import pytest
from run_folders import KEYS, MODELS, unscored, write_run

from t2ibench.cli.main import main
from t2ibench.core.errors import ConfigError, ScoreError
from t2ibench.reporting import analyse, gather, kept_runs
from t2ibench.reporting.render.terminal import MOST_PAIRS, verdict_text


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("", 5),
        ("family=diffusion", 3),
        ("name=vq*|gan_*", 2),
        ("family=diffusion,seed=0|2", 2),
        ("model.training.batch_size=32", 1),
    ],
)
def test_conditions_on_facts_and_settings(study, asked, kept):
    assert len(kept_runs(*gather(study), asked)[0]) == kept


def test_missing_runs_are_kept_by_the_same_conditions(tmp_path):
    for model in MODELS:
        write_run(tmp_path, model, 0)
        unscored(write_run(tmp_path, model, 1), "failed")
    scored, missing = kept_runs(*gather([tmp_path]), "name=ldm")
    assert [r.name for r in scored] == ["ldm"] and [r.model for r in missing] == ["ldm"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("family", "must be NAME=VALUE"),
        ("famly=gan", "where=famly names nothing that a run here has; it is one of conditioning"),
        ("family=nothing", "leaves none of 5 runs"),
    ],
)
def test_a_condition_that_asks_nothing_is_refused(study, asked, said):
    with pytest.raises(ConfigError, match=said):
        kept_runs(*gather(study), asked)


def test_rows_are_sorted_by_a_score_or_a_cost(study, capsys):
    runs = gather(study)[0]
    by_time = analyse(runs, sort="seconds_per_image_best").leaderboard.groups
    assert [g.label for g in by_time] == ["gan_int_cls", "ldm", "vqgan_gpt"]
    worst = analyse(runs, sort="kid").leaderboard.groups
    assert [g.label for g in worst] == ["ldm", "vqgan_gpt", "gan_int_cls"]
    with pytest.raises(ScoreError, match="sort=speed is measured of no row; choose clip_score"):
        analyse(runs, sort="speed")
    typed = ["compare", *map(str, study), "where=name=ldm|gan*", "sort=train_flops"]
    assert main([*typed, "metric=fd"]) == 0
    printed = capsys.readouterr().out
    assert "vqgan_gpt" not in printed and printed.index("gan_int_cls") < printed.index("ldm")


def test_a_page_of_some_runs(study, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["report", *map(str, study), f"out={out}", "where=family=gan"]) == 0
    capsys.readouterr()
    page = out.read_text("utf-8")
    assert "gan_int_cls" in page and "vqgan_gpt" not in page


def test_of_many_pairs_a_terminal_shows_those_with_the_first_row(tmp_path):
    runs = [write_run(tmp_path, "diffusion/ldm", 0, config={"lr": i}).rename(tmp_path / f"m-{i}")
            for i in range(8)]  # fmt: skip
    found = analyse(*gather(runs), metrics=[KEYS["fd"]])
    assert len(found.pairs) == 28 > MOST_PAIRS
    printed = verdict_text(found, 140)
    first = found.leaderboard.groups[0].label
    assert printed.count(f"{first} against ") == 7
    assert f"Printed: the pairs with {first}. out=FOLDER writes all 28" in printed
