"""One of two processes that train a small GAN: torchrun train_gan.py FOLDER CACHE MODEL WORDS."""

import sys
from pathlib import Path

import torch
from contract.models import BATCH, Case

from t2ibench.data.stream import BatchStream
from t2ibench.engine.fitting import options_of
from t2ibench.runs.clock import Budget
from t2ibench.runs.folder import Run
from t2ibench.training.devices import join_process_group, rank_from_launcher
from t2ibench.training.fit import fit

STEPS = 4


def main(folder, cache, model, *words):
    """Trains for a few batches, by the launcher's processes or alone."""
    torch.set_num_threads(1)
    case = Case(model, None, cache, *words)
    torch.manual_seed(0)
    module, train = case.module(), case.source.split("train")

    def stream(images_seen, rank, world_size):
        return BatchStream(
            train, batch_size=BATCH, seed=0, images_seen=images_seen,
            rank=rank, world_size=world_size,
        )  # fmt: skip

    options = options_of(case.composed, case.spec.model.training)
    info = rank_from_launcher(options.devices, 1)
    if info is not None:
        join_process_group(info)
    run = Run.named(Path(folder), "gan", {}).begin({})
    fitted = fit(module, stream, run, Budget("images", STEPS * BATCH), options, seed=0)
    if info is None or info.rank == 0:
        run.set_status("trained", clock=fitted.clock.state_dict())


if __name__ == "__main__":
    main(*sys.argv[1:])
