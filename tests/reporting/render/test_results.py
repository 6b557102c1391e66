"""Every format in one folder, and the same as a W&B run."""

import json

from t2ibench.cli.main import main


def test_out_is_a_folder_of_every_format(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "tables"
    assert main(["compare", *map(str, study), f"out={out}"]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "comparisons.csv", "figures", "leaderboard.csv", "leaderboard.html", "leaderboard.json",
        "leaderboard.md", "leaderboard.tex",
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "not distinguishable" in printed
    assert "Holm's over all" in printed
    assert "on the front" in (out / "leaderboard.html").read_text(encoding="utf-8")


def test_compare_writes_a_wandb_run_offline(study, tmp_path, monkeypatch, capsys):
    from training.wandb_file import sessions

    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "tables"
    assert main(["compare", *map(str, study), f"out={out}", "--wandb"]) == 0
    assert "project t2ibench" in capsys.readouterr().out
    (told,) = sessions(out)
    assert told.run.job_type == "compare" and told.config["runs"][0].startswith("ldm")
    (row,) = told.history
    shown = {key.removesuffix(".path") for key in row if key.endswith(".path")}
    assert {"leaderboard", "verdicts", "Quality against training compute"} <= shown
    (file,) = out.glob(f"wandb/offline-run-*/files/{row['verdicts.path']}")
    verdicts = json.loads(file.read_text())
    at = verdicts["columns"].index("verdict")
    assert "not distinguishable" in {line[at] for line in verdicts["data"]}
    (chart,) = out.glob(f"wandb/offline-run-*/files/{row['Quality against training compute.path']}")
    assert "<svg" in chart.read_text() and "gan_int_cls" in chart.read_text()
    results = next(a for a in told.artifacts if a.type == "comparison")
    assert {e.path for e in results.manifest.contents} >= {"leaderboard.html", "leaderboard.json"}
