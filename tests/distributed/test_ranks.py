"""The real command on two processes gives what it gives on one, at the same batch."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from distributed.same import assert_same_training

from t2ibench.core.files import read_json
from t2ibench.runs.folder import Run

pytestmark = pytest.mark.timeout(280)

ROOT = Path(__file__).parents[2]
SMALL = [
    "budget=images", "budget.amount=96", "budget.first_stage_images=96",
    "data.source.num_train=192", "data.source.num_val=64", "data.source.num_test=48",
    "protocol.test.num_images=48", "protocol.test.reference_size=48", "protocol.batch_size=8",
    "protocol.front.num_images=16", "protocol.front.reference_size=16",
    "protocol.cost_seconds=0.02", "protocol.knob_sweep=[1.0]",
    "trainer=cpu", "trainer.log_every_images=32", "trainer.progress=false",
]  # fmt: skip
MODELS = {
    "gan": "gan/fast_painter",
    "autoregressive": "autoregressive/fast_gpt",
    "diffusion": "diffusion/fast_unet",
}


class Place:
    """A folder of runs, and the command in it."""

    def __init__(self, root, cache):
        self.runs = root / "runs"
        self.environment = os.environ | {
            "T2IBENCH_RUNS": str(self.runs),
            "T2IBENCH_CACHE": str(cache),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    def started(self, family, *words, by=()):
        """`t2ibench train`, running."""
        command = ["-m", *by, "t2ibench.cli.main", "train", f"model={MODELS[family]}"]
        return subprocess.Popen(
            [sys.executable, *command, *SMALL, *words],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def trained(self, family, *words, **options):
        """`t2ibench train`, to its end."""
        process = self.started(family, *words, **options)
        told, _ = process.communicate(timeout=200)
        assert process.returncode == 0, told
        return self.run(family)

    def said(self, *words):
        """What `t2ibench WORDS` said."""
        command = [sys.executable, "-m", "t2ibench.cli.main", *map(str, words)]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=True
        ).stdout

    def run(self, family):
        """The family's only run."""
        (found,) = self.runs.glob(f"{family}-*")
        return Run.at(found)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, shared_cache):
    """A place where each family was trained by one process."""
    place = Place(tmp_path_factory.mktemp("alone"), shared_cache)
    for family in MODELS:
        place.trained(family)
    return place


@pytest.fixture
def place(tmp_path, shared_cache):
    return Place(tmp_path, shared_cache)


@pytest.mark.parametrize("family", MODELS)
def test_two_processes_train_as_one_does(alone, place, family):
    found, wanted = place.trained(family, "trainer.devices=2"), alone.run(family)
    assert_same_training(found, wanted)
    for folder in place.runs.glob("first_stage-*"):
        assert_same_training(Run.at(folder), Run.at(alone.runs / folder.name))


def test_torchrun_may_start_them(alone, place):
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    assert_same_training(place.trained("gan", "trainer.devices=2", by=launcher), alone.run("gan"))
    process = place.started("gan", "trainer.devices=4", by=launcher)
    told, _ = process.communicate(timeout=100)
    assert process.returncode and "are 4 processes" in told and "started 2" in told, told


OF_GANS = ["trainer.log_every_images=4"] + [
    # Adam turns rounding into whole steps where a gradient is all but zero.
    f"model.module.{player}_optimizer.eps=0.01"
    for player in ("generator", "discriminator")
]


