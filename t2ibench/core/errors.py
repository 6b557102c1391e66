"""The project's exceptions.

Every message is one sentence (or two) that names what was expected, what came,
where it is set and what to do; the command line prints it without a traceback.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError


def printable(text: str) -> str:
    r"""The text without characters that steer a terminal, as a file of others may hold.

    Example:
        >>> printable("red\x1b[31m")
        'red�[31m'
    """
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def first_line(error: BaseException) -> str:
    """First line of another library's error; of an unpickler's, without its advice to trust it."""
    if isinstance(error, UnpicklingError):
        return "it is no file of tensors"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def named_line(error: BaseException) -> str:
    """Class and first line of an error that nobody foresaw."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


class T2IBenchError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(T2IBenchError):
    """A configuration key is unknown, has an impossible value, or clashes with another."""


class MissingWeightsError(T2IBenchError):
    """Published weights are needed and are not on this machine."""


class DeviceError(T2IBenchError):
    """The devices that a run asks for are not there, or one of its processes died."""


class DataError(T2IBenchError):
    """A data set is absent, corrupt beyond its policy, or breaks its own contract."""


class ContentError(DataError, ValueError):
    """A file does not hold what its name says."""


class CheckpointError(T2IBenchError):
    """A checkpoint is absent, truncated, or does not fit the model."""


class DamagedError(CheckpointError):
    """A file of weights is gone or has not the bytes that were written.

    Attributes:
        path: the file.
    """

    def __init__(self, sentence: str, path: Path) -> None:
        super().__init__(sentence)
        self.path = path


class BudgetError(T2IBenchError):
    """A budget is not a positive number of images, FLOPs or seconds."""


class ScoreError(T2IBenchError):
    """A score is asked for that its inputs cannot give, or two keys would be mixed."""


class CostError(T2IBenchError):
    """A cost is asked for that cannot be counted."""


class NonFiniteLossError(T2IBenchError):
    """Training met a loss that is NaN or infinite."""


class RunError(T2IBenchError):
    """A run folder is missing, unfinished, or belongs to another configuration."""


class RunBusyError(RunError):
    """Another process works on the run."""


class RunLostError(RunBusyError):
    """This process worked on the run until another took it over."""
