"""Runs become rows, and their scores one score a row."""

import math

import numpy as np
import pytest
from run_folders import rewritten, unscored, write_run

from t2ibench.core.errors import RunError
from t2ibench.core.files import read_json, write_json
from t2ibench.core.types import Score
from t2ibench.metrics.alignment import fold_estimate
from t2ibench.reporting import gather
from t2ibench.reporting.render.sentences import repeat_sentences
from t2ibench.reporting.statistics.groups import aggregate, group_runs
from t2ibench.reporting.statistics.leaderboard import build_leaderboard


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


def test_equal_seeds_have_no_spread_whatever_rounding_makes_of_their_mean():
    """0.1 + 0.1 + 0.1 is not 3 x 0.1, so that a computed deviation would be 1e-17."""
    cell = aggregate([score(0.1)] * 3)
    assert (cell.value, cell.low, cell.high, cell.sd) == (0.1, 0.1, 0.1, 0.0)


def test_one_seed_shows_the_sampling_interval():
    cell = aggregate([score(2.0, half=0.25)])
    assert (cell.low, cell.high, cell.basis) == (1.75, 2.25, "samples")


def test_different_keys_are_never_averaged():
    with pytest.raises(RunError, match=r"fd\[x\], fd\[y\]"):
        aggregate([score(1.0), score(2.0, key="fd[y]")])


def test_runs_that_differ_in_seed_alone_share_a_row(leaderboard):
    assert [(g.label, g.seeds) for g in leaderboard.groups] == [
        ("ldm", 3),
        ("vqgan_gpt", 1),
        ("gan_int_cls", 1),
    ]


def test_a_changed_configuration_is_another_row(tmp_path):
    runs = [
        write_run(tmp_path, "diffusion/ldm", 0),
        write_run(tmp_path, "diffusion/ldm", 1, model={"conditioning": "concat"}),
        write_run(tmp_path, "diffusion/ldm", 2, config={"lr": 0.1}),
    ]
    board = build_leaderboard(gather(runs)[0])
    labels = {g.label for g in board.groups}
    assert len(labels) == 3
    assert "ldm (conditioning=concat)" in labels
    (ceiling,) = (r for r in board.references if r.label.startswith("First stage of"))
    assert ceiling.label.endswith(" and 2 more") and all(
        label in ceiling.meaning for label in labels
    )


def test_costs_include_the_first_stage(leaderboard):
    costs = {
        g.label: (g.training_flops, g.training_seconds, g.parameters) for g in leaderboard.groups
    }
    assert costs["ldm"] == (8e12, 175.0, 2_610_000)
    assert costs["gan_int_cls"] == (6e12, 130.0, 2_610_000)


def test_origin_and_extras_change_no_group_and_no_label(tmp_path):
    """A run that was scored before they were recorded stays with its other seeds."""
    words = {"origin": "own", "given": ["word labels"]}
    runs = [
        write_run(tmp_path, "diffusion/ldm", 0),
        write_run(tmp_path, "diffusion/ldm", 1, model=words),
        write_run(tmp_path, "diffusion/ldm", 2, model=words | {"conditioning": "concat"}),
    ]
    found = {g.label: (g.seeds, g.origin, g.given) for g in group_runs(gather(runs)[0])}
    assert found == {
        "ldm (conditioning=cross_attention)": (2, "own", ("word labels",)),
        "ldm (conditioning=concat)": (1, "own", ("word labels",)),
    }


def test_external_images_have_no_origin(tmp_path):
    external = {"family": "external", "origin": "paper"}
    (group,) = group_runs(gather([write_run(tmp_path, "gan/gan_int_cls", 0, model=external)])[0])
    assert group.origin == "" and group.given == ()


def test_labels_are_unique_whatever_the_folders_are_called(tmp_path):
    runs = [
        write_run(tmp_path / str(lr), "diffusion/ldm", seed, config={"lr": lr})
        for lr, seed in ((1, 0), (2, 0), (3, 4))
    ]
    labels = [group.label for group in group_runs(gather(runs)[0])]
    assert labels == ["ldm [1/ldm-di000000]", "ldm [2/ldm-di000000]", "ldm [di000004]"]


