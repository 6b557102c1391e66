"""Scores measured in different ways are never in one column, and asking for it is refused."""

import pytest
from run_folders import KEYS, rewritten, write_run

from t2ibench.cli.main import main
from t2ibench.core.errors import ScoreError
from t2ibench.core.files import read_json, write_json
from t2ibench.reporting import gather
from t2ibench.reporting.render.sentences import key_sentences
from t2ibench.reporting.statistics.leaderboard import build_leaderboard

OTHER_CLIP = KEYS["clip_score"].replace("cc33dd44", "00ff00ff")


def rekeyed(run, *changes):
    """The run scored by another evaluator: parts of its keys replaced."""
    file = run / "scores.json"
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    return run


@pytest.fixture
def other_clip(tmp_path):
    """ldm, and a GAN whose CLIP-score comes from another CLIP."""
    return [
        write_run(tmp_path, "diffusion/ldm", 0),
        rekeyed(write_run(tmp_path, "gan/gan_int_cls", 0), (KEYS["clip_score"], OTHER_CLIP)),
    ]


def test_another_evaluator_is_another_column_and_no_pair(other_clip):
    board = build_leaderboard(*gather(other_clip))
    held = {
        key: [group.label for group in board.groups if group.score(key)]
        for key in board.keys
        if key.startswith("clip_score")
    }
    assert held == {KEYS["clip_score"]: ["ldm"], OTHER_CLIP: ["gan_int_cls"]}
    (said,) = key_sentences(board)
    assert said.startswith("CLIP-score in shapes-clip-v1 was measured in 2 ways")
    assert KEYS["clip_score"] in said and OTHER_CLIP in said


def test_one_metric_under_two_keys_is_refused_in_one_sentence(other_clip, capsys):
    assert main(["compare", *map(str, other_clip), "metric=clip_score"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0 and KEYS["clip_score"] in said and OTHER_CLIP in said
    assert f"t2ibench score {other_clip[1]} protocol=dev" in said
    assert main(["compare", *map(str, other_clip), "metric=grader_exact"]) == 0
    printed = capsys.readouterr().out
    assert "Exact" in printed and "CLIP-score" not in printed.split("Costs")[0]


def test_rows_without_a_common_score_are_refused(tmp_path):
    runs = [
        write_run(tmp_path, "diffusion/ldm", 0),
        rekeyed(
            write_run(tmp_path, "gan/gan_int_cls", 0),
            ("shapes/test:9f8e7d6c", "shapes/test:00000000"),
            ("prompts:1a2b3c4d", "prompts:00000000"),
        ),
    ]
    with pytest.raises(ScoreError, match="ldm and gan_int_cls share no score: ") as error:
        build_leaderboard(*gather(runs))
    assert KEYS["fd"] in str(error.value) and "test:00000000" in str(error.value)
    scores = read_json(runs[1] / "scores.json")
    scores["protocol"]["num_images"] = 48
    write_json(runs[1] / "scores.json", scores)
    with pytest.raises(ScoreError, match="their protocols have num_images 96 and 48"):
        build_leaderboard(*gather(runs))


def test_metrics_are_chosen_by_name_or_key(study):
    runs = gather(study)[0]
    named = build_leaderboard(runs, metrics=["fd", "density"])
    assert named.keys == (KEYS["fd"], KEYS["fd2"], KEYS["density"]) == named.all_keys
    assert build_leaderboard(runs, metrics=[KEYS["fd2"]]).keys == (KEYS["fd2"],)
    with pytest.raises(ScoreError, match="metric=fdd is not measured here; choose clip_score"):
        build_leaderboard(runs, metrics=["fdd"])


def test_a_row_without_the_metric_is_named(tmp_path, study):
    bare = rekeyed(write_run(tmp_path, "diffusion/ldm", 9, config={"x": 1}), ("kid[", "other["))
    with pytest.raises(ScoreError, match=r"has no kid, which the others have; score it again"):
        build_leaderboard(gather([*study, bare])[0], metrics=["kid"])


def against(root, name, reference, count=96):
    """A folder of images that was scored against a folder of pictures."""
    run = write_run(root, "diffusion/ldm", 0, model={"family": "external", "seed": None})
    run = run.rename(root / name)
    (run / "config.yaml").unlink()

    def change(scores):
        scores["model"] |= {"name": name, "data": reference}
        scores["protocol"] |= {"name": "folders", "num_images": count}
        scores["scoring"] = f"folders-{reference}-{count}"

    at = f"{reference}/test:{reference}|{count}"
    changes = (("shapes/test:9f8e7d6c|96", at), ("prompts:1a2b3c4d", f"prompts:{name}"))
    return rekeyed(rewritten(run, change), *changes)


def test_folders_against_two_references_are_scored_against_one(tmp_path, capsys):
    gen, other = against(tmp_path, "gen", "one"), against(tmp_path, "gen2", "two")

    def said():
        assert main(["compare", str(gen), str(other)]) == 2
        return capsys.readouterr().err

    advice = f"`t2ibench score {other} reference=FOLDER`, FOLDER being one, which gen"
    assert advice in said()
    more = against(tmp_path / "more", "gen2", "one", 48)
    (other / "scores").mkdir()
    (more / "scores.json").rename(other / "scores" / "folders-one-96.json")
    command = f"t2ibench compare {gen} {other} protocol=folders-one-96"
    assert f"both are scored under folders-one-96 as well: `{command}`" in said()


def test_folders_of_other_sizes_are_scored_at_the_smaller(tmp_path):
    runs = [against(tmp_path, "gen", "one"), against(tmp_path, "gen2", "one", 48)]
    with pytest.raises(
        ScoreError, match=r"reference=FOLDER protocol\.test\.num_images=48`.*gen .*likewise"
    ):
        build_leaderboard(*gather(runs))


def test_a_folder_beside_a_run_is_scored_under_its_protocol(tmp_path):
    gen, run = against(tmp_path, "gen", "one"), write_run(tmp_path, "gan/gan_int_cls", 0)
    for runs in ([gen, run], [run, gen]):
        with pytest.raises(ScoreError, match=f"`t2ibench score {gen} protocol=dev`"):
            build_leaderboard(*gather(runs))
