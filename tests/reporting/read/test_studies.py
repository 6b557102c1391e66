"""Failed, interrupted and absent runs are marked, never averaged over in silence."""

import json

import pytest
from run_folders import KEYS, MODELS, unscored, write_ledger, write_run

from t2ibench.core.errors import RunError
from t2ibench.core.files import read_json, write_json
from t2ibench.reporting import analyse, gather, read_study, terminal_text
from t2ibench.reporting.render.content import Content
from t2ibench.reporting.render.json_document import document
from t2ibench.reporting.render.markdown import to_markdown


def test_a_failed_seed_marks_its_row(incomplete):
    found = analyse(*gather([incomplete]))
    rows = {group.label: group for group in found.leaderboard.groups}
    assert rows["ldm"].seeds_text == "3 seeds" and rows["gan_int_cls"].seeds_text == "2 of 3 seeds"
    assert rows["gan_int_cls"].score(KEYS["fd"]).seeds == 2
    assert Content(found).missing == (
        "gan_int_cls has 2 of 3 seeds: seed 2 failed: CUDA out of memory.",
    )
    assert "gan_int_cls has 2 of 3 seeds" in found.pairs[0].caveat
    content = Content(found)
    for text in (
        terminal_text(found, 160),
        to_markdown(content),
        json.dumps(document(content)),
    ):
        assert "2 of 3" in text and "CUDA out of memory" in text and "Traceback" not in text


def test_a_seed_that_others_have_marks_a_row(tmp_path):
    for model, seeds in zip(MODELS, (3, 2), strict=True):
        for seed in range(seeds):
            write_run(tmp_path, model, seed)
    assert Content(analyse(*gather([tmp_path]))).missing == (
        "gan_int_cls has 2 of 3 seeds: other rows have more.",
    )


def test_a_score_of_fewer_seeds_than_its_row_is_marked(tmp_path):
    runs = [write_run(tmp_path, "diffusion/ldm", seed) for seed in range(3)]
    scores = read_json(runs[2] / "scores.json")
    del scores["chosen"]["scores"][KEYS["kid"]]
    write_json(runs[2] / "scores.json", scores)
    found = analyse(*gather(runs))
    assert to_markdown(Content(found)).count("(2 of 3 seeds)") == 1
    assert terminal_text(found, 200).count("2 of 3 seeds") == 1


def test_a_failed_run_of_no_row_is_named(incomplete):
    unscored(write_run(incomplete, "autoregressive/vqgan_gpt", 0), "interrupted")
    assert Content(analyse(*gather([incomplete]))).missing[1] == (
        "vqgan_gpt (vqgan_gpt-au000000) is in no row: seed 0 is interrupted."
    )


def test_a_study_knows_runs_that_never_began(incomplete):
    write_run(incomplete, "diffusion/ldm", 3)
    write_run(incomplete, "diffusion/ldm", 7)
    write_ledger(incomplete)
    found = analyse(*read_study(incomplete, "iso").gather())
    rows = {group.label: group.seeds_text for group in found.leaderboard.groups}
    assert rows == {"ldm": "4 seeds", "gan_int_cls": "2 of 4 seeds"}, "seed 7 is not the study's"
    (said,) = Content(found).missing
    assert said.endswith("seed 2 failed: CUDA out of memory; seed 3 is missing.")


def test_unknown_and_unscored_studies_are_told(incomplete):
    write_ledger(incomplete)
    with pytest.raises(RunError, match=r"no study other \(it has: iso\)"):
        read_study(incomplete, "other")
    for run in incomplete.glob("*/scores.json"):
        run.unlink()
    with pytest.raises(RunError, match="no run of study iso is scored"):
        read_study(incomplete, "iso").gather()


def test_a_ledger_that_cannot_be_read_is_named(incomplete):
    write_ledger(incomplete)
    (incomplete / "studies" / "iso" / "ldm-di000000.json").write_text("{")
    with pytest.raises(RunError, match="iso holds a file that cannot be read"):
        read_study(incomplete, "iso")
