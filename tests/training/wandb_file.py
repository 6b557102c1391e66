"""Reads a W&B transaction log (.wandb), which is no public format, for tests alone.

A 7-byte header, then LevelDB log blocks of 32 KiB: crc32, length, type (1 whole, 2 first,
3 middle, 4 last), data; each record is a protobuf ``Record``. A cut tail is tolerated.
"""

import json
import struct
from dataclasses import dataclass, field

from wandb.proto import wandb_internal_pb2 as pb

BLOCK = 32768


@dataclass
class WandbFile:
    """What one session wrote."""

    run: pb.RunRecord | None = None
    config: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    artifacts: list = field(default_factory=list)
    exit_code: int | None = None


def records(path):
    """The records of a log."""
    data, position, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if kind == 0 or position + 7 + length > len(data):
            return
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            record = pb.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def items(found):
    """Key (joined by dots where nested) and value of each item."""
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in found}


def read_wandb(path):
    """The content of a log, the later of equal keys kept."""
    read = WandbFile()
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            read.run = record.run
            read.config |= items(record.run.config.update)
        elif kind == "config":
            read.config |= items(record.config.update)
        elif kind == "history":
            read.history.append(items(record.history.item))
        elif kind == "summary":
            read.summary |= items(record.summary.update)
        elif kind == "artifact":
            read.artifacts.append(record.artifact)
        elif kind == "exit":
            read.exit_code = record.exit.exit_code
    return read


def sessions(folder):
    """Every session's content under ``folder``/wandb, the earliest first."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda f: f.stat().st_mtime_ns)
    return [read_wandb(file) for file in files]
