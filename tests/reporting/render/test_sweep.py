from run_folders import MODELS, write_ledger

from t2ibench.cli.main import main
from t2ibench.reporting import read_study, sweep_definition


def test_a_sweep_file_lists_the_study_as_a_grid(incomplete):
    write_ledger(incomplete)
    found = sweep_definition(read_study(incomplete, "iso"), "lab")
    assert found["method"] == "grid" and (found["name"], found["project"]) == ("iso", "lab")
    assert found["parameters"] == {
        "model": {"values": sorted(MODELS, reverse=True)},
        "seed": {"values": ["0", "1", "2", "3"]},
    }
    assert found["command"] == [
        "t2ibench",
        "train",
        "budget=demo",
        "logger=wandb",
        "${args_no_hyphens}",
    ]
    (incomplete / "studies" / "iso" / "ldm-di000000.json").unlink()
    assert sweep_definition(read_study(incomplete, "iso"), "lab") is None, "no full grid"


def test_what_an_agent_types_is_a_configuration_of_ours(incomplete, tmp_path, capsys):
    """W&B's own functions read the file and fill the command in."""
    from wandb.sdk.launch.sweeps.utils import (
        create_sweep_command,
        create_sweep_command_args,
        load_sweep_config,
    )

    from t2ibench.cli.compose import compose_config

    write_ledger(incomplete, typed=("diffusion/ldm", "gan/fast_painter"))
    out = tmp_path / "out"
    assert main(["compare", "study=iso", f"runs={incomplete}", f"out={out}"]) == 0
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
        assert cfg["model"]["name"] == model and cfg["seed"] == 1
        assert cfg["logger"]["wandb"] is not None
