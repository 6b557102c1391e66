"""One of two processes that train together: torchrun two_ranks.py FOLDER NAME [RANK BATCH].

With RANK and BATCH that process sends itself SIGUSR1 when it fetches that batch.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from training.painter import OPTIONS, make_run, make_split, painter

from t2ibench.data.stream import BatchStream
from t2ibench.runs.clock import Budget
from t2ibench.training.devices import join_process_group, rank_from_launcher
from t2ibench.training.fit import fit


def main(folder, name, rank_of_signal=-1, when=-1):
    """Trains for 7 global batches of 8."""
    torch.set_num_threads(1)
    split = make_split()

    def stream(images_seen, rank, world_size):
        batches = BatchStream(
            split, batch_size=8, seed=5, images_seen=images_seen, rank=rank, world_size=world_size
        )
        for i, batch in enumerate(batches):
            if (rank, i) == (int(rank_of_signal), int(when)):
                os.kill(os.getpid(), signal.SIGUSR1)
            yield batch

    run = make_run(Path(folder), name)
    info = rank_from_launcher(2, 1)
    assert info is not None
    join_process_group(info)
    options = replace(OPTIONS, devices=2)
    fitted = fit(painter(), stream, run, Budget("images", 56), options, seed=1)
    sys.stdout.write(f"rank {os.environ['RANK']}: {fitted.clock.images_seen} {fitted.signal}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
