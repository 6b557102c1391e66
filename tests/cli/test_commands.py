"""The command line as a user types it: light verbs, sentences for mistakes, the installed wheel."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from t2ibench.cli.arguments import parse_arguments
from t2ibench.cli.compose import compose_spec
from t2ibench.cli.main import VERBS, main
from t2ibench.core.errors import ConfigError

ROOT = Path(__file__).parents[2]
LIGHT = """
import sys
from t2ibench.cli.main import main
try:
    code = main({arguments!r})
except SystemExit as leaving:
    code = leaving.code
names = ("torch", "transformers", "open_clip", "pytorch_lightning", "wandb")
heavy = [m for m in names if m in sys.modules]
print("HEAVY", heavy, file=sys.stderr)
sys.exit(code)
"""


def t2ibench(*arguments, cwd=None, env=None):
    return subprocess.run(
        [sys.executable, "-m", "t2ibench", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | (env or {}),
        check=False,
    )


@pytest.mark.parametrize(
    "arguments", [["--help"], ["doctor"], ["train", "--cfg", "job"], ["train", "--help"]]
)
def test_light_verbs_import_nothing_heavy(arguments):
    script = LIGHT.format(arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stderr


def test_every_verb_has_help(capsys):
    for verb in VERBS:
        if verb != "train":
            assert main([verb, "--help"]) == 0
            assert len(capsys.readouterr().out) > 60, verb


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fly"], "is not a verb"),
        (["train", "model.colour=red"], "is not a configuration key"),
        (["train", "model=gan/nope"], "choose"),
        (["train", "protocol.choose_by=taste"], "choose fd, kid"),
        (["train", "evaluator.extractors=null"], "protocol.choose_by=null"),
        (["train", "conditioning=telepathy"], "choose concat, modulation, cross_attention"),
        (["train", "data.resolution=33", "model=diffusion/fast_unet"], "multiple of 2"),
        (["train", "data.resolution=34", "model=autoregressive/fast_gpt"], "multiple of 4"),
        (["train", "budget.amount=-1"], "greater than 0"),
        (["train", "budget=flops", "budget.unit=joules"], "budget.unit=joules is unknown"),
        (["train", "seed=-1"], "seed=-1 must be greater than or equal to 0"),
        (["train", "data.level=L9"], "L9"),
        (["train", "text=clip_vit_l14", "text.path=/nowhere"], "/nowhere"),
        (["sample"], "needs a run folder"),
        (["sample", "nowhere", "a ring"], "not a run folder"),
        (["compare", "nowhere"], "scores.json"),
        (["data", "prepare"], "data takes"),
        (["doctor", "x=1"], "no arguments"),
        (["score", "nowhere_at_all"], "nowhere_at_all"),
    ],
)
def test_a_mistake_is_one_sentence_before_any_work(arguments, words, tmp_path):
    done = t2ibench(
        *arguments, cwd=tmp_path, env={"T2IBENCH_RUNS": "runs", "T2IBENCH_CACHE": "cache"}
    )
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_options_are_checked_by_name():
    given = parse_arguments(
        "sample", ["run", "a=b c", "seed=3", "knobs.psi=0.5"], {"seed": "0", "a": ""}
    )
    assert given.words == ["run"] and given.options == {"seed": "3", "a": "b c"}
    assert given.knobs == {"psi": 0.5}
    with pytest.raises(ConfigError, match="no option sed"):
        parse_arguments("sample", ["sed=3"], {"seed": "0"})
    with pytest.raises(ConfigError, match="number"):
        parse_arguments("sample", ["knobs.psi=much"], {"seed": "0"})


def test_seed_zero_is_a_seed():
    assert compose_spec(["seed=0"]).seed == 0


def test_installed_wheel_works_from_any_folder(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    wheel = next(tmp_path.glob("*.whl"))
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    env = {"PYTHONPATH": str(site)}
    done = t2ibench("train", "--cfg", "job", "model=gan/fast_painter", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "GAN" in done.stdout or "gan_int_cls" in done.stdout
    done = t2ibench(
        "info",
        "model=gan/fast_painter",
        "--json",
        cwd=tmp_path,
        env=env | {"T2IBENCH_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "gan/fast_painter"
    where = subprocess.run(
        [sys.executable, "-c", "import t2ibench; print(t2ibench.__file__)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | env,
        check=True,
    )
    assert str(site) in where.stdout