def external(path, name="images", seed=0):
    """A folder of somebody's images, as it lies when it was scored."""
    model = {"family": "external", "name": name}
    run = write_run(path, "gan/gan_int_cls", seed, model=model)
    (run / "config.yaml").unlink()
    (run / "manifest.json").unlink()
    return run.rename(path / "images")


def test_folders_of_one_name_are_rows_of_their_own(tmp_path):
    """They were once averaged as two training seeds of one model."""
    runs = [external(tmp_path / name) for name in ("model A", "model B")]
    board = build_leaderboard(gather(runs)[0])
    assert {(g.label, g.seeds) for g in board.groups} == {
        ("images (external) [model A/images]", 1),
        ("images (external) [model B/images]", 1),
    }
    (said,) = repeat_sentences(board)
    assert "which are not two trainings: they are not averaged" in said


def test_images_that_are_said_to_be_seeds_share_a_row(tmp_path):
    runs = [external(tmp_path / str(seed), "lab/v1.0", seed) for seed in range(3)]
    (group,) = group_runs(gather(runs)[0])
    assert (group.label, group.seeds) == ("lab/v1.0 (external)", 3), "the whole name"


def test_two_runs_of_one_seed_are_never_two_seeds(tmp_path):
    """Three seeds, one of them trained again elsewhere."""
    runs = [write_run(tmp_path / "here", "diffusion/ldm", s) for s in range(3)]
    runs.append(write_run(tmp_path / "there", "diffusion/ldm", 1))
    groups = group_runs(gather(runs)[0])
    assert [(g.seeds, [r.path.parent.name for r in g.runs]) for g in groups] == [
        (3, ["here"] * 3),
        (1, ["there"]),
    ]
    assert len({g.label for g in groups}) == 2


def test_a_missing_run_of_a_scored_seed_is_not_missing(tmp_path):
    scored = [write_run(tmp_path / "here", "diffusion/ldm", s) for s in range(2)]
    again = unscored(write_run(tmp_path / "there", "diffusion/ldm", 1), "failed")
    (group,) = group_runs(*gather([*scored, again]))
    assert (group.seeds, group.planned, group.missing) == (2, 2, ())


def test_runs_of_other_precision_are_other_rows(tmp_path):
    """As the manifest tells: ``auto`` was bfloat16 on one machine, float32 on another."""
    auto = {"trainer": {"precision": "auto"}}
    runs = [write_run(tmp_path / str(s), "diffusion/ldm", s, config=auto) for s in range(3)]
    for run, precision in zip(runs, ("32-true", "bf16-mixed", "bf16-mixed"), strict=True):
        manifest = read_json(run / "manifest.json")
        write_json(run / "manifest.json", manifest | {"device": {"training_precision": precision}})
    groups = group_runs(gather(runs)[0])
    assert [(g.label, g.seeds) for g in groups] == [
        ("ldm (precision=32-true)", 1),
        ("ldm (precision=bf16-mixed)", 2),
    ]
    settings = [g.runs[0].settings["trainer.precision"] for g in groups]
    assert settings == ["32-true", "bf16-mixed"], "and the pair's differences say so"


def test_two_models_of_one_short_name_show_the_whole(tmp_path):
    runs = [
        write_run(tmp_path / family, "diffusion/ldm", 0, model={"name": f"{family}/fast"})
        for family in ("gan", "diffusion")
    ]
    assert {g.label for g in group_runs(gather(runs)[0])} == {"gan/fast", "diffusion/fast"}


def test_a_mean_over_folds_rests_on_its_folds(tmp_path):
    key = "r_precision_folds[clip@4|ab|prompts:cd|1000|1-of-100|10-folds]"
    hits = np.random.default_rng(0).random(1000).round()
    made = fold_estimate(hits, 10)

    def change(scores):
        scores["chosen"]["scores"][key] = Score(*made[:1], 1000, *made[1:3], key).to_dict()

    (group,) = group_runs(gather([rewritten(write_run(tmp_path, "diffusion/ldm", 0), change)])[0])
    error, df = group.sampling_error(key)
    means = hits.reshape(10, 100).mean(1)
    assert (error, df) == (pytest.approx(means.std(ddof=1) / 10**0.5), 9)