def gan(place, folder, model, *words, by=()):
    """The run of a small GAN that ``train_gan.py`` trained."""
    script = [*by, str(ROOT / "tests/distributed/train_gan.py"), str(folder)]
    command = [sys.executable, *script, place.environment["T2IBENCH_CACHE"], model]
    environment = place.environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [*command, *OF_GANS, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (found,) = folder.iterdir()
    return Run.at(found)


@pytest.mark.parametrize(
    "model, words",
    [
        ("gan_int_cls", []),  # batch norm, over all ranks
        ("style_gan_t", ["trainer.strategy=fsdp"]),  # none
        *(
            pytest.param(model, words, marks=pytest.mark.slow)
            for model, words in [
                ("attn_gan", []),
                ("giga_gan", []),
                ("giga_gan", ["trainer.strategy=fsdp"]),
                ("giga_upsampler", ["trainer.strategy=fsdp"]),
                ("giga_upsampler", []),
                ("stack_gan_1", []),
                ("stack_gan_2", []),
                ("stack_gan_v2", []),
                ("style_gan_t", []),
            ]
        ),
    ],
)
def test_a_gan_trains_on_two_processes_as_on_one(place, tmp_path, model, words):
    # Groups of StyleGAN-T's judge are whole on each rank; a lazy penalty falls due.
    own = {"style_gan_t": ["model.module.discriminator.group=2"]}.get(model, [])
    if model.startswith("giga"):
        own += ["model.module.r1_gamma=0" if words else "model.module.r1_interval=2"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    wanted = gan(place, tmp_path / "one", f"gan/{model}", *own)
    words = [*own, *words, "trainer.devices=2"]
    found = gan(place, tmp_path / "two", f"gan/{model}", *words, by=launcher)
    # The estimate of a spectral norm is each rank's own work.
    assert_same_training(found, wanted, images=16, flops=5e-3)


@pytest.mark.parametrize("family", ["autoregressive", "diffusion"])
def test_sharded_weights_train_as_whole_ones_do(alone, place, family):
    shutil.copytree(alone.runs, place.runs, ignore=shutil.ignore_patterns(f"{family}-*"))
    found = place.trained(family, "trainer.devices=2", "trainer.strategy=fsdp")
    assert_same_training(found, alone.run(family))


@pytest.mark.parametrize("family", MODELS)
def test_samples_and_scores_are_those_of_one_process(alone, place, family):
    shutil.copytree(alone.runs, place.runs)
    run, wanted = place.run(family), alone.run(family)
    shutil.rmtree(run.path / "samples")
    run.scores.unlink()
    run.set_status("trained", clock=run.status()["clock"])
    assert "scored" in place.said("score", run.path, "trainer=cpu", "trainer.devices=2")
    assert_same_samples_and_scores(run, wanted)


def assert_same_samples_and_scores(run, wanted):
    sets = sorted(path.name for path in (wanted.path / "samples").iterdir())
    assert sets == sorted(path.name for path in (run.path / "samples").iterdir())
    for path in (wanted.path / "samples").rglob("*.npy"):
        same = run.path / path.relative_to(wanted.path)
        assert same.read_bytes() == path.read_bytes(), path
    one, two = read_json(wanted.scores), read_json(run.scores)
    for part in ("chosen", "front", "reference", "knob", "protocol"):
        assert one[part] == two[part], part


def until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"waited {seconds} s"
        time.sleep(0.01)


def test_drawing_that_was_killed_goes_on_on_more_devices(alone, place):
    family = "autoregressive"
    shutil.copytree(alone.runs, place.runs)
    run, wanted = place.run(family), alone.run(family)
    shutil.rmtree(run.path / "samples")
    run.scores.unlink()
    run.set_status("trained", clock=run.status()["clock"])
    process = place.started(family)
    until(lambda: list(run.path.glob("samples/*/parts-*/*.safetensors")), process)
    process.kill()
    process.communicate()
    kept = {
        path: path.stat().st_mtime_ns for path in run.path.glob("samples/*/parts-*/*.safetensors")
    }
    assert kept and not run.scores.exists()
    place.trained(family, "trainer.devices=2")
    assert_same_samples_and_scores(run, wanted)


def test_a_dead_rank_ends_the_run_and_another_number_goes_on(alone, place):
    family = "autoregressive"
    shutil.copytree(alone.runs, place.runs, ignore=shutil.ignore_patterns(f"{family}-*"))
    words = ["trainer.checkpoint_every_seconds=0", "trainer.devices=2", "trainer.strategy=fsdp"]
    process = place.started(family, *words)
    until(lambda: list(place.runs.glob(f"{family}-*/checkpoints/last.ckpt")), process)
    (peer,) = psutil.Process(process.pid).children()
    peer.kill()
    told, _ = process.communicate(timeout=100)
    assert process.returncode == 2, told
    assert f"rank 1 (exit {-signal.SIGKILL}) of this run ended early" in told
    assert "Traceback" not in told
    run = place.run(family)
    assert not run.trained
    place.trained(family)  # alone, from the sharded run's checkpoint
    assert_same_training(run, alone.run(family))


@pytest.mark.parametrize(
    "words, said",
    [
        (["trainer.devices=3"], "training.batch_size=32 is the whole batch, which 3 devices"),
        (["trainer.num_nodes=2"], "a scheduler must start a process for each device"),
        (["trainer.strategy=fsdp"], "fsdp shards over several devices"),
        (["trainer.strategy=fsdp", "trainer.devices=2"], "TextConditionalGAN lacks such a network"),
        (
            [
                "trainer.strategy=fsdp",
                "trainer.devices=2",
                "model=gan/giga_gan",
                "clip=none",
                "model.module.clip_weight=0",
            ],
            "set model.module.r1_gamma=0 or trainer.strategy=ddp",
        ),
        (["trainer.strategy=zero"], "trainer.strategy=zero is unknown"),
    ],
)
def test_what_cannot_be_is_said_first(place, words, said):
    process = place.started("gan", *words)
    told, _ = process.communicate(timeout=100)
    assert process.returncode == 2 and said in told and "Traceback" not in told, told
