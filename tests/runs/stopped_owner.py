"""An owner that writes its count again and again: python stopped_owner.py FOLDER.

Its heartbeat is fast, so that a test need not wait for minutes.
"""

import sys
import time
from pathlib import Path

from t2ibench.core.errors import RunLostError
from t2ibench.core.files import write_json
from t2ibench.runs import lock


def work(folder):
    lock.HEARTBEAT_SECONDS = 0.05
    held = lock.OwnerLock(folder / ".lock")
    held.acquire()
    count = 0
    try:
        while True:
            count += 1
            write_json(folder / "count.json", count)
            if count == 1:
                print("begun", flush=True)
            time.sleep(0.01)
    except RunLostError as lost:
        print(lost, flush=True)
        held.release()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
