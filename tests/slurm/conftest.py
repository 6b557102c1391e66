"""The cluster, and the real command on it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm import cluster as slurm

ROOT = Path(__file__).parents[2]
SMALL = [
    "model=gan/fast_painter",
    "budget=images",
    "data.source.num_train=192",
    "data.source.num_val=64",
    "data.source.num_test=160",
    "protocol.test.num_images=160",
    "protocol.test.reference_size=160",
    "protocol.front.num_images=16",
    "protocol.front.reference_size=16",
    "protocol.cost_seconds=0.05",
    "trainer=cpu",
    "trainer.log_every_images=32",
]


def pytest_collection_modifyitems(config, items):
    """A cluster is started (and Debian's packages installed) for those alone who ask for it."""
    if "slurm" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("slurm"):
                item.add_marker(pytest.mark.skip(reason="starts a SLURM cluster: make test-slurm"))


@pytest.fixture(scope="session", autouse=True)
def cluster():
    """Up for all tests; stopped if it was not up before."""
    before = slurm.is_up()
    slurm.up()
    yield slurm
    if not before:
        slurm.down()


class Place:
    """A folder of runs, and what is done with it."""

    def __init__(self, root, cache):
        self.runs = root / "runs"
        self.environment = slurm.environment() | {
            "T2IBENCH_RUNS": str(self.runs),
            "T2IBENCH_CACHE": str(cache),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "disabled",
        }

    def started(self, *words, **options):
        """`t2ibench WORDS`, running."""
        return subprocess.Popen(
            [sys.executable, "-m", "t2ibench.cli.main", *words],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **options,
        )

    def trained(self, *words):
        """`t2ibench train WORDS` with small data, to its end."""
        process = self.started("train", *SMALL, *words)
        told, _ = process.communicate(timeout=400)
        return process.returncode, told

    def sweep(self, *words):
        """A study on the cluster, running."""
        return self.started("train", *SMALL, *QUEUED, *words, "-m")

    def logs(self, study):
        """Everything that the jobs of a study wrote."""
        files = sorted((self.runs / "studies" / study / "jobs").glob("*/*_log.*"))
        return "\n".join(file.read_text(errors="replace") for file in files)


QUEUED = [
    "hydra/launcher=submitit_slurm",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=2",
    "hydra.launcher.timeout_min=60",
]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path, cache):
    yield Place(tmp_path, cache)
    slurm.asked("scancel", "--user=root")


def finish(process, seconds=400):
    """Waits for a launcher; queued-again jobs start at once, not after SLURM's two minutes."""
    end = time.monotonic() + seconds
    while process.poll() is None:
        hurry()
        assert time.monotonic() < end, process.communicate(timeout=5)[0]
        time.sleep(1)
    return process.returncode, process.communicate()[0]


def hurry():
    """Lets jobs that wait for their time begin."""
    waiting = slurm.asked("squeue", "--noheader", "--states=PD", "--format=%A %r")
    for line in waiting.splitlines():
        number, reason = line.split(maxsplit=1)
        if reason == "BeginTime":
            slurm.asked("scontrol", "update", f"JobId={number}", "StartTime=now")


def until(condition, seconds=120):
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s"
        time.sleep(0.3)
