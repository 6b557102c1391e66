"""A sweep whose process is killed again and again, as a cluster does: python chaos.py FOLDER.

Every attempt is a fork of one process that has imported everything and started no thread, so that
a kill costs no start-up. Writes what happened to FOLDER/kills.json.
"""

import importlib
import json
import os
import pkgutil
import random
import signal
import sys
import time
from pathlib import Path

import torch

import t2ibench
from t2ibench.cli.main import main

KILLS = 20
COMMAND = [
    "train", "-m",
    "model=gan/fast_painter,autoregressive/fast_gpt",
    "budget=images", "budget.amount=192", "budget.first_stage_images=64",
    "model.training.batch_size=16",
    "data.source.num_train=96", "data.source.num_val=32", "data.source.num_test=48",
    "protocol.test.num_images=48", "protocol.test.reference_size=48",
    "protocol.front.num_images=8", "protocol.front.reference_size=8",
    "protocol.knob_sweep=[1.0]", "protocol.cost_seconds=0.01",
    "trainer=cpu", "trainer.progress=false", "trainer.log_every_images=48",
    "trainer.checkpoint_every_seconds=0",
]  # fmt: skip


def attempt(folder, log):
    """A child that types the sweep's command."""
    child = os.fork()
    if child:
        return child
    os.environ |= {"T2IBENCH_RUNS": str(folder / "runs"), "T2IBENCH_CACHE": str(folder / "cache")}
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        code = main(COMMAND)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(child):
    """The exit status of a child that is through, else None."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def waited(child):
    """The exit status of a child, waited for."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(folder):
    """An undisturbed sweep; then one killed at random moments, in a new folder when it is through.

    The last sweep is left alone in the end. Forks find everything imported.
    """
    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(t2ibench.__path__, "t2ibench."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    chance, kills, sweeps = random.Random(0), [], 1
    began = time.monotonic()
    assert waited(attempt(folder / "whole", folder / "whole.log")) == 0, "the sweep itself fails"
    took = time.monotonic() - began
    while len(kills) < KILLS:
        number = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
        child = attempt(folder / f"killed{sweeps}", folder / "killed.log")
        time.sleep(chance.uniform(0.1, took / 6))
        status = ended(child)
        if status is None:
            os.kill(child, number)
            status = waited(child)
        if status == 0:  # it was through before
            sweeps += 1
        else:
            kills.append({"signal": number.name, "status": status, "sweep": sweeps})
    last = waited(attempt(folder / f"killed{sweeps}", folder / "killed.log"))
    told = {"kills": kills, "took": took, "last": last, "total": time.monotonic() - began}
    (folder / "kills.json").write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
