from run_folders import KEYS, write_run

from t2ibench.reporting import gather, read_run
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
