"""Trainings that are cut by signals and gone on with, and what must not differ afterwards."""

import csv
import os

import torch


def cut_at(batches, images_seen, cuts, seen):
    """A stream that notes its batches and sends a signal to its own process before some.

    Args:
        batches: what is streamed.
        images_seen: where it begins.
        cuts: images seen -> number of the signal; each is sent once.
        seen: gets the indices of every batch at its position.
    """
    for batch in batches:
        if images_seen in cuts:
            os.kill(os.getpid(), cuts.pop(images_seen))
        seen[images_seen] = batch.index.tolist()
        images_seen += len(batch)
        yield batch


def differences(one, other, path=""):
    """Where two nested states are not bit-equal."""
    if isinstance(one, torch.Tensor):
        alike = one.dtype == other.dtype and torch.equal(one, other)
        return [] if alike else [path]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{path}: {sorted(map(str, one.keys() ^ other.keys()))}"]
        return [d for k in one for d in differences(one[k], other[k], f"{path}/{k}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f"{path}: {len(one)} and {len(other)}"]
        return [
            d
            for i, pair in enumerate(zip(one, other, strict=True))
            for d in differences(*pair, f"{path}/{i}")
        ]
    return [] if one == other else [f"{path}: {one} and {other}"]


def kept_state(run):
    """The last checkpoint without Lightning's own counters."""
    state = torch.load(run.checkpoint, weights_only=True)
    return {name: state[name] for name in ("state_dict", "optimizer_states", "callbacks")}


def rows(run, name):
    """The rows of a curve."""
    path = run.path / name
    if not path.exists():
        return None
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Ticking:
    """A clock that ticks once a look, so that seconds too can be compared."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 0.25
        return self.now
