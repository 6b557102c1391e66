"""Failed, interrupted and missing cells are marked, never averaged over in silence."""

import json

import pytest
import yaml
from run_folders import KEYS, write_run

from t2ibench.cli.main import main
from t2ibench.core.errors import RunError
from t2ibench.core.files import read_json, write_json
from t2ibench.report.analysis import analyse, hole_sentences
from t2ibench.report.document import document
from t2ibench.report.formats import to_markdown
from t2ibench.report.holes import gather
from t2ibench.report.studies import read_study, sweep_definition
from t2ibench.report.tables import leaderboard
from t2ibench.report.terminal import terminal_text

MODELS = ("diffusion/ldm", "gan/gan_int_cls")


def unscored(run, state, reason=""):
    """The run as it lies when it was never scored."""
    (run / "scores.json").unlink()
    extra = {"reason": reason} if reason else {}
    write_json(run / "status.json", {"state": state, "identity": "x"} | extra)
    return run


@pytest.fixture
def holed(tmp_path):
    """Two models by three seeds: one seed of the GAN failed, a first stage beside them."""
    runs = {(m, s): write_run(tmp_path, m, s) for m in MODELS for s in range(3)}
    unscored(runs["gan/gan_int_cls", 2], "failed", "CUDA out of memory\nTraceback ...")
    stage = tmp_path / "first_stage-kl_f2-42810ee2"
    stage.mkdir()
    (stage / "config.yaml").write_text(yaml.safe_dump({"first_stage": {"name": "kl_f2"}}))
    write_json(stage / "status.json", {"state": "finished", "identity": "y"})
    return tmp_path


def test_a_failed_seed_marks_its_row(holed):
    board = leaderboard(*gather([holed]))
    rows = {group.label: group for group in board.groups}
    assert rows["ldm"].seeds_text == "3 seeds" and rows["gan_int_cls"].seeds_text == "2 of 3 seeds"
    assert rows["gan_int_cls"].cell(KEYS["fd"]).seeds == 2
    assert hole_sentences(board) == [
        "gan_int_cls has 2 of 3 seeds: seed 2 failed: CUDA out of memory."
    ]
    found = analyse(board)
    assert "gan_int_cls has 2 of 3 seeds" in found.pairs[0].caveat
    for text in (terminal_text(found, 160), to_markdown(found), json.dumps(document(found))):
        assert "2 of 3" in text and "CUDA out of memory" in text and "Traceback" not in text


def test_a_seed_that_others_have_marks_a_row(tmp_path):
    for model, seeds in zip(MODELS, (3, 2), strict=True):
        for seed in range(seeds):
            write_run(tmp_path, model, seed)
    board = leaderboard(*gather([tmp_path]))
    assert hole_sentences(board) == ["gan_int_cls has 2 of 3 seeds: other rows have more."]


def test_a_score_of_fewer_seeds_than_its_row_is_marked(tmp_path):
    runs = [write_run(tmp_path, "diffusion/ldm", seed) for seed in range(3)]
    scores = read_json(runs[2] / "scores.json")
    del scores["chosen"]["scores"][KEYS["kid"]]
    write_json(runs[2] / "scores.json", scores)
    found = analyse(leaderboard(*gather(runs)))
    assert to_markdown(found).count("(2 of 3 seeds)") == 1
    assert terminal_text(found, 200).count("2 of 3 seeds") == 1


def test_a_failed_run_of_no_row_is_named(holed):
    unscored(write_run(holed, "autoregressive/vqgan_gpt", 0), "interrupted")
    board = leaderboard(*gather([holed]))
    assert hole_sentences(board)[1] == (
        "vqgan_gpt (vqgan_gpt-au000000) is in no row: seed 0 is interrupted."
    )


def ledger(root, name="iso"):
    """The study's ledger: one JSON file a cell."""
    for number, (model, seed) in enumerate([(m, s) for m in MODELS for s in range(4)]):
        run = f"{model.split('/')[-1]}-{model[:2]}{seed:06d}"
        cell = {"run": run, "overrides": [f"model={model}", f"seed={seed}", "budget=demo"]}
        write_json(root / "studies" / name / f"{number}.json", cell)


def test_a_study_knows_cells_that_never_began(holed):
    write_run(holed, "diffusion/ldm", 3)
    write_run(holed, "diffusion/ldm", 7)
    ledger(holed)
    board = leaderboard(*read_study(holed, "iso").gather())
    rows = {group.label: group.seeds_text for group in board.groups}
    assert rows == {"ldm": "4 seeds", "gan_int_cls": "2 of 4 seeds"}, "seed 7 is not the study's"
    (said,) = hole_sentences(board)
    assert said.endswith("seed 2 failed: CUDA out of memory; seed 3 is missing.")


def test_unknown_and_unscored_studies_are_told(holed):
    ledger(holed)
    with pytest.raises(RunError, match="no study other .* the studies are iso"):
        read_study(holed, "other")
    for run in holed.glob("*/scores.json"):
        run.unlink()
    with pytest.raises(RunError, match="no cell of study iso is scored"):
        read_study(holed, "iso").gather()


def test_a_sweep_file_lists_the_study_as_a_grid(holed):
    ledger(holed)
    found = sweep_definition(read_study(holed, "iso"), "lab")
    assert found["method"] == "grid" and (found["name"], found["project"]) == ("iso", "lab")
    assert found["parameters"] == {
        "model": {"values": list(MODELS)},
        "seed": {"values": ["0", "1", "2", "3"]},
    }
    assert found["command"] == [
        "t2ibench",
        "train",
        "budget=demo",
        "logger=wandb",
        "${args_no_hyphens}",
    ]
    (holed / "studies" / "iso" / "0.json").unlink()
    assert sweep_definition(read_study(holed, "iso"), "lab") is None, "no full grid"


def test_what_an_agent_types_is_a_configuration_of_ours(holed, tmp_path, capsys):
    """W&B's own functions read the file and fill the command in."""
    from wandb.sdk.launch.sweeps.utils import (
        create_sweep_command,
        create_sweep_command_args,
        load_sweep_config,
    )

    from t2ibench.cli.compose import compose_config

    ledger(holed)
    out = tmp_path / "out"
    assert main(["compare", "study=iso", f"runs={holed}", f"out={out}"]) == 0
    capsys.readouterr()
    found = load_sweep_config(str(out / "sweep.yaml"))
    for model in found["parameters"]["model"]["values"]:
        chosen = {"model": model, "seed": found["parameters"]["seed"]["values"][1]}
        args = {"args": {name: {"value": value} for name, value in chosen.items()}}
        filled = create_sweep_command_args(args)["args_no_hyphens"]
        command = create_sweep_command(list(found["command"]))
        at = command.index("${args_no_hyphens}")
        typed = [*command[:at], *filled, *command[at + 1 :]]
        assert typed[:2] == ["t2ibench", "train"]
        cfg = compose_config(typed[2:])
        assert cfg.model.name == model and cfg.seed == 1 and cfg.logger.wandb is not None
