"""One of several processes that want a lock: python contend.py FOLDER SECONDS CHANCE_OF_DEATH.

While it holds the lock it makes a file that nobody else may have made: two holders would fail.
It prints how often it held. With a chance it dies holding it, without a word, as a killed one.
"""

import os
import random
import sys
import time
from pathlib import Path

from t2ibench.core.errors import RunBusyError
from t2ibench.runs.lock import OwnerLock


def contend(folder, seconds, dies):
    held, end, chance = 0, time.monotonic() + seconds, random.Random(os.getpid())
    proof = folder / "held"
    while time.monotonic() < end:
        lock = OwnerLock(folder / ".lock")
        try:
            lock.acquire()
        except RunBusyError:
            time.sleep(0.001)
            continue
        os.close(os.open(proof, os.O_CREAT | os.O_EXCL))
        time.sleep(chance.random() * 0.003)
        proof.unlink()
        held += 1
        if chance.random() < dies:
            break
        lock.release()
    print(held, flush=True)
    os._exit(0)  # no release, no exit handlers


if __name__ == "__main__":
    contend(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
